"""What all ranks of a launch agree on between two runs of steps, whatever their framework: through
the launch's store (store.py).

Not over the framework's own group: each has another kind, and some have none. Called between runs
only, since an answer may take some milliseconds.
"""

from pytest_dnnbench.messages import Place
from pytest_dnnbench.rank.store import store_of


class Agreement:
    """One rank's part in what the ranks agree on. All ranks must ask the same questions in the same
    order; `topic` keeps those of one place in the code apart from another's."""

    def __init__(self, place: Place, topic: str = "agreed") -> None:
        self._place = place
        self._asked = 0
        if place.world_size > 1:
            self._store = store_of(place, topic)

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
