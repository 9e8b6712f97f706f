"""`dnnbench profile` as a user sees it."""

from pathlib import Path

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.planner.profile import Operator, Profile
from pytest_dnnbench.planner.profile_file import read_profile
from pytest_dnnbench.rank.profiling import profiler
from pytest_dnnbench.rank.profiling.command import profile_summary

TINY = (
    "profile",
    "--model",
    "tests.tiny_models:tiny",
    "--batch-size",
    "4",
    "--repetitions",
    "2",
    "--warmup",
    "0",
)


@pytest.mark.parametrize("name", ["tiny.json", "tiny.txt"])
def test_a_profile_is_written_in_the_format_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main([*TINY, "-o", str(tmp_path / name)]) == 0
    output = capsys.readouterr().out
    profile = read_profile(tmp_path / name)
    assert len(profile.operators) == 7
    assert "7 operators, 6 edges" in output
    assert "parts / whole = " in output
    assert f"written to {tmp_path / name}" in output
    assert profile.metadata.get("model") == (
        "tests.tiny_models:tiny" if name.endswith("json") else None
    )


@pytest.mark.parametrize(
    ("whole_s", "doubted"), [(0.3, False), (0.27, False), (0.25, True), (0.4, True)]
)
def test_a_sum_of_the_parts_far_from_the_whole_is_pointed_out(
    whole_s: float, doubted: bool
) -> None:
    form = {"model": "one", "image_size": 28, "batch_size": 4, "precision": "fp32", "device": "cpu"}
    profile = Profile(
        (Operator("conv", "Conv2d", 0.1, 0.2, 8, 8),), (), {**form, "whole_s": whole_s}
    )
    assert f"parts / whole = {0.3 / whole_s:.3f}" in profile_summary(profile)
    assert ("parts and whole disagree" in profile_summary(profile)) == doubted


def test_a_cached_profile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        profiler, "LEAST_CORE_SHARE", 0.0
    )  # other work does not disturb what is tested here
    assert main([*TINY, "--cached"]) == 0
    assert len(list(tmp_path.rglob("*.json"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("profile", "--model", "resnet19"), "unknown model 'resnet19'"),
        ((*TINY, "--batch-size", "0"), "--batch-size is 0"),
        ((*TINY, "--device", "cuda:7"), "torch sees no CUDA device"),
        ((*TINY, "-o", "/nonexistent/folder/profile.json"), "cannot be written"),
        (
            ("profile", "--model", "tests.profiling.test_operator_graph:Branching"),
            "cannot be cut into operators",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
