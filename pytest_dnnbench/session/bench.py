"""The `dnnbench` fixture's object: what a case author calls."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.controller.case_run import CaseRun, prepare_run
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.harmless import text_block
from pytest_dnnbench.results.records.measurement import Measurement
from pytest_dnnbench.results.records.record import make_record
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.replay_clock import clock_of
from pytest_dnnbench.session.resources import Resources
from pytest_dnnbench.session.state import EARLY_ROUND
from pytest_dnnbench.session.traces import trace_path
from pytest_dnnbench.session.verdicts import Outcome, Verdicts

_TWICE = (
    "dnnbench.measure() was called twice in one test, and a test is one case: parametrise the test,"
    " as in @pytest.mark.parametrize('phase', ['train', 'validate']), or write two tests"
)


class DnnBench:
    """Proves, measures and records the case of one test."""

    def __init__(self, resources: Resources, item: pytest.Item, benchmark: Any) -> None:
        self._resources = resources
        self._item = item
        self._benchmark = benchmark

    def measure(
        self,
        framework: str,
        model: str | Callable[..., Any],
        ranks: Ranks,
        *,
        phase: str,
        options: dict[str, Scalar] | None = None,
    ) -> Record:
        """Measures one case on these ranks and returns its record, which goes into
        pytest-benchmark's file.

        `model` is a name of the suite, "module:factory", or the factory itself, a function or class
        at the top level of a module that ranks can import. `phase` is "train" or "validate".
        `options` are the framework's own and override the command line's. The test fails when the
        step is wrong or a rank fails; it is skipped when the framework is not installed or cannot
        run on so many devices.
        """
        if benchmark_file.is_used(self._benchmark):
            pytest.fail(_TWICE, pytrace=False)
        self._skip_unless_possible(framework, ranks.world_size)
        if lacks := state.part(self._item.config, Verdicts).lacks_baseline(self._item):
            pytest.fail(lacks, pytrace=False)
        try:
            self._check_options(framework, options or {})
            run = self._run(framework, name_of(model), ranks, phase, options or {})
            if len(run.launches) < self._item.stash.get(
                EARLY_ROUND, self._resources.settings.rounds
            ):
                self._launch(run)
            failure = None
        except DnnbenchError as error:
            failure = text_block(f"{type(error).__name__}: {error}")
        if failure is not None:  # outside the handler, so that pytest shows the message once
            self._benchmark.has_error = True
            self._show(ranks)
            pytest.fail(failure, pytrace=False)
        if EARLY_ROUND in self._item.stash:
            pytest.skip("measured; reported in the last round")
        return self._record(run)

    def _run(
        self, framework: str, model: str, ranks: Ranks, phase: str, options: dict[str, Scalar]
    ) -> CaseRun:
        """The run of this test, kept from round to round."""
        shared = self._resources
        launcher = shared.launcher(ranks, shared.catalog.framework(framework))
        if run := shared.runs.get(self._item.nodeid):
            run.launcher = launcher
            return run
        smoke, settings = not self._benchmark.enabled, shared.settings
        run = prepare_run(
            self._case(framework, model, ranks.world_size, phase, options),
            shared.catalog,
            launcher,
            shared.machine,
            steps=1 if smoke else settings.timed(shared.machine.kind),
            warmup=0 if smoke else settings.warmup,
            data=shared.data(),
        )
        run.parallel = shared.placements.side_by_side
        run.with_yardstick = not smoke
        run.profiled = not smoke and (settings.breakdown or settings.traces is not None)
        run.traces = trace_path(settings.traces, run.request.case) if settings.traces else None
        if shared.keeper:
            shared.keeper.restore(self._item.nodeid, run)
        shared.runs[self._item.nodeid] = run
        return run

    def _case(
        self, framework: str, model: str, gpus: int, phase: str, options: dict[str, Scalar]
    ) -> Case:
        settings = self._resources.settings
        return Case(
            framework=framework,
            model=model,
            gpus=gpus,
            phase=phase,
            dataset=settings.dataset,
            image_size=settings.image_size,
            batch_size=settings.batch_for(gpus),
            precision=settings.precision,
            scaling=settings.scaling,
            device=self._resources.machine.kind,
            seed=settings.seed,
            options={**settings.framework_options.get(framework, {}), **options},
        )

    def _launch(self, run: CaseRun) -> None:
        """Makes one launch and keeps it in the session's journal. A session that continues another
        has some launches already."""
        run.launch()
        if self._resources.keeper:
            self._resources.keeper.keep(self._item.nodeid, run)

    def _record(self, run: CaseRun) -> Record:
        measurement = run.measurement()
        record = make_record(measurement)
        if self._resources.launch_plan is not None:
            record.launch_plan = self._resources.launch_plan.entry(self._item.nodeid)
        benchmark_file.attach(self._benchmark, record)
        samples = [time for launch in measurement.launches for time in launch.step_time_s]
        clock_of(self._item).replay(self._benchmark, samples)
        if self._benchmark.enabled:
            self._resources.speed_ups.add(record)
            self._judge(run, record)
        return record

    def _judge(self, run: CaseRun, record: Record) -> None:
        """Compares the record with its baseline; measures again before the test fails."""

        def again(count: int, *, profiled: bool = False) -> Measurement:
            return run.measurement(run.again(count, profiled=profiled))

        try:
            outcome = state.part(self._item.config, Verdicts).judge(self._item, record, again)
        except DnnbenchError as error:
            outcome = Outcome(failure=f"{type(error).__name__}: {error}")
        if outcome.expected is not None:
            pytest.xfail(text_block(outcome.expected))
        if outcome.failure is not None:
            pytest.fail(text_block(outcome.failure), pytrace=False)

    def _skip_unless_possible(self, framework: str, gpus: int) -> None:
        try:
            spec = self._resources.catalog.framework(framework)
        except UsageError as error:
            pytest.fail(str(error), pytrace=False)
        if missing := spec.missing():
            pytest.skip(
                f"{framework} needs {', '.join(missing)}, which is not installed:"
                f" run `{spec.install}`"
            )
        if not spec.min_gpus <= gpus <= (spec.max_gpus or gpus):
            pytest.skip(f"{framework} does not run on {gpus} devices")

    def _check_options(self, framework: str, options: Iterable[str]) -> None:
        names = [row.name for row in self._resources.catalog.framework(framework).options]
        if unknown := sorted(set(options) - set(names)):
            choices = f"choose from {', '.join(names)}" if names else "it has none"
            raise UsageError(f"{framework} has no option {unknown[0]!r}: {choices}")

    def _show(self, ranks: Ranks) -> None:
        for number, output in enumerate(ranks.outputs):
            if output.strip():
                self._item.add_report_section("call", f"rank {number}", output)


def name_of(model: str | Callable[..., Any]) -> str:
    """The name of a model that is given by its factory. Raises UsageError for a factory that ranks
    cannot import by name."""
    if isinstance(model, str):
        return model
    module, name = getattr(model, "__module__", None), getattr(model, "__qualname__", None)
    if not callable(model) or module is None or name is None or "<" in name:
        raise UsageError(
            f"model {model!r} cannot be imported by ranks: give a function or class at the top"
            " level of a module, or its name as package.module:factory"
        )
    return f"{module}:{name}"
