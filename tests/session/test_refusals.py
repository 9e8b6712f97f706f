"""What a session refuses is one line, with and without pytest-xdist: never a page of tracebacks."""

from fnmatch import fnmatch

import pytest

from pytest_dnnbench.session import benchmark_file

CASES = """
import pytest

@pytest.mark.parametrize("framework, model, gpus", [("single", "resnet18", 1)])
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""
NOTHING = "def test_nothing(): pass"


def refusal(pytester: pytest.Pytester, *arguments: str) -> str:
    """The one line on stderr with which a session ends; no traceback stands on stdout."""
    result = pytester.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "INTERNALERROR" not in result.stdout.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    [line] = [line for line in result.errlines if line]
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dnn-steps 0", "--dnn-steps is 0: it must be at least 1"),
        ("--dnn-precision tf32 --dnn-device cpu", "--dnn-precision tf32 needs a CUDA device"),
        ("--dnn-limits nope=-5%", "--dnn-limits: unknown metric 'nope': choose from throughput"),
        ("--dnn-dataset mnist --dnn-data-dir /nowhere", "data folder '/nowhere' does not exist"),
        ("--dnn-baseline nope", "--dnn-baseline nope: no file of this path"),
        ("--dnn-baseline b.json", "b.json, line 1: not JSON, or cut off"),
        ("--dnn-report file/report", "--dnn-report file/report cannot be written to"),
        ("--benchmark-save a --benchmark-storage file", "--benchmark-storage /"),
        (
            "--benchmark-autosave --benchmark-storage /proc/no",
            "--benchmark-storage /proc/no cannot",
        ),
        ("--benchmark-json /proc/a.json", "--benchmark-json /proc/a.json cannot be written (No"),
        ("--benchmark-json no/a.json", "--benchmark-json no/a.json cannot be written (No such"),
        ("--benchmark-json .", "--benchmark-json . cannot be written (Is a directory): name a"),
        # Workers of pytest-xdist must not be the first to notice.
        ("-n 2 --dnn-steps 0", "--dnn-steps is 0: it must be at least 1"),
        ("-n 2 --dnn-precision tf32 --dnn-device cpu", "--dnn-precision tf32 needs a CUDA device"),
        ("-n 2 --dnn-limits nope=-5%", "--dnn-limits: unknown metric 'nope'"),
        ("-n 2 --dnn-dataset mnist --dnn-data-dir /nowhere", "data folder '/nowhere' does not"),
        ("-n 2 --dnn-baseline b.json --dnn-parallel", "b.json, line 1: not JSON, or cut off"),
        ("--dnn-frameworks dpp", "unknown framework 'dpp': did you mean ddp"),
        ("--dnn-models ../x", "unknown model '../x'"),
    ],
)
def test_an_option_that_cannot_be_is_refused_in_one_line(
    pytester: pytest.Pytester, arguments: str, message: str
) -> None:
    pytester.makepyfile(CASES)
    pytester.path.joinpath("b.json").write_text("{")
    pytester.path.joinpath("file").write_text("")
    assert refusal(pytester, *arguments.split()).startswith(f"ERROR: {message}")


ANY_CASE = """
def test_train(framework, model, gpus, process_group, dnnbench):
    dnnbench.measure(framework, model, process_group(gpus), phase="train")
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-q --dnn-device cuda", "--dnn-device cuda: *; use --dnn-device cpu to run on CPU ranks"),
        ("-q --dnn-cudnn-benchmark", "--dnn-cudnn-benchmark needs a CUDA device, and ranks run on"),
        ("-q --dnn-ranks-per-gpu 2", "--dnn-ranks-per-gpu 2 is for GPUs, and there is none ("),
        ("-q -n 2 --dnn-device cuda", "--dnn-device cuda: *; use --dnn-device cpu to run on CPU"),
        # Only workers of pytest-xdist collect, and their end was its own INTERNALERROR.
        ("-n 2 --dnn-frameworks tp --dnn-models resnet18", "tp cannot train resnet18: it splits"),
        ("--no-header --co --dnn-ranks-per-gpu 2", "--dnn-ranks-per-gpu 2 is for GPUs, and there"),
        ("--dnn-ddp-hook bf16", "--dnn-ddp-hook bf16 needs CUDA: *, and these are cpu ranks; use"),
        ("--co --dnn-ddp-powersgd-rank 2", "--dnn-ddp-powersgd-rank 2 is about *, and the hook is"),
        ("--dnn-frameworks fsdp --dnn-fsdp-reduce last", "--dnn-fsdp-reduce last is about steps"),
        ("-n 2 --dnn-ddp-sync-batchnorm", "--dnn-ddp-sync-batchnorm needs GPUs: *; leave it out"),
        ("--dnn-horovod-op adasum", "--dnn-horovod-op adasum on 2 ranks: Horovod has Adasum for"),
        (
            "--dnn-frameworks 1f1b --dnn-models mlp --gpus 4 --dnn-stages 2"
            " --dnn-schedule-replicas fsdp --dnn-memory-format channels_last",
            "--dnn-schedule-replicas fsdp with --dnn-memory-format channels_last: *",
        ),
    ],
)
def test_what_collection_notices_is_no_error_of_a_file(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    """Without a header nobody asks for the machine before pytest collects: each file had an error
    with a traceback, and the status was that of an interruption."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pytester.makepyfile(test_one=ANY_CASE, test_two=ANY_CASE)
    assert fnmatch(refusal(pytester, *arguments.split()), f"ERROR: {message}*")


HOOKS = {
    "pytest_dnnbench_engines(): return {'x': 1}": "a dict of name: function of nodes and command",
    "pytest_dnnbench_metrics(): return ['x']": "a list of pytest_dnnbench.metrics.Metric",
    "pytest_dnnbench_metrics(): return 5": "a list of pytest_dnnbench.metrics.Metric",
    "pytest_dnnbench_frameworks(): return 'ab'": "a list of pytest_dnnbench.catalog.FrameworkSpec",
    "pytest_dnnbench_models(): return ['a']": 'a dict of name: "module:factory"',
    "pytest_dnnbench_models(): return {'a': 'no colon'}": 'a dict of name: "module:factory"',
}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_returns_something_else_is_refused_in_one_line(
    pytester: pytest.Pytester, hook: str
) -> None:
    pytester.makepyfile(NOTHING)
    pytester.makeconftest(f"def {hook}\n")
    line = refusal(pytester)
    assert line.startswith(f"ERROR: the hook {hook.partition('(')[0]} returned ")
    assert line.endswith(f": let it return {HOOKS[hook]}")


ROWS = "from pytest_dnnbench import FrameworkOption, FrameworkSpec, Metric\n"
RAISING_HOOKS = {
    "frameworks(): return {}['mine']": " raised KeyError: 'mine' (*conftest.py, line 2)",
    "engines(): return 1 / 0": " raised ZeroDivisionError: division by zero (*conftest.py, line 2)",
    "models(): import nil": " raised ModuleNotFoundError: No module named 'nil' (*, line 2)",
    "metrics(): yield Metric('a b', '', 'lower')": " (*, line 2): metric 'a b': a name has *",
    "frameworks(): return [FrameworkSpec('x')]": " raised TypeError: * (*conftest.py, line 2)",
    "frameworks(): return [FrameworkSpec('x', 'm:W', '', requires='mine')]": (
        " (*, line 2): FrameworkSpec 'x': requires is 'mine': give a tuple, each text"
    ),
    "frameworks(): return [FrameworkSpec('x', FrameworkSpec, '')]": (
        " (*, line 2): FrameworkSpec 'x': worker is <class *>: give text"
    ),
    "frameworks(): return [FrameworkSpec('x', 'm', '')]": (
        " (*, line 2): FrameworkSpec 'x': worker is 'm': give 'package.module:name', *"
    ),
    "frameworks(): return [FrameworkSpec('x', 'm:W', '', fits=lambda: True)]": (
        " (*, line 2): FrameworkSpec 'x': fits is <function *>: give text or None"
    ),
    "frameworks(): return [FrameworkSpec('x,y', 'm:W', '')]": (
        " (*, line 2): FrameworkSpec 'x,y': give a name of letters, *"
    ),
    "frameworks(): return [FrameworkSpec('x', 'm:W', '', options='ab')]": (
        " (*): FrameworkSpec 'x': options is 'ab': give a tuple, each a FrameworkOption"
    ),
    "frameworks(): return [FrameworkSpec('x', 'm:W', '', axes={'dp': 1})]": (
        " (*): FrameworkSpec 'x': axes is {'dp': 1}: give a dict of text to text"
    ),
    "frameworks(): return [FrameworkOption('x', '--x', 1, 'about')]": (
        " (*): FrameworkOption 'x' with the flag '--x': give a name *"
    ),
    "metrics(): return [Metric('x', 'B', 'lower', timed=1)]": (
        " (*): Metric 'x': timed is 1: give True or False"
    ),
}


@pytest.mark.parametrize("hook", RAISING_HOOKS)
def test_a_hook_that_raises_is_refused_in_one_line_with_its_place(
    pytester: pytest.Pytester, hook: str
) -> None:
    """A page of traceback ended in status 1, which is that of a regression; what was wrong with a
    row showed in its first launch, or never: the letters of "mine" were modules not installed."""
    pytester.makepyfile(NOTHING)
    pytester.makeconftest(f"{ROWS}def pytest_dnnbench_{hook}\n")
    pattern = f"ERROR: the hook pytest_dnnbench_{hook.partition('(')[0]}{RAISING_HOOKS[hook]}"
    line = refusal(pytester)
    assert fnmatch(line, pattern.replace("[", "[[]")), line


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            "fits='my_rules:wrong'",
            "'my_rules:wrong', which a framework's row names, raised K*",
        ),
        ("rules='my_rules:wrong'", "'my_rules:wrong', which a framework's row names, raised Key*"),
        ("rules='my_rules:none'", "'my_rules:none', which a framework's row names, cannot be imp*"),
        ("fits='my_rules:never'", "x with its defaults fits none of the device counts 1: change *"),
    ],
)
def test_what_a_row_names_is_refused_in_one_line_when_it_fails(
    pytester: pytest.Pytester, fields: str, message: str
) -> None:
    """Each test file had an error with a traceback."""
    pytester.makepyfile(ANY_CASE)
    pytester.makepyfile(
        my_rules="def wrong(*given): raise KeyError('a')\ndef never(*given): return False"
    )
    pytester.makeconftest(
        f"{ROWS}def pytest_dnnbench_frameworks():\n"
        f"    return [FrameworkSpec('x', 'm:W', '', {fields})]\n"
    )
    pytester.syspathinsert()
    line = refusal(pytester, "--dnn-frameworks=x", "--dnn-gpu-counts=1", "--dnn-device=cpu")
    assert fnmatch(line, f"ERROR: {message}"), line


@pytest.mark.parametrize(
    ("hook", "rows", "message"),
    [
        ("frameworks", "[FrameworkSpec('x', '{}:W', '')]", "two frameworks named 'x': *:W and *:W"),
        ("models", "{{'x': '{}:make'}}", "two models named 'x': *:make and *:make"),
        ("engines", "{{'x': lambda nodes, command: '{}'}}", "two engines named 'x': <* and <*"),
    ],
)
def test_two_plugins_with_rows_of_one_name_are_refused(
    pytester: pytest.Pytester, hook: str, rows: str, message: str
) -> None:
    """Which of them was measured depended on the order in which pytest loads plugins."""
    pytester.makepyfile(NOTHING)
    text = f"{ROWS}def pytest_dnnbench_{hook}(): return {rows}\n"
    pytester.makepyfile(of_another=text.format("another"))
    pytester.makeconftest(text.format("mine"))
    pytester.syspathinsert()
    line = refusal(pytester, "-p", "of_another")
    assert fnmatch(line, f"ERROR: hooks add {message}: name one otherwise"), line


MARKED = """
import pytest

@pytest.mark.{mark}
def test_marked(dnnbench): raise AssertionError("it ran")

def test_other(): pass
"""


@pytest.mark.parametrize("distribution", [[], ["-n", "2"]], ids=["alone", "under xdist"])
@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("limits(nope='-5%')", "limits mark of *test_marked: unknown metric 'nope'"),
        ("known_regression()", "known_regression mark of *test_marked: write known_regression("),
    ],
)
def test_a_mark_that_cannot_be_is_refused_before_its_case_runs(
    pytester: pytest.Pytester, distribution: list[str], mark: str, message: str
) -> None:
    pytester.makepyfile(MARKED.format(mark=mark))
    result = pytester.runpytest_inprocess(*distribution)
    assert "INTERNALERROR" not in result.stdout.str()
    assert "it ran" not in result.stdout.str()
    message = message.replace("(", "[(]")
    if distribution:
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines([f"{message}*"])
    else:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: {message}*"])


def test_a_session_that_measured_nothing_leaves_no_journal(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(CASES)
    refusal(pytester, "--dnn-baseline", "nope", "--benchmark-storage", "st")
    assert not list(pytester.path.rglob("*.jsonl"))


MISUSED = """
import pytest

@pytest.mark.parametrize("count", [0, "2"])
def test_ranks(process_group, count):
    process_group(count)

def test_number(dnnbench):
    dnnbench.time("steps:nothing", 2)

def test_unit(dnnbench, process_group):
    dnnbench.time("steps:nothing", process_group(1), unit="bananas")

def test_arguments(dnnbench, process_group):
    dnnbench.time("steps:nothing", process_group(1), arguments="size")

def test_form(dnnbench, process_group):
    dnnbench.measure("single", "resnet18", process_group(1), phase="train", form="fused")

def test_crowd(process_group):
    process_group(10_000_000)
"""


def test_what_a_test_gives_wrongly_fails_it_in_a_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MISUSED)
    pytester.makepyfile(steps="def nothing():\n    return lambda: None\n")
    options = ("--dnn-device", "cpu", "--benchmark-disable", "-p", "no:cacheprovider", "-rs")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(failed=6, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "process_group(0): give a whole number of ranks from 1",
            "process_group('2'): give a whole number of ranks from 1",
            "the ranks of torch are 2: give process_group(N)",
            "*unit 'bananas' is unknown: choose from img, tok, sample, B",
            "*arguments is 'size': give names and values, as in {'size': 64}",
            "*form is 'fused': give a StepForm, as in StepForm(fused=True)",
            "*10000000 CPU ranks need * GiB of memory at least, and this machine has *",
        ]
    )


def test_a_histogram_that_nothing_can_draw_is_refused_before_the_first_case(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest-benchmark imports what draws it after the last case: the session ended in a
    traceback."""
    monkeypatch.setattr(benchmark_file, "find_spec", lambda name: None)
    pytester.makepyfile(CASES)
    line = refusal(pytester, "--benchmark-histogram=a")
    assert line.startswith("ERROR: --benchmark-histogram needs pygal and pygaljs, not installed")
    assert "pip install 'pytest-benchmark[histogram]'" in line
