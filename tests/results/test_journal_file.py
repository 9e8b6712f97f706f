"""The journal: what is kept comes back as it was; damage and later versions are reported, a
cut-off line is not damage."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.messages import PredictedStep, RankReport, RunRequest
from pytest_dnnbench.results.records.journal_file import SCHEMA, Journal, JournalHead, KeptLaunch
from pytest_dnnbench.results.records.measurement import Launch
from pytest_dnnbench.results.records.schema import Conditions, CorrectnessEntry
from pytest_dnnbench.session.journal import NAME, open_journal
from pytest_dnnbench.session.journaled_launches import KeptLaunches

HEAD = JournalHead(["test_a", "test_b"], {"steps": 3}, {"torch": "2.13"})
REPORT = RankReport(
    rank=0,
    window_start_s=0.1,
    window_end_s=0.1 + 0.2,
    step_index=(0, 1),
    step_end_s=(0.2, 1 / 3),
    step_samples=(8, 8),
    samples_per_update=8,
    metrics={"resident_peak_bytes": float(1 << 40)},
    loss=(1.0, math.inf),
    validation=(3, 4),
    details={"threads": 2},
)
CASE = Case("ddp", "m", 1, "train", options={"buckets": 2})
PROOF = CorrectnessEntry(checked=["gradients"])
LAUNCH = KeptLaunch(
    "test_a",
    CASE,
    {"stages": [1, 2]},
    PROOF,
    (REPORT,),
    Conditions(cores=(0,), yardstick_s=0.1),
    prediction=PredictedStep(0.1, 0.02, 1 / 3, collectives={"all_reduce": (1e-5, 3e9)}),
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A journal of two launches."""
    journal = Journal(tmp_path / NAME)
    journal.begin(HEAD)
    journal.keep(LAUNCH)
    journal.keep(LAUNCH)
    journal.close()
    return tmp_path / NAME


def opened(
    path: Path, head: JournalHead = HEAD, resume: bool = True
) -> tuple[Journal | None, list[str]]:
    said: list[str] = []
    return open_journal(path.parent, head, resume, said.append), said


def test_launches_come_back_as_they_were_bit_for_bit(written: Path) -> None:
    journal, said = opened(written)
    assert journal is not None
    assert journal.kept == [LAUNCH, LAUNCH]
    assert said == [f"dnnbench: 2 launches taken from {written}"]
    journal.close()


def test_the_journal_is_private_and_gone_once_it_is_not_needed(written: Path) -> None:
    assert written.stat().st_mode & 0o777 == 0o600
    Journal(written).discard()
    assert not written.exists()


def test_a_last_line_that_was_cut_off_is_dropped_and_the_next_stands_by_itself(
    written: Path,
) -> None:
    written.write_bytes(written.read_bytes()[:-20])
    journal, said = opened(written)
    assert journal is not None
    assert "1 launch taken" in said[0]
    assert "cut off is measured again" in said[0]
    journal.keep(LAUNCH)
    journal.close()
    assert Journal(written).kept == [LAUNCH, LAUNCH]


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (JournalHead(HEAD.cases, {"steps": 5}, HEAD.environment), "steps: 3 then, 5 now"),
        (JournalHead(HEAD.cases, HEAD.options, {"torch": "2.14"}), r"torch: 2\.13 then, 2\.14 now"),
        (
            JournalHead(["test_b", "test_c"], HEAD.options, HEAD.environment),
            "only then: test_a; only now: test_c",
        ),
    ],
)
def test_another_session_is_not_continued_and_is_left_as_it_was(
    written: Path, head: JournalHead, words: str
) -> None:
    before = written.read_bytes()
    with pytest.raises(DataError, match=words):
        opened(written, head)
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "number", "words"),
    [
        ("not JSON", 2, "line 2, column 1: not JSON"),
        ('{"item": "test_a"}', 2, "line 2: Object missing required field"),
        (
            json.dumps({"schema": SCHEMA + 1, "another": "form"}),
            1,
            "schema 2 is newer than this version reads \\(1\\)",
        ),
        ("[]", 1, "line 1: Expected `object`"),
    ],
)
def test_a_damaged_or_later_journal_is_reported_with_its_line(
    written: Path, line: str, number: int, words: str
) -> None:
    lines = written.read_text().splitlines(keepends=True)
    lines[number - 1] = line + "\n"
    written.write_text("".join(lines))
    with pytest.raises(DataError, match=words):
        opened(written)


def test_a_new_session_sets_an_old_journal_aside_whatever_is_in_it(written: Path) -> None:
    written.write_text("damaged\n")
    journal, said = opened(written, resume=False)
    assert journal is not None
    journal.close()
    assert written.with_name("dnnbench-journal.previous.jsonl").read_text() == "damaged\n"
    assert "would have continued it" in said[0]


@pytest.mark.parametrize("resume", [True, False])
def test_the_journal_of_a_session_that_still_runs_is_not_touched(
    written: Path, resume: bool
) -> None:
    running, before = Journal(written), written.read_bytes()
    journal, said = opened(written, resume=resume)
    running.close()
    assert journal is None
    assert "another one is writing" in said[0]
    assert written.read_bytes() == before


def test_a_full_disk_ends_the_journal_and_not_the_session(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    journal = Journal(written)
    keeper, before = KeptLaunches(journal), written.read_bytes()
    request = SimpleNamespace(case=CASE, plan=None)
    run: Any = SimpleNamespace(
        request=request, correctness=PROOF, launches=[Launch((REPORT,))], prediction=None
    )
    with monkeypatch.context() as patched:
        patched.setattr("os.write", full)
        keeper.keep("test_a", run)
    keeper.keep("test_b", run)
    assert (
        keeper.trouble
        == "from test_a on nothing could be written to it: [Errno 28] No space left on device"
    )
    assert written.read_bytes() == before
    journal.close()


def test_without_a_journal_a_session_starts_from_the_beginning(tmp_path: Path) -> None:
    journal, said = opened(tmp_path / NAME)
    assert journal is not None
    assert (journal.head, journal.kept) == (HEAD, [])
    assert "nothing to continue" in said[0]
    journal.close()


def kept_case(journal: Path, case: Case) -> Any:
    """A run of the case, with what the journal has of it."""
    run: Any = SimpleNamespace(
        request=RunRequest(case, "my:Worker", "m", 2, 1), correctness=None, launches=[]
    )
    opened_journal = Journal(journal)
    try:
        KeptLaunches(opened_journal).restore("test_a", run)
    finally:
        opened_journal.close()
    return run


def test_a_case_gets_back_its_launches_its_plan_and_its_proof(written: Path) -> None:
    run = kept_case(written, CASE)
    assert run.launches == [Launch((REPORT,), LAUNCH.conditions)] * 2
    assert (run.request.plan, run.correctness) == (LAUNCH.plan, PROOF)


def test_launches_of_another_case_are_not_taken(written: Path) -> None:
    with pytest.raises(DataError, match=r"test_a measured another case .*\(batch_size, options\)"):
        kept_case(written, Case("ddp", "m", 1, "train", batch_size=8))


@pytest.mark.parametrize("gpus", [2, 2**53])
def test_reports_of_other_ranks_than_the_case_has_are_damage(written: Path, gpus: int) -> None:
    """However many ranks the file claims: nothing of that size is made."""
    written.write_text(written.read_text().replace('"gpus": 1', f'"gpus": {gpus}', 1))
    with pytest.raises(
        DataError, match=f"line 2: the reports are not those of ranks 0 to {gpus - 1}"
    ):
        opened(written)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"step_samples": [8, 8]', '"step_samples": [0, 0]', "line 2: "),
        (
            '"step_end_s": [0.2,',
            '"step_end_s": [',
            "line 2: rank 0: step_index, .* differ in length",
        ),
        ('"resident_peak_bytes": ', '"resident_peak_bytes": 1e30, "x": ', "resident_peak_bytes"),
        ('"validation": [3, 4]', '"validation": [0, 0]', "line 2: no figures follow from it"),
        ('"yardstick_s": 0.1', '"yardstick_s": -0.1', "yardstick_s"),
        ('"item": "test_a"', f'"item": {"9" * 5000}', "line 2: a whole number has too many digits"),
        ('"item": "test_a"', f'"item": {"[" * 100_000}', "line 2: nested too deeply"),
        ('"item": "test_a"', '"item": "\\ud800"', "line 2: a text holds half of a pair"),
    ],
)
def test_figures_that_were_never_measured_are_damage(
    written: Path, old: str, new: str, words: str
) -> None:
    text = written.read_text()
    assert old in text
    written.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=words) as refused:
        opened(written)
    assert str(refused.value).endswith("without --dnn-resume, which sets it aside")


def test_a_case_that_cannot_be_is_damage(written: Path) -> None:
    written.write_text(written.read_text().replace('"phase": "train"', '"phase": "dream"', 1))
    with pytest.raises(DataError, match="line 2: phase 'dream' is unknown"):
        opened(written)
