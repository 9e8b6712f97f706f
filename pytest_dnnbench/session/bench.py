"""The `dnnbench` fixture's object: what a case author calls."""

from typing import Any

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.controller.case_run import CaseRun, prepare_run
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.errors import DnnbenchError, UsageError
from pytest_dnnbench.results.records.measurement import Measurement
from pytest_dnnbench.results.records.record import Record, make_record, relate
from pytest_dnnbench.session import verdicts
from pytest_dnnbench.session.replay_clock import ReplayClock
from pytest_dnnbench.session.resources import Resources
from pytest_dnnbench.session.rounds import EARLY


class DnnBench:
    """Proves, measures and records the case of one test."""

    def __init__(self, workshop: Resources, item: pytest.Item, benchmark: Any) -> None:
        self._workshop = workshop
        self._item = item
        self._benchmark = benchmark

    def measure(
        self,
        framework: str,
        model: str,
        ranks: Ranks,
        *,
        phase: str,
        options: dict[str, Scalar] | None = None,
    ) -> Record:
        """Measures one case on these ranks and returns its record, which goes into
        pytest-benchmark's file.

        `phase` is "train" or "validate"; `options` are the framework's own and override the command
        line's. The test fails when the step is wrong or a rank fails; it is skipped when the
        framework is not installed or cannot run on so many devices.
        """
        self._skip_unless_possible(framework, ranks.world_size)
        try:
            run = self._run(framework, model, ranks, phase, options or {})
            if len(run.launches) < self._item.stash.get(EARLY, self._workshop.settings.rounds):
                self._launch(run)
            failure = None
        except DnnbenchError as error:
            failure = f"{type(error).__name__}: {error}"
        if failure is not None:  # outside the handler, so that pytest shows the message once
            self._benchmark.has_error = True
            self._show(ranks)
            pytest.fail(failure, pytrace=False)
        if EARLY in self._item.stash:
            pytest.skip("measured; reported in the last round")
        return self._record(run)

    def _run(
        self, framework: str, model: str, ranks: Ranks, phase: str, options: dict[str, Scalar]
    ) -> CaseRun:
        """The run of this test, kept from round to round."""
        shop, settings = self._workshop, self._workshop.settings
        launcher = shop.launcher(ranks, shop.catalog.framework(framework))
        if run := shop.runs.get(self._item.nodeid):
            run.launcher = launcher
            return run
        case = Case(
            framework=framework,
            model=model,
            gpus=ranks.world_size,
            phase=phase,
            dataset=settings.dataset,
            image_size=settings.image_size,
            batch_size=settings.batch_for(ranks.world_size),
            precision=settings.precision,
            scaling=settings.scaling,
            device=shop.machine.kind,
            seed=settings.seed,
            options={**settings.framework_options.get(framework, {}), **options},
        )
        smoke = not self._benchmark.enabled
        steps, warmup = (1, 0) if smoke else (settings.steps, settings.warmup)
        run = prepare_run(
            case, shop.catalog, launcher, shop.machine, steps=steps, warmup=warmup, data=shop.data()
        )
        run.parallel = shop.placements.side_by_side
        run.with_yardstick = not smoke
        if shop.keeper:
            shop.keeper.restore(self._item.nodeid, run)
        shop.runs[self._item.nodeid] = run
        return run

    def _launch(self, run: CaseRun) -> None:
        """One launch, kept in the session's journal. A session that continues another has some of
        them already."""
        run.launch()
        if self._workshop.keeper:
            self._workshop.keeper.keep(self._item.nodeid, run)

    def _record(self, run: CaseRun) -> Record:
        measurement = run.measurement()
        record = make_record(measurement)
        if self._workshop.launch_plan is not None:
            record["launch_plan"] = self._workshop.launch_plan.entry(self._item.nodeid)
        clock = self._item.get_closest_marker("benchmark").kwargs["timer"]  # type: ignore[union-attr] # the plugin set it
        assert isinstance(clock, ReplayClock)
        self._benchmark.extra_info["dnnbench"] = record
        clock.replay(
            self._benchmark,
            [time for launch in measurement.launches for time in launch.step_time_s],
        )
        if self._benchmark.enabled:
            self._workshop.records.append(record)
            self._judge(run, record)
        return record

    def _judge(self, run: CaseRun, record: Record) -> None:
        """Holds the record against its baseline; measures again before the test fails."""
        relate(self._workshop.records)

        def again(count: int) -> Measurement:
            return run.measurement(run.again(count))

        try:
            outcome = self._item.config.pluginmanager.get_plugin(verdicts.NAME).judge(
                self._item, record, again
            )  # type: ignore[union-attr] # the plugin registered it
        except DnnbenchError as error:
            outcome = verdicts.Outcome(failure=f"{type(error).__name__}: {error}")
        if outcome.expected is not None:
            pytest.xfail(outcome.expected)
        if outcome.failure is not None:
            pytest.fail(outcome.failure, pytrace=False)

    def _skip_unless_possible(self, framework: str, gpus: int) -> None:
        try:
            spec = self._workshop.catalog.framework(framework)
        except UsageError as error:
            pytest.fail(str(error), pytrace=False)
        if missing := spec.missing():
            pytest.skip(
                f"{framework} needs {', '.join(missing)}, which is not installed: run `{spec.install}`"
            )
        if not spec.min_gpus <= gpus <= (spec.max_gpus or gpus):
            pytest.skip(f"{framework} does not run on {gpus} devices")

    def _show(self, ranks: Ranks) -> None:
        for number, output in enumerate(ranks.outputs):
            if output.strip():
                self._item.add_report_section("call", f"rank {number}", output)
