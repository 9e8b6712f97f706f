"""The `dnnbench` fixture's object: what a case author calls."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pytest_dnnbench.case import Case, Scalar
from pytest_dnnbench.catalog import FrameworkSpec
from pytest_dnnbench.controller.case_run import CaseRun, prepare_function, prepare_run
from pytest_dnnbench.controller.ranks import Ranks
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import DnnbenchError, UsageError, WorkloadRefused
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.harmless import text_block
from pytest_dnnbench.messages import FunctionRequest, RunRequest, Sample, Target
from pytest_dnnbench.results.records.measurement import Measurement
from pytest_dnnbench.results.records.record import make_record
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.results.verdicts.prediction import prediction_failure
from pytest_dnnbench.session import benchmark_file, state
from pytest_dnnbench.session.given_by_name import arguments_by_name, name_of, target_by_name
from pytest_dnnbench.session.replay_clock import clock_of
from pytest_dnnbench.session.resources import Resources
from pytest_dnnbench.session.shapes import options_in
from pytest_dnnbench.session.side_by_side import side_by_side
from pytest_dnnbench.session.state import EARLY_ROUND
from pytest_dnnbench.session.traces import trace_path
from pytest_dnnbench.session.verdicts import Outcome, Verdicts
from pytest_dnnbench.step_form import StepForm

UNITS: tuple[Sample, ...] = ("img", "tok", "sample", "B")
"""What a timed function may count; steps are counted where it counts nothing."""

_TWICE = (
    "dnnbench was called twice in one test, and a test is one case: parametrise the test, as in"
    " @pytest.mark.parametrize('phase', ['train', 'validate']), or write two tests"
)


class DnnBench:
    """Proves, measures and records the case of one test: a step of training or validation
    (`measure`), or a function of the author's own (`time`)."""

    def __init__(
        self, resources: Resources, item: pytest.Item, benchmark: Any, shape: str = ""
    ) -> None:
        self._resources = resources
        self._item = item
        self._benchmark = benchmark
        self._shape = shape

    def measure(
        self,
        framework: str,
        model: str | Callable[..., Any],
        ranks: Ranks,
        *,
        phase: str,
        options: dict[str, Scalar] | None = None,
        form: StepForm | None = None,
    ) -> Record:
        """Measures one case on these ranks and returns its record, which goes into
        pytest-benchmark's file.

        `model` is a name of the suite, "module:factory", or the factory itself, a function or class
        at the top level of a module that ranks can import. `phase` is "train" or "validate".
        `options` are the framework's own and override the command line's; `form` is how the step is
        run, in place of the command line's. The test fails when the step is wrong or a rank fails;
        it is skipped when the framework is not installed, cannot run on so many devices, or does
        not take the command line's form.
        """
        return self._measured(
            ranks,
            self._resources.catalog.framework,
            framework,
            lambda spec: self._case_run(spec, name_of(model), ranks, phase, options or {}, form),
        )

    def time(
        self,
        function: str | Callable[..., Any],
        ranks: Ranks,
        *,
        arguments: Mapping[str, Scalar] | None = None,
        check: str | Callable[..., Any] | None = None,
        framework: str = "torch",
        unit: Sample = "sample",
        collective: str = "",
    ) -> Record:
        """Times a function of yours on these ranks and returns its record, which goes into
        pytest-benchmark's file.

        `function` is called once on each rank, in fresh processes and inside the process group of
        `framework` ("torch" or "horovod"), with `arguments` and, if it has a parameter of that
        name, with its `place` (a Place). It returns the step, a function without parameters, whose
        calls are timed. A step returns nothing, then steps are counted; or how many units of work
        this rank did in it, in `unit`: "img", "tok", "sample" or "B". A function of a `collective`
        (all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, reduce, send_recv) returns
        its size in bytes and gets bandwidths.

        `check` is called with a step, on every rank, before anything is timed, and raises
        AssertionError when the step is wrong. Function and check are "module:name", or themselves:
        functions or classes at the top level of a module that ranks can import. The test fails when
        the check or a rank fails; it is skipped when the framework is not installed.
        """

        def prepared(spec: FrameworkSpec) -> CaseRun:
            case = self._function_case(function, ranks, framework, arguments, check, collective)
            targets = target_by_name(function), None if check is None else target_by_name(check)
            return self._function_run(spec, ranks, case, *targets, unit)

        return self._measured(ranks, self._resources.catalog.group, framework, prepared)

    def _function_case(
        self,
        function: str | Callable[..., Any],
        ranks: Ranks,
        framework: str,
        arguments: Mapping[str, Scalar] | None,
        check: str | Callable[..., Any] | None,
        collective: str,
    ) -> FunctionCase:
        """What `time` is asked for, as a case. Raises UsageError."""
        return FunctionCase(
            function=name_of(function, "function"),
            framework=framework,
            gpus=ranks.world_size,
            arguments=arguments_by_name(arguments or {}),
            check="" if check is None else name_of(check, "check"),
            collective=collective,
            device=self._resources.machine.kind,
            seed=self._resources.settings.seed,
        )

    def _measured(
        self,
        ranks: Ranks,
        row: Callable[[str], FrameworkSpec],
        framework: str,
        prepared: Callable[[FrameworkSpec], CaseRun],
    ) -> Record:
        """Makes a launch of what `prepared` gives, or the record in the last round."""
        if benchmark_file.is_used(self._benchmark):
            pytest.fail(_TWICE, pytrace=False)
        if not hasattr(ranks, "world_size"):
            pytest.fail(
                f"the ranks of {framework} are {ranks!r}: give process_group(N)", pytrace=False
            )
        spec = self._possible(row, framework, ranks.world_size)
        if lacks := state.part(self._item.config, Verdicts).lacks_baseline(self._item):
            pytest.fail(lacks, pytrace=False)
        try:
            run = self._kept_run(prepared, spec, ranks)
            if isinstance(run.request, RunRequest) and run.request.case.form.compile:
                ranks.environment |= self._resources.compile_cache.variables()
            self._launch_unless_made(run, ranks, spec)
            failure, refused = None, False
        except DnnbenchError as error:
            failure = text_block(f"{type(error).__name__}: {error}")
            refused = isinstance(error, WorkloadRefused)
        if failure is not None and refused and not self._is_named(framework):
            # One of the session's frameworks that cannot train this model: nobody asked for it.
            pytest.skip(failure)
        if failure is not None:  # outside the handler, so that pytest shows the message once
            self._benchmark.has_error = True
            self._show(ranks)
            pytest.fail(failure, pytrace=False)
        if EARLY_ROUND in self._item.stash:
            # Only the last round has a report; rounds.py takes this one back.
            pytest.skip(state.MEASURED)
        return self._record(run)

    def _kept_run(
        self, prepared: Callable[[FrameworkSpec], CaseRun], spec: FrameworkSpec, ranks: Ranks
    ) -> CaseRun:
        """The run of this test, kept from round to round."""
        shared = self._resources
        if run := shared.runs.get(self._item.nodeid):
            run.launcher = shared.launcher(ranks, spec)
            return run
        run = prepared(spec)
        run.parallel = shared.placements.side_by_side
        run.with_yardstick = self._benchmark.enabled
        settings, case = shared.settings, run.request.case
        run.profiled = self._benchmark.enabled and settings.profiles
        run.predicted = self._benchmark.enabled and settings.predicts
        run.traces = trace_path(settings.traces, case) if settings.traces else None
        if shared.keeper and not side_by_side(self._item.config):
            shared.keeper.restore(self._item.nodeid, run)
        shared.runs[self._item.nodeid] = run
        return run

    def _case_run(
        self,
        spec: FrameworkSpec,
        model: str,
        ranks: Ranks,
        phase: str,
        options: dict[str, Scalar],
        form: StepForm | None,
    ) -> CaseRun:
        spec.check_options(options)
        shaped = options_in(self._shape, spec, ranks.world_size, options)
        try:
            spec.check_model(model, self._resources.catalog.model(model))
        except UsageError as error:
            raise WorkloadRefused(str(error)) from None
        form = self._checked_form(spec, model, form)
        shared, smoke = self._resources, not self._benchmark.enabled
        return prepare_run(
            self._case(spec.name, model, ranks.world_size, phase, {**shaped, **options}, form),
            shared.catalog,
            shared.launcher(ranks, spec),
            shared.machine,
            steps=1 if smoke else shared.settings.timed(shared.machine.kind),
            warmup=0 if smoke else shared.settings.warmup,
            data=shared.mnist(),
            text=shared.text(),
        )

    def _function_run(
        self,
        spec: FrameworkSpec,
        ranks: Ranks,
        case: FunctionCase,
        function: Target,
        check: Target | None,
        unit: Sample,
    ) -> CaseRun:
        shared, smoke = self._resources, not self._benchmark.enabled
        if unit not in UNITS:
            raise UsageError(f"unit {unit!r} is unknown: choose from {', '.join(UNITS)}")
        steps, most = shared.settings.timed_function(shared.machine.kind)
        request = FunctionRequest(
            case,
            function,
            check,
            steps=1 if smoke else steps,
            warmup=0 if smoke else shared.settings.warmup,
            unit=unit,
            most_steps=most,
        )
        return prepare_function(request, spec, shared.launcher(ranks, spec), shared.machine)

    def _case(
        self,
        framework: str,
        model: str,
        gpus: int,
        phase: str,
        options: dict[str, Scalar],
        form: StepForm,
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
            sequence_length=settings.sequence_length,
            options={**settings.framework_options.get(framework, {}), **options},
            nodes=self._resources.nodes_for(gpus),
            form=form,
            shape=self._shape,
        )

    def _launch_unless_made(self, run: CaseRun, ranks: Ranks, spec: FrameworkSpec) -> None:
        """Makes the launch of this round, or of the last one. Where there are two environments, it
        makes a pair, and none in the end: every round is an early one there."""
        number = self._item.stash.get(EARLY_ROUND, None)
        if sides := side_by_side(self._item.config):
            if number or not run.launches:
                sides.launch(self._item, run, ranks, spec, number or 1)
        elif len(run.launches) < (number or self._resources.settings.rounds):
            self._launch(run)

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
        if self._resources.preflight is not None:
            nodes = [node.name for node in record.launches[0].conditions.nodes]
            record.environment.recorded.update(self._resources.preflight.facts(nodes))
        benchmark_file.drop_earlier(self._item.config, self._item.nodeid)
        benchmark_file.attach(self._benchmark, record)
        samples = [time for launch in measurement.launches for time in launch.step_time_s]
        clock_of(self._item).replay(self._benchmark, samples)
        sides = side_by_side(self._item.config)
        if sides:
            record.against = sides.entry(self._item)
            if self._benchmark.enabled:
                sides.explain(self._item, record)
        reasons = [sides.failure(record) if sides else None]
        if self._benchmark.enabled:
            limit = self._resources.settings.prediction_error
            reasons += [None if limit is None else prediction_failure(record, limit)]
            self._resources.speed_ups.add(record)
        others = [reason for reason in reasons if reason is not None]
        if self._benchmark.enabled:
            self._judge(run, record, others)
        elif others:
            pytest.fail(text_block("\n".join(others)), pytrace=False)
        return record

    def _judge(self, run: CaseRun, record: Record, others: Sequence[str]) -> None:
        """Compares the record with its baseline; measures again before the test fails. `others`:
        why something else than the baseline fails the test."""

        def again(count: int, *, profiled: bool = False) -> Measurement:
            return run.measurement(run.again(count, profiled=profiled))

        try:
            outcome = state.part(self._item.config, Verdicts).judge(self._item, record, again)
        except DnnbenchError as error:
            outcome = Outcome(failure=f"{type(error).__name__}: {error}")
        if outcome.expected is not None and not others:
            pytest.xfail(text_block(outcome.expected))
        failures = [text for text in (outcome.failure, *others) if text is not None]
        if failures:
            pytest.fail(text_block("\n".join(failures)), pytrace=False)

    def _possible(
        self, row: Callable[[str], FrameworkSpec], framework: str, gpus: int
    ) -> FrameworkSpec:
        """The framework's row. Fails the test for a name without one; skips it where the framework
        is not installed or cannot run on so many devices."""
        try:
            spec = row(framework)
        except UsageError as error:
            pytest.fail(str(error), pytrace=False)
        if missing := spec.missing():
            # A suite names more frameworks than every machine has.
            pytest.skip(
                f"{framework} needs {', '.join(missing)}, which is not installed:"
                f" run `{spec.install}`"
            )
        if not spec.min_gpus <= gpus <= (spec.max_gpus or gpus):
            # The session's counts are those of all frameworks, and `single` takes one device.
            pytest.skip(f"{framework} does not run on {counted(gpus, 'device')}")
        return spec

    def _checked_form(
        self, spec: FrameworkSpec, model: str, test_form: StepForm | None
    ) -> StepForm:
        """The test's own form, or that of the session. Raises UsageError where the framework does
        not take the test's; skips the test where it does not take the session's."""
        kind = self._resources.machine.kind
        if test_form is not None:
            if not isinstance(test_form, StepForm):
                raise UsageError(
                    f"form is {test_form!r}: give a StepForm, as in StepForm(fused=True)"
                )
            spec.check_form(test_form, kind)
            return test_form
        form = self._resources.combinations.form(model, spec)
        try:
            spec.check_form(form, kind)
        except UsageError as error:
            reason = str(error)
        else:
            return form
        # The session's form is that of all frameworks. A form that none takes, or a framework that
        # the user has named does not, was refused before (combinations.py).
        pytest.skip(reason)

    def _is_named(self, framework: str) -> bool:
        """Whether the user has named the framework, on the command line or in the test itself."""
        takes_framework = "framework" in getattr(self._item, "fixturenames", ())
        parametrised = any(
            "framework" in state.parametrised(mark)
            for mark in self._item.iter_markers("parametrize")
        )
        return (
            parametrised
            or not takes_framework
            or framework in (self._resources.settings.frameworks or ())
        )

    def _show(self, ranks: Ranks) -> None:
        """Shows what the ranks wrote."""
        for number, output in enumerate(ranks.outputs):
            if output.strip():
                self._item.add_report_section("call", f"rank {number}", output)
