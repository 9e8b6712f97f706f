"""What the cases of a session share: the machine, the fork server, the devices, the data, the
cases on their way. Made at first use, for many sessions never measure anything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol

import pytest

from pytest_dnnbench.case import devices_id
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
from pytest_dnnbench.controller.ranks import Progress, Ranks
from pytest_dnnbench.controller.slurm import time_left_s
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.mnist_files import MnistFiles, find_mnist
from pytest_dnnbench.results.records.preflight import PreflightEntry
from pytest_dnnbench.results.records.speed_up import SpeedUps
from pytest_dnnbench.results.verdicts.launch_plan import LaunchPlan
from pytest_dnnbench.session import shapes, state
from pytest_dnnbench.session.benchmark_file import is_timed
from pytest_dnnbench.session.compile_cache import CompileCache, check_compiler
from pytest_dnnbench.session.nodes import cluster_of, engine_of, stopping
from pytest_dnnbench.session.other_side import this_side
from pytest_dnnbench.session.settings import ALL, Settings
from pytest_dnnbench.session.shapes import Shapes
from pytest_dnnbench.step_form import FORM_FIELDS, StepForm
from pytest_dnnbench.text_file import TextFile, find_text

DOWNLOAD = "pytest_dnnbench.rank.data:download"


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
        installed = [spec for spec in catalog.frameworks.values() if not spec.missing()]
        self.server = ForkServer(
            (*PRELOAD, *(name for spec in installed for name in spec.preload)), this_side(settings)
        )
        here = partial(self._placements_here, timed=timed, side_by_side=side_by_side)
        self._announce = announce
        self.cluster: Cluster | None = None
        if engine is not None:
            _check_for_nodes(settings, side_by_side=side_by_side)
            self.cluster = cluster_of(
                settings,
                engine,
                self.server,
                lambda: here(_machine(settings), ()),
                timed=timed,
                announce=announce,
            )
        try:
            self._fit()
        except BaseException:
            self.close()
            raise
        self.placements = (
            here(self.machine, self.counts)
            if self.cluster is None
            else self._on_nodes(self.cluster)
        )
        self.compile_cache = CompileCache(self.machine.kind)
        self.runs: dict[str, CaseRun] = {}
        self.speed_ups = SpeedUps()
        self.progress: Progress | None = None
        self.keeper: LaunchKeeper | None = None
        self.must_stay: dict[str, Any] = {}
        """Facts that a session which continues this one must have too."""
        self.launch_plan: LaunchPlan | None = None
        self.preflight: PreflightEntry | None = None
        self._data: MnistFiles | None = None
        self._text: TextFile | None = None

    def _fit(self) -> None:
        """Finds the machine and the device counts. Raises UsageError where the settings do not
        fit."""
        if self.cluster is None:
            self.machine = _machine(self.settings)
        else:
            self.machine = self.cluster.machine
        self.settings = settings = self.settings.on(self.machine.kind)
        self.counts = settings.counts(self.machine.default_count)
        for count in self.counts:
            settings.batch_for(count)
        self._check_forms()
        self.shapes = Shapes(settings, self.catalog, self._specs(), self.counts)
        # Shapes fit by themselves; what the options alone would make is not run then.
        self._fitting = {
            spec.name: self.counts if self.shapes else self._fitting_counts(spec)
            for spec in self._specs()
        }

    def _placements_here(
        self, machine: Machine, counts: tuple[int, ...], *, timed: bool, side_by_side: bool
    ) -> Placements:
        """The placements of this machine."""
        timeout_s = self.settings.lease_timeout
        return Placements(
            machine,
            Leases(timeout_s=timeout_s, announce=self._announce, needed=side_by_side),
            counts,
            timed=timed,
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
        self.server.close()
        if self.cluster is not None:
            self.cluster.close()

    def nodes_for(self, count: int) -> int:
        """How many nodes a launch of so many ranks takes."""
        return 1 if self.cluster is None else self.cluster.nodes_for(count)

    def parameters(self, wanted: Sequence[str]) -> list[str]:
        """The wanted parameters, and the shape where the session has any and the test lets it
        choose both framework and count."""
        takes = bool(self.shapes) and {"framework", "gpus"} <= set(wanted)
        return [*wanted, *([shapes.FIXTURE] if takes else [])]

    def combinations(self, wanted: Sequence[str]) -> list[tuple[Any, ...]]:
        """Rows of the wanted parameters, in the order model, framework, count or shape: those on
        which a framework runs. Raises UsageError for a model that a framework cannot train."""
        if {"framework", "model"} <= set(wanted):
            self._check_models()
        rows: list[dict[str, Any]] = [
            {"framework": spec.name, "model": model, "gpus": count, shapes.FIXTURE: shape}
            for model, spec in itertools.product(self.settings.models, self._specs())
            for count, shape in self._sizes(spec, wanted)
        ]
        return list(dict.fromkeys(tuple(row[name] for name in wanted) for row in rows))

    def _sizes(self, spec: FrameworkSpec, wanted: Sequence[str]) -> list[tuple[int, str]]:
        """The counts that a framework runs on, each with a shape where tests have one."""
        if shapes.FIXTURE in wanted:
            return [(shape.gpus, str(shape)) for shape in self.shapes.of(spec)]
        fit = self._fitting[spec.name] if {"framework", "gpus"} <= set(wanted) else self.counts
        return [(count, "") for count in fit]

    def form(self, model: str, spec: FrameworkSpec | None = None) -> StepForm:
        """The form in which a framework runs a model's step, unless a test gives its own; without a
        framework, that of one which takes every form."""
        kind, path = self.machine.kind, self.catalog.model(model)
        return self.settings.form(kind, path, FORM_FIELDS if spec is None else spec.forms)

    def id_of(self, names: Sequence[str], row: Sequence[Any]) -> str:
        """The id of a combination: `ddp-resnet50-4gpu`, `tp-gpt-tiny-4gpu-tp2xdp2`, with the form
        where it is not the plain one."""
        values = dict(zip(names, row, strict=True))
        parts = [
            devices_id(value, self.nodes_for(value)) if name == "gpus" else str(value)
            for name, value in values.items()
        ]
        if "model" in values:
            name = values.get("framework")
            spec = None if name is None else self.catalog.framework(name)
            parts.append(self.form(values["model"], spec).label)
        return "-".join(filter(None, parts))

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
        """Raises UsageError for what no case can have on this machine, or DataError for data that
        are not there; to be called before anything is measured."""
        if self.settings.precision == "tf32" and self.machine.kind != "cuda":
            raise UsageError(
                "--dnn-precision tf32 needs a CUDA device, and there is none"
                f" ({self.machine.describe()}): use fp32 or bf16"
            )
        self.data()
        self.text()

    def text(self) -> TextFile | None:
        """The text of the session, read once; None for other data."""
        if self.settings.dataset == "text" and self._text is None:
            assert self.settings.text is not None
            self._text = find_text(self.settings.text)
        return self._text

    def data(self) -> MnistFiles | None:
        """The MNIST files of the session, checked once, fetched if asked for; None for synthetic
        data."""
        settings = self.settings
        if settings.dataset != "mnist" or self._data is not None:
            return self._data
        assert settings.data_dir is not None
        try:
            self._data = find_mnist(settings.data_dir)
        except DataError:
            if not settings.download:
                raise
            self.ranks(1).launch(DOWNLOAD, settings.data_dir, returns=Any)
            self._data = find_mnist(settings.data_dir)
        train_share = self._data.train_count // max(self.counts)
        share = min(train_share, self._data.validate_count // max(self.counts))
        if share < settings.batch_size and settings.scaling == "weak":
            raise DataError(
                f"--dnn-batch-size {settings.batch_size}: the data holds only {share} images per"
                f" rank for {max(self.counts)} ranks ({self._data.split}): use at most {share}"
            )
        return self._data

    def _specs(self) -> list[FrameworkSpec]:
        names, rows = self.settings.frameworks, self.catalog.frameworks.values()
        if names is None and self.settings.shapes:
            return shapes.frameworks_of(self.settings.shapes, self.catalog)
        if names is None or ALL in names:
            return [spec for spec in rows if spec.by_default or names]
        return [self.catalog.framework(name) for name in names]

    def _check_forms(self) -> None:
        """Raises UsageError for a form that a framework which the user has named does not take, or
        that none takes. Cases of other frameworks are skipped, each with the reason."""
        if self.settings.compile and self.machine.kind == "cpu":
            check_compiler()
        refusals = []
        for spec in self._specs():
            try:
                for model in self.settings.models:
                    spec.check_form(self.form(model, spec), self.machine.kind)
            except UsageError as error:
                refusals.append(error)
        named = self.settings.frameworks is not None and ALL not in self.settings.frameworks
        if refusals and (named or len(refusals) == len(self._specs())):
            raise refusals[0]

    def _check_models(self) -> None:
        """Raises UsageError for a model that a framework which the user has named, or a shape has
        asked for, cannot train. Cases of other frameworks are skipped, each with the reason."""
        settings = self.settings
        is_named = settings.frameworks is not None and ALL not in settings.frameworks
        if is_named or settings.shapes:
            for spec, model in itertools.product(self._specs(), settings.models):
                spec.check_model(model, self.catalog.model(model))

    def _fitting_counts(self, spec: FrameworkSpec) -> tuple[int, ...]:
        """The session's counts that a framework runs on. Raises UsageError where its options allow
        for none."""
        possible = tuple(
            count for count in self.counts if spec.min_gpus <= count <= (spec.max_gpus or count)
        )
        options = self.settings.framework_options.get(spec.name, {})
        check = load(spec.fits)
        fitting = tuple(
            count for count in possible if check is None or check(spec.name, count, options)
        )
        if possible and not fitting:
            given = [
                (row.flag, options.get(row.name, row.default), row.default) for row in spec.options
            ]
            asked = " ".join(
                f"--dnn-{flag} {value}" for flag, value, default in given if value != default
            )
            raise UsageError(
                f"{spec.name} with {asked} fits none of the device counts"
                f" {', '.join(map(str, possible))}: change it, or give counts that fit"
                " with --dnn-gpu-counts"
            )
        return fitting


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
    machine."""
    if shared := resources_in_use(config):
        return shared
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
        raise state.refused(error) from None
    state.keep(config, shared)
    return shared


def runs_on_nodes(config: pytest.Config) -> bool:
    """Whether the options, or the allocation that pytest runs in, name nodes."""
    try:
        return engine_of(state.settings(config), config.stash[state.ENGINES]) is not None
    except UsageError as error:
        raise state.refused(error) from None


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
