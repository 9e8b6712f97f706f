"""Verdicts as a user sees them: the case that got worse fails, and only that one."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.acceptance.test_main_job import CASES
from tests.fake_launches import CONFTEST

TRAIN = "test_cases.py::test_train[{}-resnet18-{}gpu]"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs training cases of `single` and `ddp`; keyword arguments become the environment. The
    sessions are in this process, for their launches are made up, but those of pytest-xdist."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_cases=CASES)
    pytester.makeini("[pytest]\nstrict_markers = true\nfilterwarnings = error\n")

    def start(*arguments: str, **environment: Any) -> pytest.RunResult:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value if isinstance(value, str) else json.dumps(value))
            workers = "-n2" in arguments
            return (pytester.runpytest_subprocess if workers else pytester.runpytest_inprocess)(
                "--gpus=2",
                "--dnn-device=cpu",
                "--dnn-models=resnet18",
                "--dnn-frameworks=single,ddp",
                "--dnn-steps=3",
                "-k",
                "train",
                "--benchmark-storage=saved",
                *arguments,
            )

    return start


def saved(pytester: pytest.Pytester, number: int) -> dict[str, Any]:
    [path] = (pytester.path / "saved").rglob(f"{number:04}_*.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def stored_again(pytester: pytest.Pytester, last: int) -> None:
    """Stores the first session again, up to this number: one of made-up launches that is run again
    measures the same."""
    [first] = (pytester.path / "saved").rglob("0001_*.json")
    for number in range(2, last + 1):
        shutil.copy(first, first.with_name(first.name.replace("0001", f"{number:04}", 1)))


def records(content: dict[str, Any]) -> dict[str, Any]:
    return {case["fullname"]: case["extra_info"]["dnnbench"] for case in content["benchmarks"]}


@pytest.fixture(scope="module")
def three_sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where three saved sessions will lie once the first test has made them."""
    return tmp_path_factory.mktemp("three") / "saved"


@pytest.fixture
def stored(run: Any, pytester: pytest.Pytester, three_sessions: Path) -> Any:
    """The same, after three sessions were saved."""
    if not three_sessions.exists():
        for _ in range(3):
            run("--benchmark-save=nightly").assert_outcomes(passed=3, deselected=3)
        shutil.copytree(pytester.path / "saved", three_sessions)
    shutil.copytree(three_sessions, pytester.path / "saved", dirs_exist_ok=True)
    return run


def test_the_case_that_got_slower_fails_alone_with_its_figures(
    stored: Any, pytester: pytest.Pytester
) -> None:
    result = stored(
        "--dnn-baseline=latest",
        "--benchmark-save=today",
        "--junitxml=out.xml",
        FAKE_LEVELS={"single": 80},
    )
    result.assert_outcomes(passed=2, failed=1, deselected=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "regressed: single-resnet18-1gpu (train), against 0003_nightly.json,"
            " the last 3 sessions",
            "  throughput: baseline * img/s, now * img/s, -20.0?%",
            "    95% interval -*% to -*%, limit -*% (default*), confidence over 99.99%",
            "    measured again in 3 fresh launches: * img/s, * img/s, * img/s",
            "  others: allocated_peak_bytes ok, cached_peak_bytes ok",
        ]
    )
    assert "Traceback" not in result.stdout.str()
    assert "regressed: single-resnet18-1gpu" in (pytester.path / "out.xml").read_text()
    today = saved(pytester, 4)
    assert today["dnnbench"]["failed"] == [TRAIN.format("single", 1)]
    verdicts = {name: record["verdict"] for name, record in records(today).items()}
    assert [verdict["status"] for verdict in verdicts.values()] == ["regressed", "ok", "ok"]
    worse = verdicts[TRAIN.format("single", 1)]
    assert worse["against"]["sessions"] == 3
    assert worse["metrics"]["throughput"]["change"] == pytest.approx(-0.2, abs=0.01)
    assert len(worse["confirmation"]["per_launch"]["throughput"]) == 3
    assert worse["confirmation"]["first"]["throughput"]["status"] == "regressed"


def test_a_regressed_session_is_never_the_next_baseline_unless_accepted(
    stored: Any, pytester: pytest.Pytester
) -> None:
    slow = {"FAKE_LEVELS": {"ddp": 80}}
    for _ in range(2):
        result = stored("--dnn-baseline=latest", "--benchmark-save=nightly", **slow)
        result.assert_outcomes(passed=1, failed=2, deselected=3)
    result.stdout.fnmatch_lines(
        ["passed over: 0004_nightly.json: *ddp* and 1 more failed in it: not used"]
    )
    result = stored(
        "--dnn-baseline=latest",
        "--benchmark-save=nightly",
        "--dnn-accept",
        "a safer all-reduce",
        **slow,
    )
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(["accepted: *ddp*: a safer all-reduce"])
    accepted = saved(pytester, 6)["dnnbench"]["accepted"]
    assert (accepted["why"], "@" in accepted["who"], accepted["when"][:2]) == (
        "a safer all-reduce",
        True,
        "20",
    )
    stored("--dnn-baseline=latest", **slow).assert_outcomes(passed=3, deselected=3)


def test_on_a_slower_machine_only_the_case_that_lost_far_more_fails(
    stored: Any, pytester: pytest.Pytester
) -> None:
    slower = {"FAKE_LEVELS": {"single": 50, "ddp": 78}, "FAKE_MACHINE": "80"}
    result = stored("--dnn-baseline=latest", "--benchmark-save=today", **slower)
    result.assert_outcomes(passed=2, failed=1, deselected=3)
    machine = (
        "the machine itself is 20.0% slower than for the baseline (yardstick 2 ms, now 2.5 ms)"
    )
    result.stdout.fnmatch_lines(
        [f"    {machine}, which does not explain it", f"noisy: *ddp*: {machine}: measure again *"]
    )
    verdicts = {name: record["verdict"] for name, record in records(saved(pytester, 4)).items()}
    assert [verdict["status"] for verdict in verdicts.values()] == ["regressed", "noisy", "noisy"]
    assert verdicts[TRAIN.format("ddp", 2)]["metrics"]["throughput"]["machine"]["explains"] is True
    result = stored("--dnn-baseline=nightly", "--dnn-compare-across=driver", **slower)
    result.assert_outcomes(failed=3, deselected=3)


def test_a_slow_moment_that_does_not_repeat_fails_nothing(
    stored: Any, pytester: pytest.Pytester
) -> None:
    once = {"FAKE_LEVELS": {"single": 80}, "FAKE_AGAIN": {"single": 100}}
    stored("--dnn-baseline=latest", "--dnn-confirm=0", **once).assert_outcomes(
        passed=2, failed=1, deselected=3
    )
    result = stored("--dnn-baseline=latest", "--benchmark-save=today", **once)
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(["noisy: *single*: throughput -*"])
    verdict = records(saved(pytester, 4))[TRAIN.format("single", 1)]["verdict"]
    assert verdict["confirmation"]["first"]["throughput"]["status"] == "regressed"


def test_disturbed_launches_fail_nothing_and_hide_nothing(
    stored: Any, pytester: pytest.Pytester
) -> None:
    single = TRAIN.format("single", 1)
    shared = {"FAKE_DISTURBED": {"single": {str(number): 50 for number in range(6)}}}
    result = stored("--dnn-baseline=latest", "--benchmark-save=shared", **shared)
    result.assert_outcomes(passed=3, deselected=3)
    why = "6 of 6 launches disturbed (*): measure again when the devices are free"
    result.stdout.fnmatch_lines([f"noisy: *single*: throughput -50*: {why}"])
    record = records(saved(pytester, 4))[single]
    assert len(record["metrics"]["throughput"]["per_launch"]) == 3
    assert (
        record["verdict"]["confirmation"]["disturbed"]
        == ["other processes used 1.0 of 2 cores"] * 3
    )

    result = stored(
        "--dnn-baseline=latest", "--benchmark-save=today", FAKE_DISTURBED={"single": {"1": 50}}
    )
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(
        [
            "passed over: 0004_shared.json: every launch of *single-resnet18-1gpu? was"
            " disturbed: times are not used"
        ]
    )
    entry = records(saved(pytester, 5))[single]["verdict"]["metrics"]["throughput"]
    assert (entry["status"], entry["left_out"]) == ("ok", 1)

    slow = {"FAKE_LEVELS": {"single": 80}, "FAKE_DISTURBED": {"single": {"1": 50, "4": 50}}}
    result = stored("--dnn-baseline=latest", **slow)
    result.assert_outcomes(passed=2, failed=1, deselected=3)
    result.stdout.fnmatch_lines(
        ["    2 of 6 launches disturbed (other processes used 1.0 of 2 cores), left out"]
    )


def test_a_report_in_junit_xml_has_the_figures_and_the_verdict(
    stored: Any, pytester: pytest.Pytester
) -> None:
    """It had a time that is none of the case's."""
    stored("--dnn-baseline=latest", "--junitxml=junit.xml", FAKE_LEVELS={"ddp": 80})
    cases = {
        case.attrib["name"]: {
            each.attrib["name"]: each.attrib["value"] for each in case.iter("property")
        }
        for case in ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    }
    steady, slow = cases["test_train[single-resnet18-1gpu]"], cases["test_train[ddp-resnet18-2gpu]"]
    assert steady["dnnbench.verdict"] == "ok"
    assert slow["dnnbench.verdict"] == "regressed"
    assert float(steady["dnnbench.throughput"]) == pytest.approx(800, rel=0.01)
    assert float(slow["dnnbench.throughput"]) == pytest.approx(1280, rel=0.01)
    assert slow["dnnbench.sample"] == "img"
    assert float(slow["dnnbench.allocated_peak_bytes"]) == 2**30


def test_more_memory_fails_and_faster_is_reported(stored: Any) -> None:
    result = stored("--dnn-baseline=latest", FAKE_MEMORY_MIB=1050, FAKE_LEVELS={"single": 130})
    result.assert_outcomes(failed=3, deselected=3)
    result.stdout.fnmatch_lines(["  allocated_peak_bytes: baseline 1 GiB, now 1.025 GiB, +2.54%"])
    result = stored("--dnn-baseline=latest", FAKE_LEVELS={"single": 130})
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(["improved: *single*: throughput +*%, step_time_s -*%, confid*"])


def test_the_rank_that_the_others_wait_for_is_named_with_and_without_a_baseline(
    stored: Any,
) -> None:
    slow = {"FAKE_LEVELS": {"ddp": 80}, "FAKE_OWN_MS": {"ddp": [2.5, 5]}}
    said = "rank 1 is the slow one: its own part of a step takes 5 ms, the others' 2.5 ms"
    result = stored("--dnn-baseline=latest", **slow)
    result.assert_outcomes(passed=1, failed=2, deselected=3)
    result.stdout.fnmatch_lines(["regressed: ddp-resnet18-2gpu (train)*", f"  {said}"])
    result = stored(**slow)
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(
        [f"slow rank: {TRAIN.format('ddp', 2).replace('[', '[[]')}: {said}"]
    )
    assert "slow rank" not in stored(FAKE_OWN_MS={"ddp": [5, 5]}).stdout.str()


def test_last_failed_and_stop_at_the_first_failure_work(stored: Any) -> None:
    slow = {"FAKE_LEVELS": {"ddp": 80}}
    stored("--dnn-baseline=latest", "-x", **slow).assert_outcomes(passed=1, failed=1, deselected=3)
    stored("--dnn-baseline=latest", "--lf", **slow).assert_outcomes(failed=1)


def test_a_limit_on_the_case_holds_whatever_the_baseline(
    run: Any, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        test_cases="import pytest\n"
        "@pytest.mark.limits(throughput='>=5000', scaling_efficiency='>=0.9')"
        + CASES.partition("\n\n")[0]
    )
    result = run()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "regressed: single-resnet18-1gpu (train), held to its absolute limit",
            "  throughput: * img/s, required: at least 5,000 img/s",
            "    95% interval *, limit from limits mark of *, confidence over 99.99%",
        ]
    )
    run("--dnn-limits=throughput=off").assert_outcomes(passed=3)
    result = run("--dnn-limits=throughput=off", FAKE_LEVELS={"ddp": 60})
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["  scaling_efficiency: 0.6, required: at least 0.9"])


def test_a_limit_that_is_held_without_a_baseline_is_told_and_recorded(
    run: Any, pytester: pytest.Pytester
) -> None:
    """It read "no verdict", as if nobody had looked."""
    result = run("--dnn-limits=throughput>=50,step_time_s<=1", "--benchmark-save=first", "-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "* single *1 * limit held +1,500%",
            "no baseline to compare with: only absolute limits were judged",
            "limit held: *: throughput: * img/s, required: at least 50 img/s, kept by 1,500.0%",
        ]
    )
    result.stdout.no_fnmatch_line("no verdict*")
    for record in records(saved(pytester, 1)).values():
        verdict = record["verdict"]
        assert verdict["status"] == "no-baseline"
        throughput, step_time = (verdict["metrics"][name] for name in ("throughput", "step_time_s"))
        assert (throughput["status"], throughput["limit_absolute"]) == ("ok", 50.0)
        assert throughput["change"] == pytest.approx(throughput["now"] / 50 - 1)
        assert step_time["change"] == pytest.approx(step_time["now"] - 1)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("limits(speed='-5%')", "*unknown metric 'speed': choose from throughput*"),
        ("limits('-5%')", "*write limits(METRIC=*), not limits('-5%')"),
        ("known_regression()", "*write known_regression(reason=*"),
        (
            "known_regression(reason='x', until='soon')",
            "*until='soon' is not a date: write it as 2027-01-31",
        ),
    ],
)
def test_a_mark_that_cannot_be_is_refused_before_anything_runs(
    run: Any, pytester: pytest.Pytester, mark: str, message: str
) -> None:
    pytester.makepyfile(
        test_cases=f"import pytest\n@pytest.mark.{mark}" + CASES.partition("\n\n")[0]
    )
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dnn-baseline=weekly"],
            "*--dnn-baseline weekly: no file of this path, and *holds no saved session*",
        ),
        (["--dnn-baseline=none.json"], "*none.json cannot be read: No such file or directory*"),
        (["--dnn-baseline=cut.json"], "*cut.json, line 1: not JSON, or cut off*"),
        (["--dnn-limits=throughput=+5%"], "*--dnn-limits: * would limit an improvement*"),
        (["--dnn-accept= "], "*--dnn-accept is empty*"),
        (["--dnn-false-alarms=0.9"], "*must be below 0.5*"),
        (
            ["--dnn-launches=auto", "--dnn-baseline=latest"],
            "*latest holds no usable session: first save *",
        ),
        (
            ["--dnn-launches=auto", "--dnn-baseline=latest", "-n2", "--dnn-parallel"],
            "*holds no usable session*",
        ),
        (["--dnn-calibrate=1"], "*--dnn-calibrate is 1: it must be at least 2*"),
    ],
)
def test_a_request_that_cannot_be_is_refused_before_anything_runs(
    run: Any, pytester: pytest.Pytester, arguments: list[str], message: str
) -> None:
    (pytester.path / "cut.json").write_text('{"benchmarks": [')
    result = run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len([line for line in result.errlines if line.strip()]) == 1
    result.stderr.fnmatch_lines([message])


def test_what_was_compared_with_nothing_is_said_and_fails_when_required(
    run: Any, pytester: pytest.Pytester
) -> None:
    result = run("--dnn-baseline=latest", "--benchmark-save=nightly", "--dnn-frameworks=single")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["NO BASELINE: *; this one is saved: the next one *"])
    result = run("--dnn-baseline=latest")
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(
        ["THE BASELINE LACKS: *ddp-resnet18-1gpu?", "THE BASELINE LACKS: *ddp-resnet18-2gpu?"]
    )
    result = run("--dnn-baseline=latest", "--dnn-require-baseline", "--benchmark-json=part.json")
    result.assert_outcomes(passed=1, failed=2, deselected=3)
    result.stdout.fnmatch_lines(
        ["--dnn-require-baseline: 0001_nightly.json lacks *ddp-resnet18-1gpu?; it was not measured"]
    )
    measured = records(json.loads((pytester.path / "part.json").read_text()))
    assert list(measured) == [TRAIN.format("single", 1)]
    run("--benchmark-save=nightly")
    result = run("--dnn-baseline=latest", "--dnn-frameworks=single")
    result.stdout.fnmatch_lines(["THIS RUN LACKS: *ddp-resnet18-1gpu?"])
    assert result.ret == pytest.ExitCode.OK
    result = run("--dnn-baseline=latest", "--dnn-frameworks=single", "--dnn-require-baseline")
    result.assert_outcomes(passed=1, deselected=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    chosen = run("--dnn-baseline=latest", "--dnn-require-baseline", "-k", "train and single")
    assert chosen.ret == pytest.ExitCode.OK


def test_a_required_baseline_without_any_of_the_cases_is_refused_before_they_are_measured(
    run: Any,
) -> None:
    required = ("--dnn-baseline=latest", "--dnn-require-baseline")
    run("--benchmark-save=nightly", "--dnn-frameworks=single")
    result = run(*required, "--dnn-frameworks=ddp")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--dnn-baseline latest has none of this session's 2 cases: it has *single-resnet18-1gpu?"]
    )
    run("--benchmark-save=nightly", "--dnn-frameworks=ddp")
    result = run(*required, "--dnn-models=resnet34")
    result.stderr.fnmatch_lines(["*has none of this session's 3 cases: it has * and 1 more"])


def test_another_torch_is_not_compared_unless_asked_for(stored: Any) -> None:
    newer = {"FAKE_TORCH": "2.14.0", "FAKE_LEVELS": {"single": 80}}
    result = stored("--dnn-baseline=latest", **newer)
    result.assert_outcomes(passed=3, deselected=3)
    result.stdout.fnmatch_lines(
        [
            "NOT COMPARABLE: *single-resnet18-1gpu?, *ddp-resnet18-1gpu?, *ddp-resnet18-2gpu?:"
            " not comparable with 0003*: torch: 2.13.0 -> 2.14.0",
            "NOT COMPARABLE: --dnn-compare-across torch compares all the same; once this session*",
        ]
    )
    stored("--dnn-baseline=latest", "--dnn-require-baseline", **newer).assert_outcomes(
        failed=3, deselected=3
    )
    stored("--dnn-baseline=latest", "--dnn-compare-across=torch", **newer).assert_outcomes(
        passed=2, failed=1, deselected=3
    )


def test_a_known_regression_is_expected_until_its_date_and_its_end_is_reported(
    stored: Any, pytester: pytest.Pytester
) -> None:
    def mark(until: str) -> None:
        text = (
            f"import pytest\n@pytest.mark.known_regression(reason='issue 12', until='{until}')"
            + CASES
        )
        pytester.makepyfile(test_cases=text)

    mark("2999-01-01")
    slow = {"FAKE_LEVELS": {"single": 80}}
    result = stored("--dnn-baseline=latest", "--benchmark-save=nightly", **slow)
    result.assert_outcomes(passed=2, xfailed=1, deselected=3)
    assert result.ret == pytest.ExitCode.OK
    again = stored("--dnn-baseline=latest", **slow)
    again.assert_outcomes(
        passed=2, xfailed=1, deselected=3
    )  # the old level is still what it is held to
    result = stored("--dnn-baseline=latest")
    result.stdout.fnmatch_lines(
        ["no longer a regression: *single*: take the known_regression mark away (issue 12)"]
    )
    mark("2020-01-01")
    result = stored("--dnn-baseline=latest", **slow)
    result.assert_outcomes(passed=2, failed=1, deselected=3)
    result.stdout.fnmatch_lines(["  expected until 2020-01-01 (issue 12): that is over"])


def test_a_calibration_learns_the_noise_and_says_what_it_lets_one_find(
    run: Any, pytester: pytest.Pytester
) -> None:
    result = run("--dnn-calibrate=4", "--benchmark-save=calibrated", "--dnn-frameworks=single")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(
        ["calibrated: *single*: throughput: launches differ by 0.*; detects *% with 3 *"]
    )
    record = records(saved(pytester, 1))[TRAIN.format("single", 1)]
    assert len(record["metrics"]["throughput"]["per_launch"]) == 12
    assert record["noise"]["throughput"]["launches"] == 12
    noisy = ("--dnn-calibrate=4", "--dnn-frameworks=single")
    strict = run(*noisy, FAKE_NOISE=20)
    lenient = run(*noisy, "--dnn-false-alarms=0.4", FAKE_NOISE=20)
    assert detectable(lenient) < detectable(strict), "what is detectable follows the rate"


def detectable(result: pytest.RunResult) -> float:
    """The change of throughput, in percent, that a calibrated session would detect."""
    [line] = [line for line in result.outlines if "calibrated: " in line and "throughput" in line]
    return float(line.partition("detects ")[2].partition("%")[0])


def test_a_golden_file_is_a_baseline_with_limits_of_its_own(
    stored: Any, pytester: pytest.Pytester
) -> None:
    from pytest_dnnbench.__main__ import main

    golden = pytester.path / "golden.json"
    runs = [str(path) for path in sorted((pytester.path / "saved").rglob("*.json"))]
    assert main(["baseline", "update", str(golden), *runs]) == 0
    stored("--dnn-baseline=golden.json", FAKE_LEVELS={"single": 80}).assert_outcomes(
        passed=2, failed=1, deselected=3
    )
    data = json.loads(golden.read_text())
    for metric, limit in (("throughput", "-30%"), ("step_time_s", "+40%")):
        data["cases"][TRAIN.format("single", 1)]["metrics"][metric]["limit"] = limit
    golden.write_text(json.dumps(data))
    stored("--dnn-baseline=golden.json", FAKE_LEVELS={"single": 80}).assert_outcomes(
        passed=3, deselected=3
    )
    result = stored("--dnn-baseline=golden.json", "--benchmark-json=golden.json")
    result.stderr.fnmatch_lines(["*would overwrite --dnn-baseline in place*"])


def test_cases_side_by_side_are_judged_and_never_against_a_serial_session(
    run: Any, pytester: pytest.Pytester
) -> None:
    run("--benchmark-save=nightly", "-n2", "--dnn-parallel").assert_outcomes(passed=3)
    stored_again(pytester, 2)
    result = run(
        "-n2",
        "--dnn-parallel",
        "--dnn-baseline=latest",
        "--dnn-require-baseline",
        FAKE_LEVELS={"single": 80},
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["verdicts against 0002_nightly.json: 2 ok, 1 regressed"])
    chosen = run(
        "-n2",
        "--dnn-parallel",
        "--dnn-baseline=latest",
        "--dnn-require-baseline",
        "-k",
        "train and single",
    )
    assert chosen.ret == pytest.ExitCode.OK
    result = run("--dnn-baseline=latest")
    result.stdout.fnmatch_lines(["NOT COMPARABLE: *single*: *parallel: True -> (none)"])


PLANNED = "dnnbench: 4 launches: the fewest that detect a 5.4% change of throughput in 3 cases"


def counts(pytester: pytest.Pytester, number: int) -> list[tuple[int, int]]:
    """Of each record of a saved session: its launches, and those that were planned."""
    every = records(saved(pytester, number)).values()
    return [(len(record["launches"]), record["launch_plan"]["launches"]) for record in every]


def test_the_launches_that_find_a_change_are_planned_run_and_recorded(
    run: Any, pytester: pytest.Pytester
) -> None:
    for _ in range(5):
        run("--benchmark-save=nightly", FAKE_NOISE=12)
    auto = ("--dnn-baseline=latest", "--dnn-launches=auto:5.4%")
    result = run(*auto, "--benchmark-save=today", FAKE_NOISE=12, FAKE_LEVELS={"single": 60})
    result.assert_outcomes(passed=2, failed=1, deselected=3)
    result.stdout.fnmatch_lines(
        [PLANNED, "dnnbench: round 1 of 4, 3 cases", "dnnbench: round 3 of 4, 3 cases"]
    )
    result.stdout.fnmatch_lines(["    measured again in 4 fresh launches: *"])
    assert result.stdout.str().count(PLANNED) == 1
    assert counts(pytester, 6) == [(4, 4)] * 3
    entry = records(saved(pytester, 6))[TRAIN.format("single", 1)]["launch_plan"]
    assert entry == {
        "effect": pytest.approx(0.054),
        "metric": "throughput",
        "launches": 4,
        "needed": 4,
        "stored": True,
    }
    run("--dnn-baseline=latest", "--dnn-launches=auto:1%").stdout.fnmatch_lines(
        [
            "dnnbench: 3 launches, the default: no case can be planned;"
            " no number up to 20 detects a 1% change of * and 2 more: *"
        ]
    )

    stopped = run(*auto, "-x", FAKE_NOISE=12, FAKE_LEVELS={"single": 60})
    stopped.stdout.fnmatch_lines(["*continue with --dnn-resume"])
    refused = run("--dnn-baseline=latest", "--dnn-launches=5", "--dnn-resume")
    refused.stderr.fnmatch_lines(["*the session in * was another one: launches: 4 then, 5 now.*"])
    resumed = run(
        *auto, "--dnn-resume", "--benchmark-save=resumed", "--dnn-accept=x", FAKE_NOISE=12
    )
    resumed.assert_outcomes(passed=3, deselected=3)
    assert counts(pytester, 7) == [(4, 4)] * 3


def test_workers_plan_the_same_launches_each_for_itself(
    run: Any, pytester: pytest.Pytester
) -> None:
    side_by_side = ("-n2", "--dnn-parallel")
    run(*side_by_side, "--benchmark-save=nightly", FAKE_NOISE=12)
    stored_again(pytester, 5)
    auto = ("--dnn-baseline=latest", "--dnn-launches=auto:5.4%", "--benchmark-save=today")
    result = run(*side_by_side, *auto, FAKE_NOISE=12)
    result.assert_outcomes(passed=3)
    assert result.stdout.str().count(PLANNED) == 1
    assert counts(pytester, 6) == [(4, 4)] * 3


def test_a_session_that_lacks_cases_is_not_said_to_have_judged_them(
    run: Any, pytester: pytest.Pytester
) -> None:
    """The line named the newest session for all cases, also for those that it does not hold."""
    run("--benchmark-save=a")
    run("--benchmark-save=b", "--deselect", "test_cases.py::test_train[ddp-resnet18-2gpu]")
    result = run("--dnn-baseline=latest")
    result.stdout.fnmatch_lines(["verdicts against 0002_b.json, 0001_a.json: 3 ok"])
    result = run(
        "--dnn-baseline=latest", "--deselect", "test_cases.py::test_train[ddp-resnet18-2gpu]"
    )
    result.stdout.fnmatch_lines(["verdicts against 0002_b.json: 2 ok"])


def test_a_first_comparison_counts_the_other_cases_and_its_saved_file_is_judged_alike(
    run: Any, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calm cases that are a little faster say that sessions differ little; slower ones say
    nothing."""
    from pytest_dnnbench.__main__ import main

    models = "--dnn-models=resnet18,resnet34,resnet50,alexnet"
    run(models, "--benchmark-save=old", FAKE_NOISE="10").assert_outcomes(passed=12, deselected=12)
    finds = []
    for number, level in ((2, 101), (3, 98)):
        levels = {"single": level, "ddp": level}
        environment = {"FAKE_LEVELS": levels, "FAKE_NOISE": "10"}
        run(models, "--dnn-baseline=1", f"--benchmark-save=s{number}", **environment)
        verdict = records(saved(pytester, number))[TRAIN.format("single", 1)]["verdict"]
        finds.append(verdict["metrics"]["throughput"]["minimum_detectable"])
    assert finds[0] < 0.9 * finds[1]
    files = [str(path) for path in sorted((pytester.path / "saved").rglob("*.json"))]
    capsys.readouterr()
    assert main(["compare", *files[:2], "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["verdicts"]
    for case, record in records(saved(pytester, 2)).items():
        assert compared[case]["metrics"] == record["verdict"]["metrics"]
