"""The tutorial on workloads, run as it is written."""

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "workloads.md"


def test_a_training_step_of_ones_own_is_measured_as_the_page_says(
    pytester: pytest.Pytester,
) -> None:
    text = PAGE.read_text()
    module, test = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[:2]
    command = re.search(r"```\npytest (.*?)\n```", text)
    assert command is not None
    pytester.path.joinpath("training.py").write_text(module)
    pytester.path.joinpath("test_training.py").write_text(test)
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    fast = ("--dnn-device=cpu", "--dnn-launches=1", "--dnn-steps=3", "--dnn-warmup=1")
    result = pytester.runpytest_subprocess(
        *command[1].split(), *fast, "--benchmark-json=out.json", "--dnn-report=report"
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*sample/s*"])
    records = [
        each["extra_info"]["dnnbench"]
        for each in json.loads(pytester.path.joinpath("out.json").read_text())["benchmarks"]
    ]
    for record in records:
        assert record["metrics"]["throughput"]["unit"] == "sample/s"
        assert record["correctness"]["about"]["reference"].endswith("a fresh AdamW")
    page = pytester.path.joinpath("report", "index.html").read_text()
    assert "28 px" not in page, "a sample that is no image has no size"


def test_a_model_of_several_tensors_is_cut_as_the_page_says(pytester: pytest.Pytester) -> None:
    _, test, module = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    pytester.path.joinpath("denoising.py").write_text(module)
    pytester.path.joinpath("test_denoising.py").write_text(
        test.replace("training:Regression", "denoising:Denoising")
    )
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    result = pytester.runpytest_subprocess(
        "test_denoising.py",
        *("--gpus=2", "--dnn-frameworks=pipedream,gpipe", "--dnn-stages=2", "--dnn-device=cpu"),
        *("--dnn-launches=1", "--dnn-steps=3", "--dnn-warmup=1", "--benchmark-json=out.json"),
    )
    result.assert_outcomes(passed=2)
    for each in json.loads(pytester.path.joinpath("out.json").read_text())["benchmarks"]:
        assert each["extra_info"]["dnnbench"]["plan"]["shape"] == "1-1"
