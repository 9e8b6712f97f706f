"""The part of a launch that runs on another node, by way of the node's agent: its ranks as they are
seen from here.

Not here: the node itself (remote_node.py), and how this machine runs its part (launch_part.py).
"""

import selectors
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from pytest_dnnbench.controller import agent_messages as say
from pytest_dnnbench.controller.agent_link import ANSWER_S, AgentLink
from pytest_dnnbench.controller.launch_part import EXIT_S, RankTask
from pytest_dnnbench.controller.rank_process import Rank
from pytest_dnnbench.errors import DnnbenchError, LaunchError
from pytest_dnnbench.rank_status import RankStatus

LEAST_ANSWER_S = 1.0
"""How long an answer is waited for whose time has gone while others were waited for, or while this
process was stopped."""

SILENT_S = 5.0
"""How long an agent may leave a look unanswered before it is asked with little patience."""


@dataclass
class RemoteRank(Rank):
    """A rank on another node. `view` is what its agent last sent about it."""

    view: say.RankView = field(kw_only=True)
    killed_for_memory: bool = field(default=False, kw_only=True)

    @property
    def stopped(self) -> bool:
        """As Rank.stopped."""
        return self.view.stopped

    @property
    def status(self) -> RankStatus:
        """As Rank.status."""
        return self.view.status

    @property
    def timing_s(self) -> float:
        """As Rank.timing_s."""
        return self.view.timing_s

    @property
    def oom_killed(self) -> bool | None:
        """As Rank.oom_killed."""
        return self.killed_for_memory

    def last_output(self) -> str:
        """As Rank.last_output."""
        return self.view.output

    def stack_text(self) -> str:
        """As Rank.stack_text."""
        return self.view.stacks.strip()


class RemotePart:
    """The ranks of a launch on another node. Implements launch_part.LaunchPart."""

    def __init__(self, link: AgentLink, timeout_s: float) -> None:
        self.link = link
        self.timeout_s = timeout_s
        self._ranks: dict[int, RemoteRank] = {}
        self._starting: dict[int, int] = {}
        """The tokens of the ranks that the agent was asked to start."""
        self.begun = say.Begun(0, port=0, environments=[])
        """What the agent said when the launch had begun there."""
        self._beginning = self._confirming = self._gathering = self._ending = 0
        self._answer_by_s = 0.0

    @property
    def ranks(self) -> Sequence[RemoteRank]:
        """As LaunchPart.ranks."""
        return list(self._ranks.values())

    def begin(self, begin: say.Begin) -> None:
        """Asks the agent to begin the launch. Raises LaunchError."""
        self._beginning = self.link.ask(begin, self.timeout_s + ANSWER_S)

    def await_begin(self) -> None:
        """As LaunchPart.await_begin."""
        if self._beginning:
            token, self._beginning = self._beginning, 0
            self.begun = self.link.answer(token, say.Begun, self.timeout_s + ANSWER_S)

    def start(self, task: RankTask) -> RemoteRank:
        """Asks the node to start one rank, whose process is not known yet: meanwhile others are
        asked."""
        fields = {row: getattr(task, row) for row in task.__dataclass_fields__}
        fields["environment"] = dict(task.environment)
        number = task.place.rank
        self._starting[number] = self.link.ask(say.Spawn(**fields), self.timeout_s)
        view = say.RankView(number, RankStatus("start"), False, 0.0, "", "")
        self._ranks[number] = rank = RemoteRank(number, 0, node=self.link.name, view=view)
        return rank

    def await_starts(self) -> None:
        """As LaunchPart.await_starts. Where the node is lost meanwhile, its ranks say so."""
        while self._starting and self.link.pid is not None:
            number = next(iter(self._starting))
            token = self._starting.pop(number)
            try:
                self._ranks[number].pid = self.link.answer(token, say.Spawned, self.timeout_s).pid
            except DnnbenchError:
                if not self._ranks[number].lost:
                    del self._ranks[number]  # refused
                    raise

    def take(self, message: say.Message) -> None:
        """Takes what the agent sends of its ranks unasked."""
        match message:
            case say.AnswerChunk(rank=number, chunk=chunk):
                if rank := self._ranks.get(number):
                    rank.take(chunk)
            case say.RankExited(rank=number, code=code, oom_killed=oom_killed):
                if rank := self._ranks.get(number):
                    rank.exit_code, rank.killed_for_memory = code, oom_killed
            case say.Statuses(ranks=statuses):
                for number, status in statuses:
                    if rank := self._ranks.get(number):
                        rank.view = msgspec.structs.replace(rank.view, status=status)

    def lost(self, why: str) -> None:
        """The node was lost, and with it the ranks that still ran, or had just been killed: what
        ends a job step kills a rank before the agent, which then still says so."""
        for rank in self._ranks.values():
            if rank.exit_code in (None, -signal.SIGKILL):
                rank.lost = why

    def watch(self, selector: selectors.BaseSelector) -> None:
        """As LaunchPart.watch; nothing of a node that was lost."""
        if self.link.pid is None:
            return
        descriptor = self.link.fileno()

        def receive() -> None:
            try:
                self.link.receive()
            except LaunchError:  # its ranks say so
                selector.unregister(descriptor)

        selector.register(descriptor, selectors.EVENT_READ, receive)

    def look(self) -> None:
        """As LaunchPart.look; not while the last look is unanswered. A node that takes nothing in
        is lost."""
        if self.link.pid is None or self.link.silent_s > 0:
            return
        with suppress(LaunchError):
            self.link.tell(say.Poll())

    def ask_ends(self) -> None:
        """As LaunchPart.ask_ends."""
        self._confirming = self._ask(say.ConfirmEnds(), EXIT_S)

    def confirm_ends(self) -> None:
        """As LaunchPart.confirm_ends: the agent tells the ends before it answers. A node that does
        not answer is lost."""
        if self.link.pid is not None and self._confirming:
            with suppress(LaunchError):
                self.link.answer(self._confirming, say.Done, self._left_s())

    def ask_gather(self, *, stacks: bool) -> None:
        """As LaunchPart.ask_gather."""
        self._gathering = self._ask(say.Gather(stacks=stacks))

    def _ask(self, request: say.Request, work_s: float = 0.0) -> int:
        """Sends a request that takes the agent up to `work_s`, and waits less for a node that has
        been silent. Returns its token; 0 for a node that is lost."""
        if self.link.pid is None:
            return 0
        patience_s = LEAST_ANSWER_S if self.link.silent_s > SILENT_S else ANSWER_S + work_s
        with suppress(LaunchError):
            token = self.link.ask(request, patience_s)
            self._answer_by_s = time.monotonic() + patience_s
            return token
        return 0

    def gather(self) -> None:
        """As LaunchPart.gather. A node that does not answer is lost."""
        if self.link.pid is None or not self._gathering:
            return
        with suppress(LaunchError):
            self._view(self.link.answer(self._gathering, say.Gathered, self._left_s()))

    def reported(self) -> None:
        """As LaunchPart.reported."""
        self.link.call(say.Reported(), say.Done, ANSWER_S)

    @property
    def silence(self) -> LaunchError | None:
        """None: a silent node is noticed by `gather`."""
        return None

    def ask_end(self, orderly: bool) -> None:
        """As LaunchPart.ask_end."""
        self._ending = 0
        if self.link.pid is None:
            return
        for token in (*self._starting.values(), self._beginning):
            if token:  # a failure elsewhere came first
                self.link.forget(token)
        with suppress(LaunchError):
            if not orderly:
                self.link.tell(say.Kill())
            self._ending = self.link.ask(say.End(orderly=orderly))
            self._answer_by_s = time.monotonic() + 2 * EXIT_S + ANSWER_S

    def end(self, orderly: bool) -> None:
        """As LaunchPart.end. The agent of a node that was lost is waited for, too."""
        if self.link.pid is not None and self._ending:
            with suppress(LaunchError):
                self._view(self.link.answer(self._ending, say.Gathered, self._left_s()))
        if self.link.pid is None:
            self.link.await_close()

    def _left_s(self) -> float:
        return max(LEAST_ANSWER_S, self._answer_by_s - time.monotonic())

    def _view(self, gathered: say.Gathered) -> None:
        for view in gathered.ranks:
            if rank := self._ranks.get(view.number):
                rank.view = view
