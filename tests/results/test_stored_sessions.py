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
from pytest_dnnbench.planner.plan import Plan, PlannedStage
from pytest_dnnbench.results.baselines.baseline_source import load_baseline
from pytest_dnnbench.results.baselines.case_baseline import (
    CaseBaseline,
    ComparedWith,
    Incomparable,
    NoBaseline,
)
from pytest_dnnbench.results.baselines.comparability import alike, differences, facts_of
from pytest_dnnbench.results.baselines.golden import Golden
from pytest_dnnbench.results.baselines.golden_file import golden_text, read_golden
from pytest_dnnbench.results.baselines.golden_update import update_golden
from pytest_dnnbench.results.baselines.stored_sessions import Baseline, storage_runs
from pytest_dnnbench.results.records.saved import read_saved
from pytest_dnnbench.results.records.schema import PlanEntry, Record
from pytest_dnnbench.results.statistics.noise import TIME
from tests.results.synthetic import NAME, elsewhere, file_of, judged, record, save, storage


def case(baseline: Baseline, now: Record | None = None) -> ComparedWith:
    return baseline.of(NAME, facts_of(now or record()))


OTHER = NAME.replace("train", "validate")


def test_latest_takes_all_fit_sessions_as_history(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s")
    save(folder / "0006_nightly.json", failed=[NAME])
    save(folder / "0007_nightly.json", interrupted=True)
    (folder / "0008_nightly.json").write_text('{"benchmarks": [')
    baseline = storage_runs(folder, "latest")
    stored = case(baseline)
    assert isinstance(stored, CaseBaseline)
    assert (stored.file, stored.sessions) == ("0005_nightly.json", 5)
    assert len(stored.history["throughput"]) == 5
    damaged, interrupted, failed = baseline.passed_over
    assert "0008_nightly.json, line 1: not JSON, or cut off" in damaged
    assert interrupted == "0007_nightly.json: its session was interrupted"
    assert failed == f"0006_nightly.json: {NAME} failed in it: not used"


def test_a_case_that_fails_night_by_night_leaves_the_others_their_history(tmp_path: Path) -> None:
    for night in (1, 2):
        save(tmp_path / f"000{night}_nightly.json", {NAME: record(), OTHER: record()})
    regressed = judged(record(0.8), "regressed")
    save(tmp_path / "0003_nightly.json", {NAME: record(), OTHER: regressed}, failed=[OTHER])
    save(tmp_path / "0004_nightly.json", {NAME: record()}, failed=[OTHER, "test_of_another_kind"])
    baseline = storage_runs(tmp_path, "latest")
    passing, failing = case(baseline), baseline.of(OTHER, facts_of(record()))
    assert isinstance(passing, CaseBaseline)
    assert isinstance(failing, CaseBaseline)
    assert (passing.file, passing.sessions) == ("0004_nightly.json", 4)
    assert (failing.file, failing.sessions) == ("0002_nightly.json", 2)
    assert baseline.passed_over == [
        f"{file}: {OTHER} failed in it: not used"
        for file in ("0004_nightly.json", "0003_nightly.json")
    ]


def test_a_session_of_other_benchmarks_hides_no_baseline(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    save(folder / "0003_nightly.json", {})
    baseline = storage_runs(folder, "latest")
    assert (baseline.name, baseline.names()) == ("0002_nightly.json", [NAME])


def test_a_case_that_regressed_is_not_the_next_baseline(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    save(folder / "0003_nightly.json", {NAME: judged(record(0.8), "regressed")})
    stored = case(storage_runs(folder, "latest"))
    assert isinstance(stored, CaseBaseline)
    assert stored.file == "0002_nightly.json"


def test_an_accepted_session_begins_the_history_anew(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 3)
    save(folder / "0004_nightly.json", {NAME: judged(record(0.8), "regressed")}, failed=[NAME])
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
    stored = case(storage_runs(folder, "latest"))
    assert isinstance(stored, CaseBaseline)
    assert (stored.file, stored.sessions) == ("0004_nightly.json", 1)


def test_a_name_a_number_and_a_path_choose(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 3)
    save(folder / "0004_other.json")
    for source, expected, sessions in (
        ("latest", "0004_other.json", 4),
        ("nightly", "0003_nightly.json", 3),
        ("2", "0002_nightly.json", 1),
        ("0002", "0002_nightly.json", 1),
        (str(folder / "0001_nightly.json"), "0001_nightly.json", 1),
    ):
        stored = case(load_baseline(source, folder))
        assert isinstance(stored, CaseBaseline)
        assert (stored.file, stored.sessions) == (expected, sessions)
    two = case(load_baseline("2", folder))
    assert isinstance(two, CaseBaseline)
    assert two.noise["throughput"].sessions == 2


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    for source in ("9", "weekly"):
        with pytest.raises(
            UsageError, match=rf"--dnn-baseline {source}: .*0002 \(nightly\), 0001 \(nightly\)"
        ):
            load_baseline(source, folder)
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        load_baseline(str(tmp_path / "none.json"), folder)
    assert load_baseline("latest", tmp_path / "empty").names() == []


def test_the_first_session_of_a_name_may_name_itself(tmp_path: Path) -> None:
    """As a job that always has --benchmark-save=nightly --dnn-baseline nightly."""
    assert not load_baseline("nightly", tmp_path, "nightly").names()
    with pytest.raises(UsageError, match="holds no saved session"):
        load_baseline("nightly", tmp_path, "weekly")


def test_a_failed_session_asked_for_by_name_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = save(tmp_path / "a.json", failed=["x", "y"])
    with pytest.raises(DataError, match=r"its session failed \(x and 1 more\).*baseline accept"):
        load_baseline(str(file), tmp_path)


def test_unlike_runs_are_refused_with_exactly_what_differs(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    baseline = storage_runs(folder, "latest")
    unlike = case(baseline, elsewhere(record(gpus=4), torch="2.14.0"))
    assert isinstance(unlike, Incomparable)
    assert unlike.reason == "gpus: 2 -> 4; torch: 2.13.0 -> 2.14.0"
    newer = facts_of(elsewhere(record(), torch="2.14.0", driver="560"))
    assert isinstance(baseline.of(NAME, newer, {"torch", "driver"}), CaseBaseline)
    assert isinstance(baseline.of(NAME, newer, {"torch"}), Incomparable)


def test_a_folder_of_several_machines_gives_each_its_own_sessions(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    save(folder / "0003_nightly.json", {NAME: elsewhere(record(0.5), driver="999")})
    stored = case(storage_runs(folder, "latest"))
    assert isinstance(stored, CaseBaseline)
    assert (stored.file, stored.sessions) == ("0002_nightly.json", 2)


def test_a_number_is_that_session_or_nothing(tmp_path: Path) -> None:
    folder = storage(tmp_path / "s", 2)
    save(folder / "0003_nightly.json", {NAME: elsewhere(record(), driver="999")})
    save(folder / "0004_nightly.json", {"another case": record()})
    unlike = case(load_baseline("3", folder))
    assert isinstance(unlike, Incomparable)
    assert unlike.file == "0003_nightly.json"
    assert case(load_baseline("4", folder)) == NoBaseline()


def planned(nodes: tuple[str, ...], compute_s: float) -> Record:
    """A record of a pipeline of one stage."""
    stage = PlannedStage(0, 1, 2, compute_s, 1.0, 1.0, 1.0, 1, nodes)
    made = record()
    made.plan = PlanEntry(
        plan=Plan("corrected", (2,), compute_s, 1.0, 1.0, 1.0, (stage,)),
        shape="2",
        parallelism="data",
        decided_by="planner",
        bandwidth_bytes_s=None,
        profile_parts_over_whole=None,
        predicted_step_time_s=compute_s,
        predicted_data_parallel_step_time_s=1.0,
        measured_step_time_s=1.0,
        ranks=[],
    )
    return made


def test_the_partition_is_compared_and_its_prediction_is_not() -> None:
    usual, faster, other = planned(("a",), 0.1), planned(("a",), 0.2), planned(("a", "b"), 0.1)
    assert differences(facts_of(usual), facts_of(faster)) == []
    assert alike(usual, faster)
    unlike = differences(facts_of(usual), facts_of(other))
    assert [difference.fact for difference in unlike] == ["partition"]
    assert not alike(usual, other)


def test_an_empty_fact_is_like_an_absent_one_and_false_is_not() -> None:
    now = {"variables.NCCL_ALGO": "", "mkldnn": False}
    assert [str(each) for each in differences({}, now)] == ["mkldnn: (none) -> False"]
    assert [each.fact for each in differences({"a": "1"}, {"a": ""})] == ["a"]
    assert differences({}, {"variables.NCCL_ALGO": "Ring"}, across=["variables"]) == []


def test_what_has_nothing_to_compare_with_answers_like_a_baseline() -> None:
    unlike = Incomparable("a.json", None, differences({"gpus": 2}, {"gpus": 4}))
    for nothing, status in ((NoBaseline(), "no-baseline"), (unlike, "incomparable")):
        assert nothing.sessions_of("throughput") == []
        assert (nothing.metrics, nothing.limits, nothing.disturbed) == ((), {}, ())
        assert nothing.noise_of("throughput") is None
        assert nothing.prior_of("throughput") is TIME
        assert nothing.status("ok") == status
        assert nothing.status("regressed") == "regressed"


def golden(tmp_path: Path, count: int = 2) -> Golden:
    folder = storage(tmp_path / "s", count)
    runs = [str(path) for path in sorted(folder.glob("*.json"))]
    assert main(["baseline", "update", str(tmp_path / "golden.json"), *runs]) == 0
    return read_golden(tmp_path / "golden.json")


def test_a_golden_file_reads_back_and_is_written_the_same(tmp_path: Path) -> None:
    made = golden(tmp_path)
    text = made.path.read_text()
    assert golden_text(made) == text
    assert len(text.splitlines()) < 25
    baseline = case(made)
    assert isinstance(baseline, CaseBaseline)
    assert len(baseline.history["throughput"]) == 2
    assert baseline.noise["throughput"].sessions == 2


def night(folder: Path, number: int) -> None:
    """A night's session in a machine's folder of the storage."""
    path = folder / f"{number:04}_nightly.json"
    content = file_of({NAME: record(seed=number)})
    content["datetime"] = f"2026-03-{number:02}T02:00:00+00:00"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_folder_stands_for_its_newest_session_and_each_is_taken_over_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, saved = tmp_path / "golden.json", tmp_path / "saved"

    def updated(*arguments: object) -> tuple[str, int]:
        assert main(["baseline", "update", str(path), *map(str, arguments)]) == 0
        baseline = case(read_golden(path))
        assert isinstance(baseline, CaseBaseline)
        return capsys.readouterr().out.strip(), len(baseline.history["throughput"])

    for number in range(1, 12):
        night(saved / "Linux", number)
    assert updated(saved) == (f"{path}: 1 case", 1)
    before = path.read_text()
    assert updated(saved) == (f"{path}: 1 case; 1 session no newer than it left out", 1)
    assert path.read_text() == before
    night(saved / "Linux", 12)
    assert updated(saved, "--last", 3)[1] == 2, "of the 10th, 11th and 12th the last is new"
    path.unlink()
    assert updated(saved, "--last", 4)[1] == 4
    named = [saved / "Linux" / f"{number:04}_nightly.json" for number in (1, 2)]
    assert updated(*named)[1] == 6, "what is named is added, be it old"


def test_an_update_from_the_storage_of_two_machines_is_refused_whole(tmp_path: Path) -> None:
    """A golden file is of one machine."""
    path, saved = tmp_path / "golden.json", tmp_path / "saved"
    for machine, gpus in (("Linux-a", 1), ("Linux-b", 4)):
        (saved / machine).mkdir(parents=True)
        save(saved / machine / "0001_nightly.json", {NAME: record(gpus=gpus)})
    assert main(["baseline", "update", str(path), str(saved)]) == 2
    assert not path.exists()


def test_a_limit_written_by_hand_holds_and_survives_an_update(tmp_path: Path) -> None:
    path = golden(tmp_path).path
    content = json.loads(path.read_text())
    content["cases"][NAME]["metrics"]["throughput"]["limit"] = "-8% >=2000"
    path.write_text(json.dumps(content))
    assert main(["baseline", "update", str(path), str(save(tmp_path / "new.json"))]) == 0
    limit = read_golden(path).cases[NAME].limits["throughput"]
    assert (limit.relative, limit.absolute) == (-0.08, 2000)
    assert '"limit": "-8% >=2000"' in path.read_text()


def test_an_update_takes_no_unfit_session_and_accept_does_with_a_reason(tmp_path: Path) -> None:
    path = golden(tmp_path).path
    before = path.read_text()
    worse = judged(record(0.8), "regressed")
    for run in (
        save(tmp_path / "failed.json", failed=["x"]),
        save(tmp_path / "worse.json", {NAME: worse}),
        save(tmp_path / "unlike.json", {NAME: record(gpus=4)}),
    ):
        with pytest.raises(DataError, match="accept it with a reason"):
            update_golden(read_golden(path), read_saved(run))
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
        (
            lambda content: content.update(dnnbench_golden=2),
            "dnnbench_golden is 2: this version reads 1",
        ),
        (lambda content: content.update(cades={}), "the key 'cades' is unknown"),
        (
            lambda content: content["cases"][NAME].update(limt="-5%"),
            r"cases\[.*\]: .*unknown field `limt`",
        ),
        (
            lambda content: content["cases"][NAME]["metrics"]["step_time_s"].update(limit="-5%"),
            r"step_time_s=-5%.* would limit an improvement: lower is better, so write \+5%",
        ),
        (
            lambda content: content["cases"][NAME]["metrics"]["step_time_s"].update(sessions=[[]]),
            r"metrics.step_time_s.sessions: a session without a launch",
        ),
        (
            lambda content: content["cases"][NAME]["metrics"]["step_time_s"]["noise"].update(
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
    content = json.loads(path.read_text())
    edit(content)  # type: ignore[operator] # one of the lambdas above
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_golden(path)


def test_show_prints_noise_and_what_it_lets_a_session_detect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = golden(tmp_path, 5).path
    assert main(["baseline", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "throughput: launches differ by 0." in shown
    assert "launches would detect a 5% change" in shown


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
    suite = case(storage_runs(folder, "latest"))
    alone = case(storage_runs(storage(tmp_path / "alone"), "latest"))
    assert isinstance(suite, CaseBaseline)
    assert isinstance(alone, CaseBaseline)
    assert suite.priors["throughput"].launch_dof > TIME.launch_dof
    assert suite.priors["throughput"].ratios != TIME.ratios
    assert alone.priors["throughput"] == TIME


def test_a_case_that_is_new_changes_nothing_for_the_others(tmp_path: Path) -> None:
    """What cases know of each other was learnt from the sessions of the case that was asked for
    first, and of a new case that is one session."""
    names = [NAME.replace("resnet18", f"model{number}") for number in range(6)]
    for number in range(1, 6):
        records = {name: record(seed=10 * number + at) for at, name in enumerate(names)}
        if number == 5:
            records["test_steps.py::test_new"] = record()
        save(tmp_path / f"{number:04}_n.json", records)
    facts = facts_of(record())
    alone = storage_runs(tmp_path, "latest").of(names[0], facts)
    stored = storage_runs(tmp_path, "latest")
    assert stored.of("test_steps.py::test_new", facts).sessions_of("throughput")
    after = stored.of(names[0], facts)
    assert after.prior_of("throughput") == alone.prior_of("throughput")
    assert stored.of(names[1], facts).prior_of("throughput") is after.prior_of("throughput")
