"""What the cases of a session share: the machine, the fork server, the devices, the data, the
cases on their way. Made at first use, for many sessions never measure anything.

Not here: which cases there are (combinations.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol

import pytest

from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.controller.case_run import CaseRun, Launcher, load
from pytest_dnnbench.controller.cluster import Cluster
from pytest_dnnbench.controller.engines import Engine
from pytest_dnnbench.controller.forkserver import PRELOAD, ForkServer
from pytest_dnnbench.controller.leases import Leases
from pytest_dnnbench.controller.machine import Machine, detect
from pytest_dnnbench.controller.node_placement import NodePlacements, TimeLimit
from pytest_dnnbench.controller.placement import Placements
from pytest_dnnbench.controller.rank_launcher import RankLauncher
from pytest_dnnbench.controller.ranks import RankDisplay, Ranks
from pytest_dnnbench.controller.slurm import time_left_s
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.mnist_files import MnistFiles, find_mnist
from pytest_dnnbench.results.records.preflight import PreflightEntry
from pytest_dnnbench.results.records.speed_up import SpeedUps
from pytest_dnnbench.results.verdicts.launch_plan import LaunchPlan
from pytest_dnnbench.session import state
from pytest_dnnbench.session.benchmark_file import is_timed
from pytest_dnnbench.session.combinations import Combinations
from pytest_dnnbench.session.compile_cache import CompileCache
from pytest_dnnbench.session.nodes import cluster_of, engine_of, stopping
from pytest_dnnbench.session.other_side import this_side
from pytest_dnnbench.session.settings import Settings
from pytest_dnnbench.text_file import TextFile, find_text

DOWNLOAD = "pytest_dnnbench.rank.workloads.mnist:download"


class LaunchKeeper(Protocol):
    """Keeps the launches of a session, so that an interrupted one can be continued."""

    def restore(self, name: str, run: CaseRun) -> None:
        """Gives a case the launches that an interrupted session has made of it."""

    def restore_pairs(self, name: str, run: CaseRun, other: CaseRun) -> None:
        """The same of a case that is measured on both sides."""

    def keep(
        self, name: str, run: CaseRun, *, side: Literal["A", "B"] = "A", number: int = 0
    ) -> None:
        """Keeps the newest launch of a case; of one of a pair, the side and the round's number."""


class Resources:
    """One per session, and one per xdist worker, which runs cases `side_by_side` with those of the
    other workers.

    Raises UsageError when the settings do not fit this machine."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        *,
        timed: bool = True,
        side_by_side: bool = False,
        announce: Callable[[str], None] = print,
        engine: Engine | None = None,
    ) -> None:
        self.catalog = catalog
        self.settings = settings
        self.server = ForkServer(preload_of(catalog), this_side(settings))
        self._timed = timed
        self._side_by_side = side_by_side
        self._announce = announce
        self.cluster = None if engine is None else self._connected(engine)
        try:
            self._fit()
        except BaseException:
            self.close()
            raise
        self.placements = (
            self._placements_here(self.machine, self.combinations.counts)
            if self.cluster is None
            else self._on_nodes(self.cluster)
        )
        self.compile_cache = CompileCache(self.machine.kind)
        self.runs: dict[str, CaseRun] = {}
        self.speed_ups = SpeedUps()
        self.progress: RankDisplay | None = None
        self.keeper: LaunchKeeper | None = None
        self.must_stay: dict[str, Any] = {}
        """Facts that a session which continues this one must have too."""
        self.launch_plan: LaunchPlan | None = None
        self.preflight: PreflightEntry | None = None
        self._mnist: MnistFiles | None = None
        self._text: TextFile | None = None

    def _connected(self, engine: Engine) -> Cluster:
        """The session's nodes. Raises UsageError."""
        _check_for_nodes(self.settings, side_by_side=self._side_by_side)
        return cluster_of(
            self.settings,
            engine,
            self.server,
            lambda: self._placements_here(_machine(self.settings), ()),
            timed=self._timed,
            announce=self._announce,
        )

    def _fit(self) -> None:
        """Finds the machine, and what its cases combine. Raises UsageError where the settings do
        not fit."""
        if self.cluster is None:
            self.machine = _machine(self.settings)
        else:
            self.machine = self.cluster.machine
        self.settings = self.settings.on(self.machine.kind)
        self.combinations = Combinations(self.settings, self.catalog, self.machine)

    def _placements_here(self, machine: Machine, counts: tuple[int, ...]) -> Placements:
        """The placements of this machine."""
        timeout_s, side_by_side = self.settings.lease_timeout, self._side_by_side
        return Placements(
            machine,
            Leases(timeout_s=timeout_s, announce=self._announce, needed=side_by_side),
            counts,
            timed=self._timed,
            side_by_side=side_by_side,
            server_pid=lambda: self.server.pid,
        )

    def _on_nodes(self, cluster: Cluster) -> NodePlacements:
        limit, left_s = None, time_left_s()
        if left_s is not None:
            limit = TimeLimit(left_s, stopping(self._announce, for_time=True))
        return NodePlacements(cluster, self.settings.lease_timeout, limit)

    def start(self) -> None:
        """Starts what forks ranks, whose imports take seconds, unless it is running: on nodes the
        agents have."""
        if self.cluster is None:
            self.server.start()

    def close(self) -> None:
        """Ends what forks ranks, here and on nodes, and with it any rank."""
        try:
            self.server.close()
        finally:
            if self.cluster is not None:
                self.cluster.close()

    def nodes_for(self, count: int) -> int:
        """How many nodes a launch of so many ranks takes."""
        return 1 if self.cluster is None else self.cluster.nodes_for(count)

    def ranks(self, world_size: int) -> Ranks:
        """So many ranks on this machine's devices."""
        return Ranks(
            self.server if self.cluster is None else None,
            self.machine.places(world_size),
            threads=self.placements.threads(world_size),
            timeout_s=self.settings.timeout,
            progress=self.progress,
            placements=self.placements,
        )

    def launcher(self, ranks: Ranks, spec: FrameworkSpec) -> Launcher:
        """How the run of a case reaches these ranks."""
        return RankLauncher(
            ranks,
            spec.planning,
            load(spec.rendezvous),
            self._machine_ranks(ranks),
            spec.prediction,
        )

    def _machine_ranks(self, ranks: Ranks) -> Ranks | None:
        """The rank, on each node, that measures the machine's own speed; None with GPUs, which the
        ranks of the launch measure (rank/gpu_yardstick.py)."""
        if self.machine.kind == "cuda":
            return None
        if isinstance(self.placements, NodePlacements):
            nodes = self.nodes_for(ranks.world_size)
            return Ranks(
                None,
                ["cpu"] * nodes,
                threads=1,
                timeout_s=self.settings.timeout,
                placements=self.placements.one_per_node(nodes),
            )
        threads, timeout_s = self.placements.threads(1), self.settings.timeout
        return Ranks(
            self.server, ["cpu"], threads=threads, timeout_s=timeout_s, placements=self.placements
        )

    def check(self) -> None:
        """Raises DataError for data that are not there, UsageError for what they cannot be used
        for; to be called before anything is measured."""
        self.mnist()
        self.text()

    def text(self) -> TextFile | None:
        """The text of the session, read once; None for other data."""
        if self.settings.dataset == "text" and self._text is None:
            assert self.settings.text is not None
            self._text = find_text(self.settings.text)
        return self._text

    def mnist(self) -> MnistFiles | None:
        """The MNIST files of the session, checked once, fetched if asked for; None for synthetic
        data."""
        settings = self.settings
        if settings.dataset != "mnist" or self._mnist is not None:
            return self._mnist
        assert settings.data_dir is not None
        try:
            self._mnist = find_mnist(settings.data_dir)
        except DataError:
            if not settings.download:
                raise
            self.ranks(1).launch(DOWNLOAD, settings.data_dir, returns=Any)
            self._mnist = find_mnist(settings.data_dir)
        most = max(self.combinations.counts)
        share = min(self._mnist.train_count, self._mnist.validate_count) // most
        if share < settings.batch_size and settings.scaling == "weak":
            raise DataError(
                f"--dnn-batch-size {settings.batch_size}: the data holds only {share} images per"
                f" rank for {most} ranks ({self._mnist.split}): use at most {share}"
            )
        return self._mnist


def preload_of(catalog: Catalog) -> tuple[str, ...]:
    """What the fork server imports: what every rank needs, and the installed frameworks."""
    installed = [spec for spec in catalog.frameworks.values() if not spec.missing()]
    return (*PRELOAD, *(name for spec in installed for name in spec.preload))


def _machine(settings: Settings) -> Machine:
    """The machine, with as many ranks on a GPU as asked for. Raises UsageError for that on CPU
    ranks, any number of which may run anyway."""
    machine, ranks = detect(settings.device), settings.ranks_per_gpu
    if ranks > 1 and machine.kind != "cuda":
        raise UsageError(
            f"--dnn-ranks-per-gpu {ranks} is for GPUs, and there is none ({machine.describe()}):"
            " leave it out; any number of CPU ranks runs, as with --gpus 4"
        )
    return replace(machine, ranks_per_gpu=ranks)


def resources(config: pytest.Config) -> Resources:
    """The session's resources. Raises pytest.UsageError when the settings do not fit the
    machine, or its nodes cannot be had: the same every time, for nodes may be waited for long."""
    if shared := resources_in_use(config):
        return shared
    if refused := config.stash.get(state.REFUSED, None):
        raise refused
    try:
        shared = Resources(
            state.settings(config),
            config.stash[state.CATALOG],
            timed=is_timed(config),
            side_by_side=state.is_xdist_worker(config),
            announce=lambda line: state.announce(config, line),
            engine=engine_of(state.settings(config), config.stash[state.ENGINES]),
        )
    except UsageError as error:
        refused = config.stash[state.REFUSED] = state.refused(error, config)
        raise refused from None
    state.keep(config, shared)
    return shared


def runs_on_nodes(config: pytest.Config) -> bool:
    """Whether the options, or the allocation that pytest runs in, name nodes."""
    try:
        return engine_of(state.settings(config), config.stash[state.ENGINES]) is not None
    except UsageError as error:
        raise state.refused(error, config) from None


def resources_in_use(config: pytest.Config) -> Resources | None:
    """The session's resources; None where nothing has asked for them."""
    return state.part_if_any(config, Resources)


def _check_for_nodes(settings: Settings, *, side_by_side: bool) -> None:
    """Raises UsageError for what works on one machine only."""
    if settings.against or settings.against_path or settings.against_env:
        raise UsageError("--dnn-against compares on one machine: leave it out on nodes")
    if settings.path:
        raise UsageError("--dnn-path is for one machine: set PYTHONPATH on nodes instead")
    if settings.ranks_per_gpu > 1:
        raise UsageError("--dnn-ranks-per-gpu is for one machine: leave it out on nodes")
    if side_by_side:
        raise UsageError("-n runs cases side by side on one machine: leave it out on nodes")
