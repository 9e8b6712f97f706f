"""Which worker of pytest-xdist runs which item: item i belongs to worker i mod n, for the whole
session.

Only a share that is fixed from the start lets a worker interleave its launches in rounds. Items of
a worker that died go to the others, as in xdist's own scheduling by load. Imports pytest-xdist: for
a distributed session only.
"""

from typing import Any

from xdist.scheduler import LoadScheduling

from pytest_dnnbench.session.state import xdist_worker_number


class Shares(LoadScheduling):  # type: ignore[misc] # xdist ships no types
    """xdist's scheduling by load with another first deal: everything at once."""

    collection: list[str] | None
    maxschedchunk: int | None

    def schedule(self) -> None:
        """Deals the items out; later calls do what LoadScheduling's do."""
        if self.collection is not None or not self._check_nodes_have_same_collection():
            super().schedule()
            return
        self.collection = items = list(next(iter(self.node2collection.values())))
        self.maxschedchunk = self.maxschedchunk or len(items)
        workers = {
            xdist_worker_number(node.gateway.id) % self.numnodes: node for node in self.nodes
        }
        dealt: dict[Any, list[int]] = {node: [] for node in self.nodes}
        for index in range(len(items)):
            dealt[workers.get(index % self.numnodes, self.nodes[0])].append(index)
        for node, share in dealt.items():
            self.node2pending[node].extend(share)
            if share:
                node.send_runtest_some(share)
            node.shutdown()
