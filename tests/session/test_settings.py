"""Options: counts, scaling, names; bad ones get one clear line that names the value and the fix."""

from dataclasses import fields, replace

import pytest

from pytest_dnnbench.case import Case
from pytest_dnnbench.catalog import Catalog, FrameworkSpec
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.catalog.models import OWN_MODELS, TORCHVISION_MODELS
from pytest_dnnbench.controller.machine import Gpu, visible
from pytest_dnnbench.controller.torch_build import installed_torch
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.run_length import as_seconds, as_warmup, seconds_of
from pytest_dnnbench.session.option import framework_options
from pytest_dnnbench.session.settings import NOT_MEASURED, OPTIONS, Settings
from pytest_dnnbench.session.settings_reading import read_settings


def settings(**more: object) -> Settings:
    values: dict[str, object] = {
        option.key.removeprefix("dnn_"): option.default for option in OPTIONS
    }
    return replace(Settings(**values, framework_options={}), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("top", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (6, (1, 2, 4, 6))]
)
def test_gpus_counts_up_in_powers_of_two(top: int, counts: tuple[int, ...]) -> None:
    assert settings(gpus=top).counts(available=8) == counts


def test_counts_default_to_what_is_there_and_can_be_given() -> None:
    assert settings().counts(available=4) == (1, 2, 4)
    assert settings(gpu_counts=(3,), gpus=8).counts(available=4) == (3,)


def test_how_long_is_timed_depends_on_the_device_unless_it_is_given() -> None:
    assert (settings().timed("cpu"), settings().timed("cuda")) == (10, "5s")
    assert settings(steps=4).timed("cuda") == 4
    assert settings(window="2s").timed("cpu") == "2s"
    assert settings().warmup == "auto"


def test_lengths_are_written_in_one_way() -> None:
    assert [as_warmup(text, "") for text in ("3", "2s", " 2.50 s", "0.5s", "auto")] == [
        *(3, "2s", "2.5s", "0.5s", "auto")
    ]
    assert as_seconds(".5s", "") == "0.5s"
    assert [seconds_of(length) for length in (3, "2.5s", "auto")] == [None, 2.5, None]


@pytest.mark.parametrize(
    ("ini", "arguments", "expected"),
    [
        ("dnn_window = 5s", ["--dnn-steps=4"], (4, None)),
        ("dnn_steps = 4", ["--dnn-window=5s"], (None, "5s")),
        ("dnn_window = 5s", [], (None, "5s")),
    ],
)
def test_the_command_lines_length_stands_against_the_ini_files(
    pytester: pytest.Pytester, ini: str, arguments: list[str], expected: tuple[int | None, str]
) -> None:
    pytester.makeini(f"[pytest]\n{ini}\n")
    chosen = read_settings(pytester.parseconfig(*arguments), Catalog())
    assert (chosen.steps, chosen.window) == expected


@pytest.mark.parametrize(
    ("ini", "arguments", "counts"),
    [
        ("dnn_gpu_counts = 1,3", ["--gpus=2"], (1, 2)),
        ("dnn_gpus = 2", ["--dnn-gpu-counts=3"], (3,)),
        ("addopts = --gpus=2", ["--dnn-gpu-counts=3"], (3,)),
        ("dnn_gpus = 2\naddopts = --dnn-gpu-counts=3", [], (3,)),
    ],
)
def test_of_two_options_that_say_the_same_the_nearer_to_the_user_stands(
    pytester: pytest.Pytester, ini: str, arguments: list[str], counts: tuple[int, ...]
) -> None:
    """The ini file's counts took the effect of --gpus away in silence."""
    pytester.makeini(f"[pytest]\n{ini}\n")
    chosen = read_settings(pytester.parseconfig(*arguments), Catalog())
    assert chosen.counts(available=8) == counts


def test_what_is_left_open_depends_on_the_device() -> None:
    cpu, cuda = settings().on("cpu"), settings().on("cuda")
    assert (cpu.image_size, cpu.batch_size, cpu.precision) == (28, 32, "fp32")
    assert (cuda.image_size, cuda.batch_size, cuda.precision) == (224, 128, "bf16")
    given = settings(image_size=28, batch_size=7, precision="tf32").on("cuda")
    assert (given.image_size, given.batch_size, given.precision) == (28, 7, "tf32")
    assert settings(dataset="mnist").on("cuda").image_size == 28


def test_on_gpus_the_suites_models_have_channels_last_and_ones_own_do_not() -> None:
    suites, own = "torchvision.models:resnet50", "my.models:tokens"
    assert settings().form("cuda", suites).label == "channels_last"
    assert settings().form("cuda", own).label == settings().form("cpu", suites).label == ""
    assert settings().form("cuda", suites, ("fused",)).label == ""
    assert settings(memory_format="contiguous").form("cuda", suites).label == ""
    assert settings(memory_format="channels_last").form("cuda", own).label == "channels_last"
    chosen = settings(compile="max-autotune", fused=True, accumulate=4).form("cpu", own)
    assert chosen.label == "compile_max_autotune-fused-accumulate4"


def test_strong_scaling_divides_or_says_what_would() -> None:
    assert settings(scaling="strong", batch_size=64).batch_for(4) == 16
    with pytest.raises(
        UsageError,
        match=r"cannot divide --dnn-batch-size 10 by 4 GPUs: use a multiple of 4, such as 8",
    ):
        settings(scaling="strong", batch_size=10).batch_for(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "--gpus is 0: it must be at least 1"),
        (["--gpus", "two"], "--gpus 'two' is not a number"),
        (["--dnn-gpu-counts", "1,x"], "--dnn-gpu-counts 'x' is not a count"),
        (["--dnn-frameworks", "dpp"], "unknown framework 'dpp': did you mean ddp"),
        (["--dnn-models", "resnet19"], "unknown model 'resnet19': did you mean resnet1"),
        (["--dnn-models", "my.models.net"], "stands behind a colon: write my.models:net"),
        (["--dnn-models", "%"], "such as a classifier of torchvision"),
        (["--dnn-models", "no_such_package:net"], "no module 'no_such_package' can be imported"),
        (["--dnn-models", "a b:c"], "not of the form package.module:factory"),
        (["--dnn-models", ","], "--dnn-models is empty"),
        (
            ["--dnn-precision", "fp8"],
            "--dnn-precision 'fp8' is unknown: choose from fp32, tf32, bf16",
        ),
        (["--dnn-batch-size", "0"], "--dnn-batch-size is 0: it must be at least 1"),
        (
            ["--dnn-scaling", "strong", "--dnn-batch-size", "9", "--gpus", "2"],
            "cannot divide --dnn-batch-size 9 by 2",
        ),
        (["--dnn-dataset", "mnist"], "--dnn-dataset mnist needs --dnn-data-dir"),
        (
            ["--dnn-dataset", "mnist", "--dnn-data-dir", "nowhere"],
            "data folder 'nowhere' does not exist",
        ),
        (
            ["--dnn-dataset", "mnist", "--dnn-data-dir", ".", "--dnn-image-size", "64"],
            "MNIST's images have 28",
        ),
        (["--dnn-dataset", "text"], "--dnn-dataset text needs --dnn-text FILE: the file's"),
        (
            ["--gpus", "2", "--dnn-gpu-counts", "1,2"],
            "--gpus 2 and --dnn-gpu-counts 1,2 both say on how many devices to run: leave one",
        ),
        (["--dnn-dataset", "text", "--dnn-text", "nowhere"], "--dnn-text 'nowhere' cannot be read"),
        (["--dnn-sequence-length", "-1"], "--dnn-sequence-length is -1: it must be at least 0"),
        (["--dnn-launches", "0"], "--dnn-launches is 0"),
        (["--dnn-steps", "5s"], "--dnn-steps '5s' is not a number"),
        (["--dnn-window", "5"], "--dnn-window '5' is no number of seconds: write it with its unit"),
        (["--dnn-window", "0s"], "--dnn-window is 0s: it must be longer than 0 s"),
        (["--dnn-window", "1000000000.5s"], "longer than 0 s, and at most 1000000000 s"),
        (
            ["--dnn-timeout", "1e10"],
            "--dnn-timeout is 10000000000.0: it must be at most 1000000000",
        ),
        (["--dnn-steps", "9" * 30], f"--dnn-steps is {'9' * 30}: it must be at most 1000000000"),
        (["--gpus", "9999999"], "--gpus is 9999999: it must be at most 1000000"),
        (["--dnn-gpu-counts", "1,9999999"], "write whole numbers from 1 to 1,000,000, as in"),
        (["--dnn-launches", "9" * 30], "it must be at least 1 and at most 1000000000"),
        (["--dnn-warmup", "9" * 30], "it must be at least 0 and at most 1000000000"),
        (["--dnn-stages", "x"], "--dnn-stages 'x': write a number of stages"),
        (["--dnn-plan", "/no"], "--dnn-plan /no cannot be read (No such file or directory): write"),
        (["--dnn-warmup", "-1"], "--dnn-warmup is -1: it must be at least 0"),
        (
            ["--dnn-warmup", "soon"],
            "--dnn-warmup 'soon' is no warm-up: write a number of steps, as 3, seconds, as 2s, or"
            " auto",
        ),
        (
            ["--dnn-steps", "9", "--dnn-window", "5s"],
            "--dnn-steps 9 and --dnn-window 5s both say how long to time: leave one of them out",
        ),
        (
            ["--dnn-launches", "many"],
            "--dnn-launches 'many' is not a number: write a number such as 5, auto, or auto:3%",
        ),
        (["--dnn-launches", "auto:5"], "--dnn-launches 'auto:5' is not a number"),
        (
            ["--dnn-launches", "auto:0%"],
            "--dnn-launches auto:0%: a change to detect lies between 0% and 100%",
        ),
        (["--dnn-launches", "auto"], "--dnn-launches auto needs --dnn-baseline"),
        (
            ["--dnn-memory-format", "nhwc"],
            "--dnn-memory-format 'nhwc' is unknown: choose from contig",
        ),
        (["--dnn-compile=fast"], "--dnn-compile 'fast' is unknown: choose from default, reduce-"),
        (["--dnn-accumulate", "0"], "--dnn-accumulate is 0: it must be at least 1"),
        (
            ["--dnn-compile", "--dnn-checkpointing"],
            "--dnn-compile with --dnn-checkpointing: a block that runs again must not move its",
        ),
        (
            ["--dnn-ranks-per-gpu", "2"],
            "--dnn-ranks-per-gpu 2 is for GPUs, and there is none",
        ),
        (["--dnn-cudnn-benchmark"], "--dnn-cudnn-benchmark needs a CUDA device, and ranks run on"),
        (
            ["--dnn-accumulate=2", "--dnn-frameworks=ddp,pipedream"],
            "pipedream takes no --dnn-accumulate: pipelines have an option of their own for that",
        ),
        (["--dnn-timeout", "nan"], "--dnn-timeout is nan: it must be at least 1"),
    ],
)
def test_bad_input_gets_one_line_before_anything_starts(
    pytester: pytest.Pytester, arguments: list[str], message: str
) -> None:
    pytester.makepyfile(
        "def test_it(framework, model, gpus, process_group, dnnbench): raise SystemExit('started')"
    )
    result = pytester.runpytest_inprocess("--dnn-device", "cpu", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in (*result.outlines, *result.errlines) if message in line]
    assert len(lines) == 1, result.errlines
    assert "started" not in result.stdout.str()


def test_cuda_that_is_not_there_is_said(pytester: pytest.Pytester) -> None:
    torch = installed_torch()
    if torch is None or torch.cuda is not None:
        pytest.skip("this torch is built for CUDA: whether there is a GPU is the machine's affair")
    pytester.makepyfile("def test_it(framework, model, gpus, process_group, dnnbench): pass")
    result = pytester.runpytest_inprocess("--dnn-device", "cuda")
    result.stderr.fnmatch_lines(
        ["*--dnn-device cuda: torch * is built without CUDA; use --dnn-device cpu*"]
    )


def test_ini_twins_are_read_and_the_command_line_wins(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(framework, model, gpus, process_group, dnnbench): pass")
    pytester.makeini(
        "[pytest]\ndnn_models = resnet34,resnet50\ndnn_gpus = 1\ndnn_frameworks = single\n"
    )
    listed = pytester.runpytest_inprocess("--collect-only", "-q")
    listed.stdout.fnmatch_lines(
        ["*test_it[[]single-resnet34-1gpu[]]", "*test_it[[]single-resnet50-1gpu[]]"]
    )
    listed = pytester.runpytest_inprocess("--collect-only", "-q", "--dnn-models", "resnet18")
    assert "resnet34" not in listed.stdout.str()


@pytest.mark.parametrize("value", ["auto:3%", "7"])
def test_launches_are_a_number_or_auto_in_the_ini_file_too(
    pytester: pytest.Pytester, value: str
) -> None:
    pytester.makepyfile("def test_it(dnnbench): pass")
    pytester.makeini(f"[pytest]\ndnn_launches = {value}\ndnn_baseline = latest\n")
    pytester.makeconftest(
        "from pytest_dnnbench.session.state import SETTINGS\n"
        "def pytest_report_header(config):\n"
        "    settings = config.stash[SETTINGS]\n"
        "    return f'{settings.launches} launches to find {settings.effect}'\n"
    )
    expected = {"auto:3%": "3 launches to find 0.03", "7": "7 launches to find None"}[value]
    pytester.runpytest_inprocess("--collect-only").stdout.fnmatch_lines([expected])
    given = pytester.runpytest_inprocess("--collect-only", "--dnn-launches=4")
    given.stdout.fnmatch_lines(["4 launches to find None"])


def test_a_number_of_launches_is_one_in_toml_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(dnnbench): pass")
    pytester.makepyprojecttoml("[tool.pytest]\ndnn_launches = 0\n")
    result = pytester.runpytest_inprocess("--collect-only")
    result.stderr.fnmatch_lines(["*dnn_launches in the ini file is 0: it must be at least 1*"])


# What decides which launches are made, and how: a session that differs in one of these is not
# continued.
MEASURED = {
    *(
        "gpus",
        "gpu_counts",
        "device",
        "frameworks",
        "shapes",
        "models",
        "dataset",
        "data_dir",
        "image_size",
        "text",
        "sequence_length",
        "batch_size",
    ),
    *(
        "scaling",
        "precision",
        "launches",
        "steps",
        "warmup",
        "window",
        "seed",
        "nodes",
        "ranks_per_node",
        "interface",
        *("memory_format", "compile", "fused", "checkpointing", "accumulate"),
        "cudnn_benchmark",
        "cuda_graph",
        "ranks_per_gpu",
        *("path", "against", "against_path", "against_env"),
        "calibrate",
        "framework_options",
    ),
    *("against", "against_path", "against_env"),
}


def test_every_setting_is_known_to_change_what_is_measured_or_not_to() -> None:
    assert not MEASURED & NOT_MEASURED
    assert {field.name for field in fields(Settings)} == MEASURED | NOT_MEASURED


def test_third_party_rows_replace_and_add() -> None:
    row = FrameworkSpec("mine", "my.worker:Worker", "", requires=("no_such_module",))
    catalog = Catalog().with_rows([row], {"net": "my.nets:net"})
    assert catalog.framework("mine").missing() == ("no_such_module",)
    assert catalog.model("net") == "my.nets:net"
    assert set(catalog.models) == {*TORCHVISION_MODELS, *OWN_MODELS, "net"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"phase": "test"}, "phase 'test'"),
        ({"gpus": 0}, "gpus is 0"),
        ({"precision": "tf32"}, "needs a CUDA device"),
        ({"dataset": "mnist", "image_size": 32}, "28 pixels a side"),
    ],
)
def test_a_case_that_cannot_be_is_refused(wrong: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {
        "framework": "ddp",
        "model": "resnet18",
        "gpus": 1,
        "phase": "train",
        **wrong,
    }
    with pytest.raises(UsageError, match=message):
        Case(**fields)  # type: ignore[arg-type]


def test_visible_devices_select_and_order_gpus() -> None:
    gpus = [Gpu("H100", f"GPU-{letter}111") for letter in "abc"]
    names = {None: "abc", "": "", "2,0": "ca", "GPU-b": "b", "1,9,0": "b", "-1,0": ""}
    for variable, expected in names.items():
        assert "".join(gpu.uuid[4] for gpu in visible(gpus, variable)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "dnn_steps = three",
            "dnn_steps in the ini file 'three' is not a number: write a whole number",
        ),
        (
            "dnn_timeout = soon",
            "dnn_timeout in the ini file 'soon' is not a number: write a number, as 2.5",
        ),
        (
            "dnn_launches = many",
            "dnn_launches in the ini file 'many' is not a number: write a number",
        ),
        ("dnn_launches = 0", "dnn_launches in the ini file is 0: it must be at least 1"),
        ("dnn_launches = auto", "dnn_launches in the ini file auto needs --dnn-baseline: launches"),
        ("dnn_gpu_counts = 1,x", "dnn_gpu_counts in the ini file 'x' is not a count"),
        ("dnn_gpus = many", "dnn_gpus in the ini file 'many' is not a number"),
        ("dnn_warmup = long", "dnn_warmup in the ini file 'long'"),
        ("dnn_window = long", "dnn_window in the ini file 'long'"),
        ("dnn_prediction_error = 5", "dnn_prediction_error in the ini file '5': give a percentage"),
        ("dnn_false_alarms = 1", "dnn_false_alarms in the ini file is 1.0: it must be below 0.5"),
        ("dnn_path = no/folder", "dnn_path in the ini file no/folder: there is no such folder"),
        ("dnn_against = nothing", "dnn_against in the ini file nothing: there is no such interp"),
        ("dnn_dataset = mnist", "dnn_dataset in the ini file mnist needs --dnn-data-dir"),
        ("dnn_scaling = wide", "dnn_scaling in the ini file 'wide' is unknown"),
        ("dnn_resume = perhaps", "dnn_resume in the ini file 'perhaps' is neither true nor false"),
    ],
)
def test_a_bad_value_in_the_ini_file_is_named_by_its_key(
    pytester: pytest.Pytester, line: str, message: str
) -> None:
    pytester.makepyfile("def test_it(dnnbench): pass")
    pytester.makeini(f"[pytest]\n{line}\n")
    result = pytester.runpytest_inprocess("--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}*"])


def test_a_bad_value_of_the_command_line_is_named_by_its_flag(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(dnnbench): pass")
    pytester.makeini("[pytest]\ndnn_launches = 3\n")
    result = pytester.runpytest_inprocess("--collect-only", "--dnn-launches=many")
    result.stderr.fnmatch_lines(["ERROR: --dnn-launches 'many' is not a number*"])


def test_an_option_that_several_frameworks_take_names_them() -> None:
    about = {option.flag: option.about for option in framework_options(FRAMEWORKS)}
    assert about["--dnn-fsdp-reshard"].startswith("fsdp, tp: ")
    assert about["--dnn-fsdp-reduce"].startswith("fsdp: ")
    pipelines = [row.name for row in FRAMEWORKS if any(o.name == "stages" for o in row.options)]
    first = f"pipedream, pipedream-2bw, pipedream-flush and {len(pipelines) - 3} others: "
    assert about["--dnn-stages"].startswith(first)


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
@pytest.mark.parametrize(
    "flag",
    [*("baseline", "limits", "against", "against-env", "accept", "shapes", "frameworks"), "stages"],
)
def test_a_variable_of_the_shell_that_is_not_set_takes_nothing_away_in_silence(
    pytester: pytest.Pytester, flag: str, text: str
) -> None:
    config = pytester.parseconfig(f"--dnn-{flag}={text}")
    with pytest.raises(UsageError, match=f"--dnn-{flag} is empty: give a value, or leave it out"):
        read_settings(config, Catalog())


def test_an_empty_line_of_the_ini_file_is_none(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ndnn_baseline =\ndnn_limits =\ndnn_batch_size =\n")
    chosen = read_settings(pytester.parseconfig(), Catalog())
    assert (chosen.baseline, chosen.ini_limits, chosen.batch_size) == (None, (), 0)


def test_limits_and_facts_of_several_uses_add_up_and_other_options_keep_the_last(
    pytester: pytest.Pytester,
) -> None:
    config = pytester.parseconfig(
        *("--dnn-limits=throughput=-5%,speedup>=1", "--dnn-limits=resident_peak_bytes=+1%"),
        *("--dnn-against-limits=throughput=-3%", "--dnn-against-limits=resident_peak_bytes=+2%"),
        *("--dnn-compare-across=driver", "--dnn-compare-across=torch,cuda"),
        *("--dnn-frameworks=single", "--dnn-frameworks=ddp"),
    )
    chosen = read_settings(config, Catalog())
    assert chosen.limits == ("throughput=-5%", "speedup>=1", "resident_peak_bytes=+1%")
    assert chosen.against_limits == ("throughput=-3%", "resident_peak_bytes=+2%")
    assert chosen.compare_across == ("driver", "torch", "cuda")
    assert chosen.frameworks == ("ddp",)


@pytest.mark.parametrize(
    ("framework", "option", "value", "bounds"),
    [
        ("ddp", "bucket_mb", 0.0, "a number of at least 1e-06 and at most 1e\\+06"),
        ("ddp", "bucket_mb", float("nan"), "a number"),
        ("ddp", "bucket_mb", float("inf"), "a number"),
        ("ddp", "powersgd_rank", 0, "a whole number of at least 1"),
        ("horovod", "cycle_time_ms", -1.0, "a number of at least 0 and at most"),
        ("horovod", "fusion_threshold_mb", float("inf"), "a number"),
        ("horovod", "backward_passes_per_step", 0, "a whole number of at least 1"),
    ],
)
def test_a_number_out_of_bounds_is_refused_on_the_command_line_and_in_a_test(
    pytester: pytest.Pytester, framework: str, option: str, value: float, bounds: str
) -> None:
    spec = next(each for each in FRAMEWORKS if each.name == framework)
    flag = next(row.flag for row in spec.options if row.name == option)
    with pytest.raises(UsageError, match=f"--dnn-{flag} is {value}: it must be at "):
        read_settings(pytester.parseconfig(f"--dnn-{flag}={value}"), Catalog())
    with pytest.raises(UsageError, match=f"{option!r} is {value}: give {bounds}"):
        spec.check_options({option: value})
    spec.check_options({row.name: row.default for row in spec.options})


def test_a_seed_is_one_that_every_library_takes(pytester: pytest.Pytester) -> None:
    most = 2**32 - 1
    assert read_settings(pytester.parseconfig(f"--dnn-seed={most}"), Catalog()).seed == most
    with pytest.raises(UsageError, match="--dnn-seed is 4294967296: it must be at most 4294967295"):
        read_settings(pytester.parseconfig("--dnn-seed=4294967296"), Catalog())
