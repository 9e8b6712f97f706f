"""What makes a profile doubtful: said beside the plan, since the plan is as good as its profile.

Not here: profiles that are refused (profile.py).
"""

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.planner.profile import Profile

SUM_TOLERANCE = 0.15
"""How far the sum of the parts may be from the whole in a profile that is trusted."""


def remarks_on(profile: Profile) -> tuple[str, ...]:
    """The doubts, each a sentence. Raises ProfileError for a profile in which nothing takes time:
    any plan of it would be as good as any other."""
    if not profile.parts_s:
        raise ProfileError(
            f"none of the {len(profile.operators)} operators takes any time: profile the model"
            " again"
        )
    remarks = []
    pieces = profile.pieces()
    if len(pieces) > 1:
        loose = sum(len(piece) for piece in pieces[1:])
        remarks.append(
            f"no edge connects {loose} of the {len(profile.operators)} operators to the others"
            f" ({pieces[1][0]} is one): was the file, whose edges come last, cut off?"
        )
    ratio = profile.parts_over_whole
    if ratio is not None and abs(ratio - 1) > SUM_TOLERANCE:
        remarks.append(_disagreement(ratio, profile))
    if remark := _launch_bound(profile):
        remarks.append(remark)
    return tuple(remarks)


def _launch_bound(profile: Profile) -> str:
    """Of a GPU's profile, whose times are the kernels' own: what a step takes besides."""
    host_s, whole_s = (profile.metadata.get(name) for name in ("host_s", "whole_s"))
    if not (isinstance(host_s, float) and isinstance(whole_s, float) and host_s > whole_s):
        return ""
    return (
        f"the host takes {host_s * 1e3:.3g} ms to queue a pass and the GPU {whole_s * 1e3:.3g} ms"
        " to run it: steps take the host's time, which the plan does not balance; take larger"
        " minibatches"
    )


def _disagreement(ratio: float, profile: Profile) -> str:
    device = str(profile.metadata.get("device"))
    scaled = "parts_over_whole" in profile.metadata
    parts_s = profile.parts_s * (ratio if scaled else 1.0)
    figures = (
        f"the operators take {parts_s * 1e3:.3g} ms one by one, {ratio:.2f} times as long as the"
        " whole model"
    )
    if scaled:
        return (
            f"{figures}: its kernels are short beside the marks between them, so the plan scales"
            " their times to the whole; take larger minibatches"
        )
    if ratio > 1 and device == "cuda":
        return (
            f"{figures}: its kernels are short, so their times are mostly those of launching them"
            " from Python, and the plan balances launches; take larger minibatches"
        )
    if ratio > 1:
        return (
            f"{figures}: its operators are short beside what it takes to call and mark them, or the"
            " machine was busy; profile again, or take larger minibatches"
        )
    return (
        f"{figures}: the machine was busy, or the model works between its operators (Python,"
        " input/output), which a plan cannot see; profile again"
    )
