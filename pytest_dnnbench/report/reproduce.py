"""The command that measures a case again, from what its record holds."""

import shlex

from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.report.study import case_settings
from pytest_dnnbench.run_length import seconds_of


def command(result: Result) -> str:
    """One shell command, every setting spelt out. It measures no speed-up, which takes `single`
    too.

    Real data lies in another folder on every machine, so the reader has to fill in the folder.
    """
    path, separator, _ = result.name.partition("::")
    is_test = bool(separator) and not path.startswith("-")
    words = ["pytest", result.name if is_test else "bench_cases"]
    chosen = {**_choices(result), **_settings(result), **_form(result), **_options(result)}
    for flag, value in chosen.items():
        if value != "":  # a session refuses an empty text, which can only be the default
            words += [flag] if value is None else [flag, value]
    return shlex.join(words)


def _choices(result: Result) -> dict[str, str]:
    """The options that choose this case among others."""
    case = result.case
    chosen = {
        **({"--dnn-shapes": case.shape} if case.shape else {"--dnn-gpu-counts": str(case.gpus)}),
        "--dnn-frameworks": case.framework,
        "--dnn-models": case.model,
    }
    if case.nodes > 1:
        # How nodes are reached is the reader's: an engine, or an allocation that says so itself.
        chosen["--dnn-nodes"] = str(case.nodes)
    return chosen


def _settings(result: Result) -> dict[str, str]:
    """Each setting has an option of its name (tests/report/test_reproduce.py holds them against
    the options of a session). A record that holds no launches leaves their number to the
    default."""
    flags = {
        f"--dnn-{name.replace('_', '-')}": str(value)
        for name, value in case_settings(result).items()
        if name != "form"
    }
    if seconds_of(result.record.run.steps) is not None:
        flags["--dnn-window"] = flags.pop("--dnn-steps")
    if launches := len(result.record.launches):
        flags["--dnn-launches"] = str(launches)
    if result.case.dataset == "mnist":
        flags["--dnn-data-dir"] = "DIR"
    if result.case.dataset == "text":
        flags["--dnn-text"] = "FILE"
    return flags


def _form(result: Result) -> dict[str, str | None]:
    """The form of the step. The layout depends on the device where it is not given."""
    form = result.case.form
    return {"--dnn-memory-format": form.memory_format, **form.options}


def _options(result: Result) -> dict[str, str | None]:
    """The framework's own options, where the catalog has the framework. One that is a flag has no
    value (None), and is left out where it is not set: that is its default. So is one that the
    case's shape sets."""
    chosen = result.case.options
    return {
        f"--dnn-{option.flag}": None if isinstance(option.default, bool) else str(value)
        for framework in FRAMEWORKS
        if framework.name == result.case.framework
        for option in framework.options
        if (value := chosen.get(option.name)) is not None
        and (value or not isinstance(option.default, bool))
        and not (result.case.shape and option.name in framework.axes.values())
    }
