"""The command that measures a case again, from what its record holds."""

import shlex

from pytest_dnnbench.catalog import FRAMEWORKS
from pytest_dnnbench.report.runs import Result
from pytest_dnnbench.session.settings import OPTIONS

# Options that say which cases a session has; they are given from the case's own names.
_CHOOSE = {"gpus", "gpu_counts", "frameworks", "models", "launches"}


def command(result: Result) -> str:
    """One shell command, every setting spelt out. Speed-up is missing from its answer: that takes
    `single` too.

    Real data is somewhere else on every machine, so its folder is left to the reader.
    """
    path, found, _ = result.name.partition("::")
    words = ["pytest", result.name if found and not path.startswith("-") else "bench_cases"]
    words += [
        "--dnn-gpu-counts",
        str(result.gpus),
        "--dnn-frameworks",
        result.framework,
        "--dnn-models",
        result.model,
    ]
    facts = dict(result.case)
    batch = facts.get("batch_size")
    if facts.get("scaling") == "strong" and isinstance(batch, int):
        facts["batch_size"] = batch * result.gpus
    for option in OPTIONS:
        name = option.key.removeprefix("dnn_")
        if name not in _CHOOSE and facts.get(name) is not None:
            words += [option.flag, str(facts[name])]
    if result.step_time_s:
        words += ["--dnn-launches", str(len(result.step_time_s))]
    own = facts.get("options")
    for row in (
        row
        for framework in FRAMEWORKS
        if framework.name == result.framework
        for row in framework.options
    ):
        if isinstance(own, dict) and own.get(row.name) is not None:
            words += [f"--dnn-{row.flag}", str(own[row.name])]
    if facts.get("dataset") == "mnist":
        words += ["--dnn-data-dir", "DIR"]
    return shlex.join(words)
