"""Which sessions are a baseline, what may be compared, and the golden file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.errors import DataError, UsageError
from pytest_dnnbench.results.baselines.baseline import (
    CaseBaseline,
    Incomparable,
    StoredRuns,
    storage_runs,
)
from pytest_dnnbench.results.baselines.baseline_source import load_baseline
from pytest_dnnbench.results.baselines.comparability import differences, facts_of
from pytest_dnnbench.results.baselines.golden import Golden, read_golden
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.statistics.noise import TIME
from tests.results.synthetic import NAME, changed, record, save, storage


def case(
    baseline: StoredRuns | Golden, **parts: dict[str, object]
) -> CaseBaseline | Incomparable | None:
    return baseline.of(NAME, facts_of(changed(record(), **parts)))


def test_latest_takes_all_fit_sessions_as_history(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s")
    save(folder / "0006_nightly.json", failed=["test_steps.py::test_other"])
    save(folder / "0007_nightly.json", interrupted=True)
    (folder / "0008_nightly.json").write_text('{"benchmarks": [')
    baseline = storage_runs(folder, "latest")
    found = case(baseline)
    assert isinstance(found, CaseBaseline)
    assert (found.file, found.sessions) == ("0005_nightly.json", 5)
    assert len(found.history["throughput"]) == 5
    assert [
        line.partition(": ")[2][:24] for line in baseline.passed_over if "cut off" not in line
    ] == [
        "not JSON: Expecting valu"[:24],
        "its session was interrup",
        "its session failed (test",
    ] or len(baseline.passed_over) == 3


def test_a_case_that_regressed_is_not_the_next_baseline(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    worse = changed(record(0.8), verdict={"status": "regressed"})
    save(folder / "0003_nightly.json", {NAME: worse})
    found = case(storage_runs(folder, "latest"))
    assert isinstance(found, CaseBaseline)
    assert found.file == "0002_nightly.json"


def test_an_accepted_session_begins_the_history_anew(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 3)
    worse = changed(record(0.8), verdict={"status": "regressed"})
    save(folder / "0004_nightly.json", {NAME: worse}, failed=[NAME])
    assert (
        main(
            ["baseline", "accept", str(folder / "0004_nightly.json"), "--reason", "a safer kernel"]
        )
        == 0
    )
    said = json.loads((folder / "0004_nightly.json").read_text())["dnnbench"]["accepted"]
    assert said["why"] == "a safer kernel"
    assert "@" in said["who"]
    assert said["when"].startswith("20")
    found = case(storage_runs(folder, "latest"))
    assert isinstance(found, CaseBaseline)
    assert (found.file, found.sessions) == ("0004_nightly.json", 1)


def test_a_name_a_number_and_a_path_choose(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 3)
    save(folder / "0004_other.json")
    for wanted, expected, sessions in (
        ("latest", "0004_other.json", 4),
        ("nightly", "0003_nightly.json", 3),
        ("2", "0002_nightly.json", 1),
        ("0002", "0002_nightly.json", 1),
        (str(folder / "0001_nightly.json"), "0001_nightly.json", 1),
    ):
        found = load_baseline(wanted, folder).of(NAME, facts_of(record()))
        assert isinstance(found, CaseBaseline)
        assert (found.file, found.sessions) == (expected, sessions)
    two = load_baseline("2", folder).of(NAME, facts_of(record()))
    assert isinstance(two, CaseBaseline)
    assert two.noise["throughput"].sessions == 2


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    for wanted in ("9", "weekly"):
        with pytest.raises(
            UsageError, match=rf"--dnn-baseline {wanted}: .*0002 \(nightly\), 0001 \(nightly\)"
        ):
            load_baseline(wanted, folder)
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        load_baseline(str(tmp_path / "none.json"), folder)
    assert load_baseline("latest", tmp_path / "empty").names() == []


def test_a_failed_session_asked_for_by_name_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = save(tmp_path / "a.json", failed=["x", "y"])
    with pytest.raises(DataError, match=r"its session failed \(x and 1 more\).*baseline accept"):
        load_baseline(str(file), tmp_path)


def test_unlike_runs_are_refused_with_exactly_what_differs(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    baseline = storage_runs(folder, "latest")
    found = case(
        baseline, environment={"must_match": {"torch": "2.14.0", "driver": "550"}}, case={"gpus": 4}
    )
    assert isinstance(found, Incomparable)
    assert [str(one) for one in found.differences] == ["gpus: 2 -> 4", "torch: 2.13.0 -> 2.14.0"]
    newer = facts_of(
        changed(record(), environment={"must_match": {"torch": "2.14.0", "driver": "560"}})
    )
    assert isinstance(baseline.of(NAME, newer, {"torch", "driver"}), CaseBaseline)
    assert isinstance(baseline.of(NAME, newer, {"torch"}), Incomparable)


def test_a_folder_of_several_machines_gives_each_its_own_sessions(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    other = changed(record(0.5), environment={"must_match": {"torch": "2.13.0", "driver": "999"}})
    save(folder / "0003_nightly.json", {NAME: other})
    found = case(storage_runs(folder, "latest"))
    assert isinstance(found, CaseBaseline)
    assert (found.file, found.sessions) == ("0002_nightly.json", 2)


def test_the_partition_is_compared_and_its_prediction_is_not() -> None:
    plan = {"stages": [{"nodes": ["a"], "replicas": 2, "compute_s": 0.1}], "bottleneck_s": 0.1}
    one = record() | {"plan": plan}
    faster = record() | {
        "plan": {"stages": [{"nodes": ["a"], "replicas": 2, "compute_s": 0.2}], "bottleneck_s": 0.2}
    }
    other = record() | {
        "plan": {"stages": [{"nodes": ["a", "b"], "replicas": 2, "compute_s": 0.1}]}
    }
    assert differences(facts_of(one), facts_of(faster)) == []
    assert [found.fact for found in differences(facts_of(one), facts_of(other))] == ["partition"]


def golden(tmp_path: Path, count: int = 2) -> Golden:
    folder = storage(tmp_path / "s", count)
    runs = [str(path) for path in sorted(folder.glob("*.json"))]
    assert main(["baseline", "update", str(tmp_path / "golden.json"), *runs]) == 0
    return read_golden(tmp_path / "golden.json")


def test_a_golden_file_reads_back_and_is_written_the_same(tmp_path: Path) -> None:
    found = golden(tmp_path)
    text = found.path.read_text()
    assert found.text() == text
    assert len(text.splitlines()) < 25
    baseline = case(found)
    assert isinstance(baseline, CaseBaseline)
    assert len(baseline.history["throughput"]) == 2
    assert baseline.noise["throughput"].sessions == 2


def test_a_limit_written_by_hand_holds_and_survives_an_update(tmp_path: Path) -> None:
    path = golden(tmp_path).path
    data = json.loads(path.read_text())
    data["cases"][NAME]["metrics"]["throughput"]["limit"] = "-8% >=2000"
    path.write_text(json.dumps(data))
    assert main(["baseline", "update", str(path), str(save(tmp_path / "new.json"))]) == 0
    limit = read_golden(path).limits[NAME]["throughput"]
    assert (limit.relative, limit.absolute) == (-0.08, 2000)
    assert '"limit": "-8% >=2000"' in path.read_text()


def test_an_update_takes_no_unfit_session_and_accept_does_with_a_reason(tmp_path: Path) -> None:
    path = golden(tmp_path).path
    before = path.read_text()
    worse = changed(record(0.8), verdict={"status": "regressed"})
    for run in (
        save(tmp_path / "failed.json", failed=["x"]),
        save(tmp_path / "worse.json", {NAME: worse}),
        save(tmp_path / "unlike.json", {NAME: record(gpus=4)}),
    ):
        with pytest.raises(DataError, match="accept it with a reason"):
            Golden.update(read_golden(path), read_saved(run))
        assert main(["baseline", "update", str(path), str(run)]) == 2
    assert path.read_text() == before
    assert (
        main(["baseline", "accept", str(path), str(tmp_path / "worse.json"), "--reason", "safer"])
        == 0
    )
    after = read_golden(path)
    assert (after.accepted[0].why, after.accepted[0].cases) == ("safer", (NAME,))
    assert len(after.cases[NAME].metrics["throughput"].sessions) == 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(dnnbench_golden=2), "dnnbench_golden is 2: this version reads 1"),
        (lambda data: data.update(cades={}), "the key 'cades' is unknown"),
        (
            lambda data: data["cases"][NAME].update(limt="-5%"),
            r"cases\[.*\]: .*unknown field `limt`",
        ),
        (
            lambda data: data["cases"][NAME]["metrics"]["step_time_s"].update(limit="-5%"),
            r"step_time_s=-5%.* would limit an improvement: lower is better, so write \+5%",
        ),
        (
            lambda data: data["cases"][NAME]["metrics"]["step_time_s"].update(sessions=[[]]),
            r"metrics.step_time_s.sessions: a session without a launch",
        ),
        (
            lambda data: data["cases"][NAME]["metrics"]["step_time_s"]["noise"].update(
                launch_sd=-1
            ),
            r"metrics.step_time_s.noise: standard deviations are relative",
        ),
    ],
)
def test_a_slip_in_a_golden_file_is_named_with_its_place(
    tmp_path: Path, edit: object, message: str
) -> None:
    path = golden(tmp_path).path
    data = json.loads(path.read_text())
    edit(data)  # type: ignore[operator] # one of the lambdas above
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=message):
        read_golden(path)


def test_show_prints_noise_and_what_it_lets_one_find(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = golden(tmp_path, 5).path
    assert main(["baseline", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "throughput: launches differ by 0." in shown
    assert "launches find 5%" in shown


WRITER = """
import sys
from pathlib import Path
from pytest_dnnbench.files import replace_file

number = 0
while True:
    number += 1
    replace_file(Path(sys.argv[1]), f"{number:09}" * 200_000)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text("000000000" * 200_000)
    for moment in range(4):
        before = path.read_text()[:9]
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        while path.read_text()[:9] in (before, "000000001") and writer.poll() is None:
            time.sleep(0.001 * moment)
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        text = path.read_text()
        assert text == text[:9] * 200_000


def test_cases_of_the_stored_sessions_tell_of_each_others_noise(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(1, 6):
        cases = {f"{NAME}{other}": record(1 + 0.002 * (number * other % 5)) for other in range(6)}
        save(folder / f"{number:04}_nightly.json", {NAME: record(1 + 0.002 * number)} | cases)
    found, alone = (
        case(storage_runs(folder, "latest")),
        case(storage_runs(storage(tmp_path / "alone"), "latest")),
    )
    assert isinstance(found, CaseBaseline)
    assert isinstance(alone, CaseBaseline)
    assert found.priors["throughput"].launch_dof > TIME.launch_dof
    assert found.priors["throughput"].session_dof > TIME.session_dof
    assert alone.priors["throughput"] == TIME
