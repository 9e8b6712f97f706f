"""A simulation that is obviously right: resources that take their jobs in order, tick by tick.

Each job names its resource, its length in whole ticks, and the jobs that must be done before it
begins; `ended` says when it was. In each tick, the first unfinished job of each resource advances
by one, if what it waits for was done when the tick began.
"""

from collections import deque
from dataclasses import dataclass, field


@dataclass
class Job:
    """`left` ticks of work on a resource."""

    resource: str
    left: int
    after: list["Job"] = field(default_factory=list)
    ended: int | None = None

    @property
    def done(self) -> bool:
        return self.ended is not None


def ticks(jobs: list[Job]) -> int:
    """How many ticks it takes until all jobs are done."""
    queues: dict[str, deque[Job]] = {}
    for job in jobs:
        queues.setdefault(job.resource, deque()).append(job)
    passed = 0
    while True:
        _finish(queues, passed)
        moving = [queue[0] for queue in queues.values() if queue and _may_run(queue[0])]
        if not any(queues.values()):
            return passed
        assert moving, "the jobs wait for each other"
        for job in moving:
            job.left -= 1
        passed += 1


def _may_run(job: Job) -> bool:
    return all(each.done for each in job.after)


def _finish(queues: dict[str, deque[Job]], now: int) -> None:
    """Ends the jobs that have no work left; one that never had any, when it is its turn."""
    moved = True
    while moved:
        moved = False
        for queue in queues.values():
            while queue and queue[0].left == 0 and _may_run(queue[0]):
                queue.popleft().ended = now
                moved = True
