"""The profile of a case: its model in the form of its step, taken on all ranks at the same time.

That is how ranks train: on one machine they share caches, memory and, where there are more ranks
than cores, the cores. Not here: what follows from a profile (rank/pipeline/planning.py,
rank/prediction.py).
"""

import torch

from pytest_dnnbench.messages import Place, RunRequest
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.rank.profiling.profile_cache import cached_profile
from pytest_dnnbench.rank.profiling.profiler import Effort
from pytest_dnnbench.rank.workloads.factory import workload_of


def case_profile(place: Place, request: RunRequest, effort: Effort | None = None) -> Profile:
    """This rank's profile. All ranks of the case call it after a barrier, for a rank that begins
    late leaves the others alone. Raises ProfileError and UsageError.

    The first rank of a machine keeps it for later sessions: of several, the last would win, and
    with the file a plan would change.
    """
    case = request.case
    torch.backends.cudnn.benchmark = case.form.cudnn_benchmark
    on_node = place.local_world_size > 0
    return cached_profile(
        request.model,
        case.image_size,
        case.batch_size,
        case.precision,
        place.device,
        threads=place.threads,
        workload=workload_of(request),
        form=case.form,
        beside=(place.local_world_size if on_node else place.world_size) - 1,
        effort=effort,
        keeps=(place.local_rank if on_node else place.rank) == 0,
    )
