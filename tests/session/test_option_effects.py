"""Options without effect: refused where the user has typed them, told where they stand for all
sessions. The examples cover the table of rules, rule by rule."""

from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.session.option_rules import RULES, Collected, Session, rules_of
from pytest_dnnbench.session.settings import Settings

OPEN_CASE = """
def test_train(framework, model, gpus, process_group, dnnbench): raise SystemExit("started")
"""
OWN_CASE = """
import pytest

@pytest.mark.parametrize("framework, model, gpus", [("single", "resnet18", 1)])
def test_train(framework, model, gpus, process_group, dnnbench): raise SystemExit("started")
"""
QUIET = ("--collect-only", "-q", "--dnn-device=cpu")

IDLE = {
    "parallel": ("--dnn-parallel", "without pytest-xdist's -n: give -n N too"),
    "interface": ("--dnn-interface=eth0", "on one machine: say with --dnn-engine how"),
    "ranks_per_node": ("--dnn-ranks-per-node=2", "on one machine: say with --dnn-engine how"),
    "preflight": ("--dnn-preflight=off", "on one machine: say with --dnn-engine how"),
    "nodes": ("--dnn-nodes=2 --dnn-engine=none", "with --dnn-engine none: name another engine"),
    "engine_command": ("--dnn-engine-command=x --dnn-engine=none", "with --dnn-engine none: name"),
    "data_dir": ("--dnn-data-dir=.", "without --dnn-dataset mnist: give it too"),
    "download": ("--dnn-download", "without --dnn-dataset mnist: give it too"),
    "text": ("--dnn-text=a", "without --dnn-dataset text: give it too"),
    "compare_across": ("--dnn-compare-across=torch", "without --dnn-baseline: add --dnn-baseline"),
    "anchor": ("--dnn-anchor=first", "without --dnn-baseline: add --dnn-baseline latest"),
    "against_limits": ("--dnn-against-limits=throughput=-3%", "without another side: add --dnn-a"),
    "confirm": ("--dnn-confirm=2", "without a baseline and without limits: add --dnn-baseline"),
    "false_alarms": ("--dnn-false-alarms=0.02", "in a session that compares nothing: add --dnn-"),
    "image_size": (
        "--dnn-image-size=64 --dnn-models=gpt-tiny,llama-tiny",
        "on models of tokens: name a model of images",
    ),
    "sequence_length": ("--dnn-sequence-length=16", "on models of images: name a model of tokens"),
    "fsdp-reshard": (
        "--dnn-fsdp-reshard=no",
        "without a case of fsdp or tp: add fsdp to --dnn-frameworks",
    ),
}
"""An option of every rule that refuses, as a session has it that would not use it."""


def test_every_rule_that_refuses_has_an_example() -> None:
    options = {name for rule in RULES if not rule.is_only_told for name in rule.options}
    assert options == IDLE.keys() - {"fsdp-reshard"}


@pytest.fixture(autouse=True)
def outside_an_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.mark.parametrize("option", IDLE)
def test_a_typed_option_without_effect_is_refused_in_one_line(
    pytester: pytest.Pytester, option: str
) -> None:
    arguments, why = IDLE[option]
    pytester.makepyfile(OPEN_CASE)
    result = pytester.runpytest_inprocess(*QUIET, *arguments.split())
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in result.errlines if line]
    flag = arguments.partition("=")[0].split()[0]
    assert line.startswith(f"ERROR: {flag} has no effect {why}")
    assert line.endswith(", or leave it out")


def test_what_stands_for_all_sessions_is_told_in_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(OPEN_CASE)
    pytester.makeini(
        "[pytest]\ndnn_data_dir = data\ndnn_interface = eth0\ndnn_confirm = 2\n"
        "dnn_preflight = on\naddopts = --dnn-parallel --dnn-ranks-per-node=3\n"
    )
    result = pytester.runpytest_inprocess(*QUIET)
    assert result.ret == pytest.ExitCode.OK
    assert [line for line in result.outlines if "without effect" in line] == [
        "dnnbench: without effect here: --dnn-parallel (without pytest-xdist's -n);"
        " dnn_interface in the ini file, --dnn-ranks-per-node (on one machine);"
        " dnn_data_dir in the ini file (without --dnn-dataset mnist);"
        " dnn_confirm in the ini file (without a baseline and without limits)"
    ]


@pytest.mark.parametrize(
    ("arguments", "line_end"),
    [
        ("--dnn-frameworks=ddp", "--dnn-frameworks (on tests that choose their framework thems*"),
        ("--dnn-models=resnet34", "--dnn-models (on tests that choose their model themselves)"),
        ("--dnn-shapes=dp2", "--dnn-shapes (on tests that choose their framework or number of*"),
        (
            "--benchmark-disable --dnn-report=x --dnn-limits=throughput=-5%",
            "--dnn-limits, --dnn-report (with --benchmark-disable, which times nothing)",
        ),
    ],
)
def test_what_a_suites_tests_decide_is_told_and_not_refused(
    pytester: pytest.Pytester, arguments: str, line_end: str
) -> None:
    pytester.makepyfile(OWN_CASE)
    result = pytester.runpytest_inprocess(*QUIET, *arguments.split())
    assert result.ret == pytest.ExitCode.OK
    [line] = [line for line in result.outlines if "without effect" in line]
    assert fnmatch(line, f"dnnbench: without effect here: {line_end}")


@pytest.mark.parametrize(
    "arguments",
    [
        "--dnn-confirm=2 --dnn-false-alarms=0.02 --dnn-limits=allocated_peak_bytes<=1GiB",
        "--dnn-false-alarms=0.02 --dnn-calibrate=2",
        "--dnn-image-size=64 --dnn-models=gpt-tiny,resnet18 --dnn-sequence-length=16",
        "--dnn-image-size=64 --dnn-sequence-length=16 --dnn-models=tests.tiny_models:tiny",
        "--dnn-fsdp-reshard=no --dnn-frameworks=single,fsdp",
        "--dnn-baseline=b.json --dnn-compare-across=torch --dnn-anchor=b.json --dnn-confirm=2",
        "--dnn-confirm=0 --dnn-false-alarms=0.01",
        "-n 2 --dnn-parallel",
    ],
)
def test_an_option_with_an_effect_is_taken_in_silence(
    pytester: pytest.Pytester, arguments: str
) -> None:
    marked = OPEN_CASE.replace("def", '@pytest.mark.limits(throughput=">=1")\ndef')
    is_marked = "confirm=0" in arguments
    pytester.makepyfile(f"import pytest\n{marked if is_marked else OPEN_CASE}")
    result = pytester.runpytest_inprocess(*QUIET, *arguments.split())
    assert result.ret == pytest.ExitCode.OK
    assert "without effect" not in result.stdout.str()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dnn-frameworks=single --dnn-precision=tf32", "--dnn-precision tf32 needs a CUDA dev"),
        # A form of the step that the only framework does not take: known once cases are combined.
        ("--dnn-frameworks=ddp --dnn-models=resnet18 --dnn-cuda-graph", "*cuda-graph"),
    ],
)
def test_a_session_that_is_refused_says_nothing_of_options_without_effect(
    pytester: pytest.Pytester, options: str, message: str
) -> None:
    """It said that its tests choose their framework themselves, which they do not."""
    pytester.makepyfile(OPEN_CASE)
    result = pytester.runpytest_inprocess(*QUIET, *options.split())
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}*"])
    assert "without effect" not in result.stdout.str()


def test_the_script_of_a_job_may_name_the_interface_on_a_single_node_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [rule] = [rule for rule in RULES if "interface" in rule.options]
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert not rule.has_effect(Session(Settings()))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert rule.has_effect(Session(Settings()))
    assert not rule.has_effect(Session(Settings(engine="none")))


def test_a_session_without_cases_may_have_any_options(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_inprocess("--dnn-confirm=2", "--dnn-sequence-length=3", "-q")
    assert result.ret == pytest.ExitCode.OK
    assert "without effect" not in result.stdout.str()


def test_an_xdist_worker_refuses_what_the_controllers_command_line_has(
    pytester: pytest.Pytester,
) -> None:
    """A worker's own arguments are no command line."""
    pytester.makepyfile(OPEN_CASE)
    result = pytester.runpytest_subprocess("-n1", "--dnn-device=cpu", "--dnn-confirm=2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in result.errlines if line.startswith("ERROR")]
    assert line.startswith("ERROR: --dnn-confirm has no effect without a baseline and without")
    pytester.makeini("[pytest]\naddopts = --dnn-confirm=2\n")
    later = pytester.runpytest_subprocess("-n1", "--dnn-device=cpu", "-k", "none")
    assert later.ret != pytest.ExitCode.USAGE_ERROR


def framework_rules() -> Iterator[tuple[str, Session]]:
    """Each option of a framework, in a session whose only case is of a framework without it."""
    for spec in FRAMEWORKS:
        for row in spec.options:
            other = next(
                each.name
                for each in FRAMEWORKS
                if all(option.flag != row.flag for option in each.options)
            )
            yield row.flag, Session(Settings(), cases=(Collected(framework=other),))


def test_every_option_of_a_framework_needs_a_case_of_it() -> None:
    rules = {option.name: rule for option, rule in rules_of(Catalog().frameworks.values())}
    for flag, session in framework_rules():
        assert not rules[flag].has_effect(session)
        taker = next(
            spec.name for spec in FRAMEWORKS if any(row.flag == flag for row in spec.options)
        )
        unknown = (Collected(framework=None),)
        for cases in ((*(session.cases or ()), Collected(framework=taker)), unknown):
            assert rules[flag].has_effect(Session(Settings(), cases=cases))
