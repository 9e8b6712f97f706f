"""What all ranks of a launch agree on between two runs of steps, whatever their framework: through
a file store in the launch's folder.

Not over the framework's own group: each has another kind, and some have none. Called between runs
only, since an answer may take some milliseconds.
"""

from datetime import timedelta

import torch.distributed as dist

from pytest_dnnbench.messages import Place


class Agreement:
    """One rank's part in what the ranks agree on. All ranks must ask the same questions in the same
    order; `topic` keeps those of one place in the code apart from another's."""

    def __init__(self, place: Place, topic: str = "agreed") -> None:
        self._place = place
        self._asked = 0
        if place.world_size > 1:
            self._store = dist.FileStore(f"{place.rendezvous}.{topic}", place.world_size)  # type: ignore[attr-defined] # torch's gap
            self._store.set_timeout(timedelta(seconds=place.timeout_s))

    def longest(self, seconds: float) -> float:
        """The largest of the seconds that the ranks give, the same on every rank, bit for bit."""
        if self._place.world_size == 1:
            return seconds
        self._asked += 1
        key, ranks = f"longest {self._asked}", range(self._place.world_size)
        self._store.set(f"{key}, rank {self._place.rank}", repr(seconds))
        if self._place.rank == 0:
            answers = [float(self._store.get(f"{key}, rank {rank}")) for rank in ranks]
            self._store.set(key, repr(max(answers)))
        return float(self._store.get(key))
