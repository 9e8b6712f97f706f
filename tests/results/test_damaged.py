"""Damaged and hostile files, as commands and sessions meet them: one line that names file and
place, exit status 2, and a damaged file among the stored ones is passed over."""

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.results.baselines.case_baseline import CaseBaseline
from pytest_dnnbench.results.baselines.comparability import facts_of
from pytest_dnnbench.results.baselines.golden_file import read_golden
from pytest_dnnbench.results.baselines.stored_sessions import storage_runs
from pytest_dnnbench.results.records.json_text import check_json
from pytest_dnnbench.results.records.schema import Acceptance
from pytest_dnnbench.results.statistics.decision import decide
from tests.results.synthetic import NAME, disturbed, file_of, judged, record, save, storage

DAMAGES = {
    "a fact of 1e999": ('"torch": "2.13.0"', '"torch": 1e999'),
    "a metric of 1e999": ('"per_launch": [', '"per_launch": [1e999, '),
    "metrics from 1e300 to 1e-300": ('"per_launch": [', '"per_launch": [1e300, 1e-300, '),
    "a metric of 5,000 digits": ('"per_launch": [', f'"per_launch": [{"9" * 5000}, '),
    "a count of 5,000 digits": ('"gpus": 2', f'"gpus": {"9" * 5000}'),
    "a fact of 5,000 digits": ('"torch": "2.13.0"', f'"torch": {"9" * 5000}'),
    "a fact nested too deeply": ('"torch": "2.13.0"', f'"torch": {"[" * 100_000}'),
    "a raw byte": ('"torch": "2.13.0"', '"torch": "2.13.0\\xff"'),
    "NaN": ('"torch": "2.13.0"', '"torch": NaN'),
    "a metric that is text": ('"value": ', '"value": "fast", "x": '),
    "a newer schema": ('"schema": 1', '"schema": 2'),
    "an infinite limit": ('"relative": -0.03', '"relative": 1e999'),
}


def damage(path: Path, how: str) -> Path:
    """Damages the file of a saved session."""
    old, new = DAMAGES[how]
    text = path.read_text()
    assert old in text
    content = text.replace(old, new, 1).encode()
    path.write_bytes(content.replace(b"\\xff", b"\xff") if how == "a raw byte" else content)
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which a command refuses."""
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    line = shown.err.removesuffix("\n")
    assert line.isprintable(), shown.err
    assert len(line) < 1100
    return line


@pytest.mark.parametrize("how", DAMAGES)
def test_every_command_refuses_it_in_one_line_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    whole, bad = save(tmp_path / "a.json"), damage(save(tmp_path / "b.json"), how)
    for arguments in (
        ("compare", bad, whole),
        ("compare", whole, bad, "--markdown"),
        ("baseline", "update", tmp_path / "golden.json", bad),
        ("baseline", "accept", bad, "--reason", "it is right"),
    ):
        assert str(bad) in refusal(capsys, *arguments)
    assert not (tmp_path / "golden.json").exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff", b"[" * 100_000, b"1" * 5000]
)
def test_what_is_no_session_at_all_is_refused_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    whole, bad = save(tmp_path / "a.json"), tmp_path / "b.json"
    bad.write_bytes(content)
    for arguments in (
        ("compare", bad, whole),
        ("compare", whole, bad),
        ("baseline", "show", bad),
        ("baseline", "update", bad, whole),
        ("report", bad, "-o", tmp_path / "report"),
    ):
        assert "b.json" in refusal(capsys, *arguments)


@pytest.mark.parametrize("how", DAMAGES)
def test_among_the_stored_sessions_it_is_passed_over_with_its_reason(
    tmp_path: Path, how: str
) -> None:
    folder = storage(tmp_path / "s", 5)
    damage(folder / "0003_nightly.json", how)
    baseline = storage_runs(folder, "latest")
    stored = baseline.of(NAME, facts_of(record()))
    assert isinstance(stored, CaseBaseline)
    assert (stored.file, stored.sessions) == ("0005_nightly.json", 4)
    [reason] = baseline.passed_over
    assert "0003_nightly.json" in reason


def golden(path: Path, **metric: Any) -> Path:
    """A golden file of one case and one metric, with some of its fields replaced."""
    entry = {
        "sessions": [[3000.0, 3001.0]],
        "noise": {"launch_sd": 0.01, "launch_dof": 3.0, "ratios": [[1.0, 1.0]]},
    }
    name = metric.pop("name", "throughput")
    case = {"facts": facts_of(record()), "metrics": {name: entry | metric}}
    path.write_text(json.dumps({"dnnbench_golden": 1, "cases": {NAME: case}}))
    return path


NOISE = {"launch_sd": 0.01, "launch_dof": 3.0, "ratios": [[1.0, 1.0]]}


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ({"sessions": [[1e300, 1e-300]]}, "sessions: throughput is 1e+300, which is not a figure"),
        ({"sessions": [[0.0, 1.0]]}, "throughput is 0.0, and it is always above zero"),
        (
            {"name": "loss", "sessions": [[0.0, 1.0]]},
            "noise: only values above zero have a relative noise",
        ),
        ({"noise": {**NOISE, "launch_dof": 1e-300}}, "degrees of freedom lie between 0.1"),
        ({"noise": {**NOISE, "launch_sd": 1e300}}, "lie between 0 and 1,000"),
        ({"noise": {**NOISE, "ratios": []}}, "chances add up to 1"),
        ({"noise": {**NOISE, "ratios": [[1e300, 1.0]]}}, "ratios lie between 0"),
        ({"noise": {**NOISE, "ratios": [[1.0, 2.0], [2.0, -1.0]]}}, "chances add up to 1"),
        ({"limit": "-5"}, "'throughput=-5' is not a limit"),
        ({"name": "no name"}, "metrics: 'no name' is not the name of a metric"),
        ({"sessions": [[]]}, "a session without a launch"),
    ],
)
def test_a_golden_file_with_such_a_metric_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: dict[str, Any], reason: str
) -> None:
    path = golden(tmp_path / "golden.json", **metric)
    line = refusal(capsys, "baseline", "show", path)
    assert f"{path}: cases[{NAME}]" in line
    assert reason in line


def test_the_noise_of_a_metric_without_a_row_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = golden(tmp_path / "golden.json", name="their_metric")
    assert main(["baseline", "show", str(path)]) == 0
    assert "their_metric: launches differ by 1.00%, sessions by 1.00%; no metric of this" in (
        capsys.readouterr().out
    )


def test_whatever_figures_can_be_measured_are_compared_without_overflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = record()
    wide.metrics["throughput"].per_launch = [1e-18, 1.0, 1e18]
    wide.metrics["throughput"].value = 1.0
    a, b = save(tmp_path / "a.json"), save(tmp_path / "b.json", {NAME: wide})
    for form in ([], ["--json"], ["--markdown"]):
        assert main(["compare", str(a), str(b), *form]) == 0
        assert main(["compare", str(b), str(a), *form]) == 0
    assert "Infinity" not in capsys.readouterr().out


def test_a_limit_that_noise_widens_without_end_is_a_finite_figure() -> None:
    decision = decide([1e-18, 1e18], [[1e18, 1e-18]], better="lower", limit=0.05, alpha=1e-9)
    assert decision.status == "noisy"
    assert decision.limit == pytest.approx(1e18)
    assert decision.interval == pytest.approx((-1.0, 1e18))


def test_a_large_object_with_one_key_twice_is_refused(tmp_path: Path) -> None:
    """Looked up key by key, this took minutes."""
    keys = [f'"key{number:06}": 0' for number in range(60_000)]
    content = "{" + ", ".join([*keys, keys[-1]]) + "}"
    with pytest.raises(DataError, match=r"line 1: duplicate key 'key059999'"):
        check_json(tmp_path / "golden.json", content.encode())


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room
    line = refusal(capsys, "compare", large, large)
    assert f"{large} holds 1,099,511,627,776 bytes" in line
    assert "1,099,511,627,776" in refusal(capsys, "report", large, "-o", tmp_path / "report")
    os.truncate(large, 65 * 2**20)
    with pytest.raises(DataError, match="no such file has over 67,108,864"):
        read_golden(large)


RED = "\x1b[2J\x1b[31mred"
FORGED = "\n::error::forged"


@pytest.mark.parametrize("form", [[], ["--markdown"], ["--json"]])
def test_what_files_say_moves_no_cursor_and_forges_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    hostile = disturbed(record(0.9), RED + FORGED, 0, 1, 2)
    hostile.metrics["throughput"].unit = RED + FORGED
    a = save(tmp_path / "a.json")
    b = save(tmp_path / f"b{RED}.json", {NAME: hostile}, failed=[RED + FORGED])
    main(["compare", str(a), str(b), *form])
    main(["compare", str(b), str(a), *form])
    shown = capsys.readouterr()
    assert "red" in shown.out + shown.err
    for line in (shown.out + shown.err).split("\n"):
        assert line.isprintable()
        assert not line.startswith("::")


def test_what_a_golden_file_says_is_shown_in_its_own_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = golden(tmp_path / "golden.json")
    content = json.loads(path.read_text())
    content["accepted"] = [
        msgspec.to_builtins(Acceptance(RED, "2026-01-01", RED + FORGED)) | {"cases": []}
    ]
    path.write_text(json.dumps(content))
    assert main(["baseline", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "accepted 2026-01-01" in shown
    assert all(line.isprintable() and not line.startswith("::") for line in shown.split("\n"))


def test_a_fact_is_no_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fact = "![a](http://b.example/x.png) @everyone <img src=x> | forged | #1"
    content = file_of({NAME: judged(record(), "ok")})
    content["benchmarks"][0]["extra_info"]["dnnbench"]["environment"]["must_match"]["torch"] = fact
    a, b = save(tmp_path / "a.json"), tmp_path / "b.json"
    b.write_text(json.dumps(content))
    assert main(["compare", str(a), str(b), "--markdown"]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if "everyone" in line]
    outside = re.sub(r"`[^`]*`", "", row)
    assert "everyone" not in outside
    assert "<" not in outside
    assert row.replace("\\|", "").count("|") == 9, "a row of eight cells"
