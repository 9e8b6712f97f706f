"""What the cases of a session combine: frameworks, models, device counts and shapes, each in the
form of its step. What cannot be is refused before anything starts.

Not here: what the cases share when they run (resources.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from pytest_dnnbench.case import Case, devices_id
from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.controller.case_run import check_rules, fits
from pytest_dnnbench.controller.machine import Machine
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.session import shapes
from pytest_dnnbench.session.compile_cache import check_compiler_of_torch
from pytest_dnnbench.session.settings import ALL, Settings
from pytest_dnnbench.session.shapes import Shapes, options_in
from pytest_dnnbench.step_form import FORM_FIELDS, StepForm


class Combinations:
    """One per session. `settings` are those of the machine's kind of device. Raises UsageError
    where they do not fit."""

    def __init__(self, settings: Settings, catalog: Catalog, machine: Machine) -> None:
        self._settings, self._catalog, self._kind = settings, catalog, machine.kind
        if settings.precision == "tf32" and machine.kind != "cuda":
            raise UsageError(
                "--dnn-precision tf32 needs a CUDA device, and there is none"
                f" ({machine.describe()}): use fp32 or bf16"
            )
        self.counts = settings.counts(machine.default_count)
        """Of devices, as the options have them."""
        for count in self.counts:
            settings.batch_for(count)
        self._specs = self._frameworks()
        self._check_forms()
        self.shapes = Shapes(settings, catalog, self._specs, self.counts)
        # Shapes fit by themselves; what the options alone would make is not run then.
        self._fitting = {
            spec.name: self.counts if self.shapes else self._fitting_counts(spec)
            for spec in self._specs
        }
        self._check_rules()

    def parameters(self, parameters: Sequence[str]) -> list[str]:
        """The parameters that a test leaves open, and the shape where the session has any and the
        test lets it choose both framework and count."""
        takes = bool(self.shapes) and {"framework", "gpus"} <= set(parameters)
        return [*parameters, *([shapes.FIXTURE] if takes else [])]

    def rows(self, parameters: Sequence[str]) -> list[tuple[Any, ...]]:
        """Rows of the parameters, in the order model, framework, count or shape: those on which a
        framework runs. Raises UsageError for a model that a framework cannot train."""
        if {"framework", "model"} <= set(parameters):
            self._check_models()
        rows: list[dict[str, Any]] = [
            {"framework": spec.name, "model": model, "gpus": count, shapes.FIXTURE: shape}
            for model, spec in itertools.product(self._settings.models, self._specs)
            for count, shape in self._sizes(spec, parameters)
        ]
        return list(dict.fromkeys(tuple(row[name] for name in parameters) for row in rows))

    def id_of(
        self, names: Sequence[str], row: Sequence[Any], nodes_for: Callable[[int], int]
    ) -> str:
        """The id of a row: `ddp-resnet50-4gpu`, `tp-gpt-tiny-4gpu-tp2xdp2`, with the form where it
        is not the plain one. `nodes_for` says how many nodes so many ranks take."""
        values = dict(zip(names, row, strict=True))
        parts = [
            devices_id(value, nodes_for(value)) if name == "gpus" else str(value)
            for name, value in values.items()
        ]
        if "model" in values:
            name = values.get("framework")
            spec = None if name is None else self._catalog.framework(name)
            parts.append(self.form(values["model"], spec).label)
        return "-".join(filter(None, parts))

    def form(self, model: str, spec: FrameworkSpec | None = None) -> StepForm:
        """The form in which a framework runs a model's step, unless a test gives its own; without a
        framework, that of one which takes every form."""
        path = self._catalog.model(model)
        return self._settings.form(self._kind, path, FORM_FIELDS if spec is None else spec.forms)

    def _frameworks(self) -> list[FrameworkSpec]:
        names, rows = self._settings.frameworks, self._catalog.frameworks.values()
        if names is None and self._settings.shapes:
            return shapes.frameworks_of(self._settings.shapes, self._catalog)
        if names is None or ALL in names:
            return [spec for spec in rows if spec.by_default or names]
        return [self._catalog.framework(name) for name in names]

    @property
    def _are_named(self) -> bool:
        """Whether the user has named the frameworks one by one."""
        names = self._settings.frameworks
        return names is not None and ALL not in names

    def _sizes(self, spec: FrameworkSpec, parameters: Sequence[str]) -> list[tuple[int, str]]:
        """The counts that a framework runs on, each with a shape where tests have one."""
        if shapes.FIXTURE in parameters:
            return [(shape.gpus, str(shape)) for shape in self.shapes.of(spec)]
        fit = self._fitting[spec.name] if {"framework", "gpus"} <= set(parameters) else self.counts
        return [(count, "") for count in fit]

    def _check_forms(self) -> None:
        """Raises UsageError for a form that a framework which the user has named does not take, or
        that none takes. Cases of other frameworks are skipped, each with the reason."""
        if self._settings.compile and self._kind == "cpu":
            check_compiler_of_torch()
        refusals = []
        for spec in self._specs:
            try:
                for model in self._settings.models:
                    spec.check_form(self.form(model, spec), self._kind)
            except UsageError as error:
                refusals.append(error)
        if refusals and (self._are_named or len(refusals) == len(self._specs)):
            raise refusals[0]

    def _check_models(self) -> None:
        """Raises UsageError for a model that a framework which the user has named, or a shape has
        asked for, cannot train. Cases of other frameworks are skipped, each with the reason."""
        if self._are_named or self._settings.shapes:
            for spec, model in itertools.product(self._specs, self._settings.models):
                spec.check_model(model, self._catalog.model(model))

    def _check_rules(self) -> None:
        """Raises UsageError for options that a framework's rules do not allow together, in any of
        its cases."""
        settings, sizes = self._settings, ["framework", "gpus"]
        if self.shapes:
            sizes.append(shapes.FIXTURE)
        for spec, model in itertools.product(self._specs, settings.models):
            for count, shape in self._sizes(spec, sizes):
                options = settings.framework_options.get(spec.name, {})
                case = Case(
                    framework=spec.name,
                    model=model,
                    gpus=count,
                    phase="train",
                    precision=settings.precision,
                    device=self._kind,
                    options={**options, **options_in(shape, spec, count, {})},
                    form=self.form(model, spec),
                )
                check_rules(spec, case)

    def _fitting_counts(self, spec: FrameworkSpec) -> tuple[int, ...]:
        """The session's counts that a framework runs on. Raises UsageError where its options allow
        for none."""
        possible = tuple(
            count for count in self.counts if spec.min_gpus <= count <= (spec.max_gpus or count)
        )
        options = self._settings.framework_options.get(spec.name, {})
        fitting = tuple(count for count in possible if fits(spec, count, options))
        if possible and not fitting:
            rows = [
                (row.flag, options.get(row.name, row.default), row.default) for row in spec.options
            ]
            asked = " ".join(
                f"--dnn-{flag} {value}" for flag, value, default in rows if value != default
            )
            raise UsageError(
                f"{spec.name} with {asked or 'its defaults'} fits none of the device counts"
                f" {', '.join(map(str, possible))}: change it, or give counts that fit"
                " with --dnn-gpu-counts"
            )
        return fitting
