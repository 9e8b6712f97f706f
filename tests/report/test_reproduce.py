"""The command that measures a case again: complete, and made of options that a session has."""

import shlex
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pytest_dnnbench.catalog.framework_spec import FrameworkSpec
from pytest_dnnbench.catalog.frameworks import FRAMEWORKS
from pytest_dnnbench.report.captions import launches_and_steps
from pytest_dnnbench.report.reproduce import command
from pytest_dnnbench.report.runs import Result, Run
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.session import state
from pytest_dnnbench.session.settings import OPTIONS
from tests.report.records import measured

MODEL = "tests.tiny_models:tiny"
NAME = "bench_cases/test_steps.py::test_train[horovod-my.models:net-2gpu]"


def result(name: str = NAME, **facts: object) -> Result:
    """A case of horovod; `facts` replace those of its case."""
    record = measured("horovod", "my.models:net", 2)
    record.case = replace(record.trained_case, **facts)  # type: ignore[arg-type] # the tests give Case's types
    return Result(name, record)


def options(words: list[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


def test_the_command_spells_out_every_setting_of_the_case() -> None:
    case = result(
        scaling="strong", batch_size=16, options={"compression": "fp16"}, precision="bf16"
    )
    words = shlex.split(command(case))
    assert words[:2] == ["pytest", NAME]
    chosen = options(words[2:])
    assert chosen["--dnn-batch-size"] == "32"
    assert chosen["--dnn-horovod-compression"] == "fp16"
    assert chosen["--dnn-precision"] == "bf16"
    assert chosen["--dnn-launches"] == "3"
    assert chosen["--dnn-steps"] == "10"
    flags = {option.flag for option in OPTIONS} | {"--dnn-horovod-compression"}
    assert chosen.keys() <= flags


def test_a_window_in_seconds_and_a_steady_warm_up_are_asked_for_again() -> None:
    timed = result()
    timed.record.run = msgspec.structs.replace(timed.record.run, steps="5s", warmup="auto")
    chosen = options(shlex.split(command(timed))[2:])
    assert (chosen["--dnn-window"], chosen["--dnn-warmup"]) == ("5s", "auto")
    assert "--dnn-steps" not in chosen
    study = Study([Run("a", "", results=(timed,))])
    assert launches_and_steps(study) == "3 launches of 5s"


def test_every_option_that_shapes_a_case_is_in_the_command() -> None:
    """A setting that is added to the session's options must come here too."""
    shaping = {
        option.flag
        for option in OPTIONS
        if hasattr(result().case, option.key.removeprefix("dnn_"))
        or hasattr(result().record.run, option.key.removeprefix("dnn_"))
    }
    # The command gives the count in another way, and measures the case by itself.
    shaping -= {"--gpus", "--dnn-parallel"}
    chosen = options(shlex.split(command(result(nodes=2)))[2:])
    assert shaping <= chosen.keys()
    assert chosen["--dnn-nodes"] == "2"
    assert "--dnn-nodes" not in command(result()), "one machine needs no engine"


def test_the_shape_chooses_the_case_and_without_one_the_number_of_gpus() -> None:
    plain = options(shlex.split(command(result()))[2:])
    assert plain["--dnn-gpu-counts"] == "2"
    assert "--dnn-shapes" not in plain
    shaped = options(shlex.split(command(result(shape="dp2")))[2:])
    assert shaped["--dnn-shapes"] == "dp2"
    assert "--dnn-gpu-counts" not in shaped


def test_the_folder_of_real_data_is_left_to_the_reader() -> None:
    words = shlex.split(command(result(dataset="mnist", image_size=28)))
    assert options(words[2:])["--dnn-data-dir"] == "DIR"


def test_a_name_that_is_no_test_is_not_run() -> None:
    for name in ("benchmark 3", "--collect-only::x"):
        assert shlex.split(command(result(name)))[1] == "bench_cases"


class Chosen:
    """What a session measures, and with which options of frameworks."""

    names: list[str]
    options: dict[str, dict[str, object]]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = [item.nodeid for item in session.items]
        self.options = {
            name: dict(options)
            for name, options in state.settings(session.config).framework_options.items()
        }


@pytest.mark.parametrize("spec", FRAMEWORKS, ids=lambda spec: spec.name)
def test_a_session_takes_the_command_as_it_is(
    pytester: pytest.Pytester, spec: FrameworkSpec
) -> None:
    """That of every pipeline had an empty --dnn-plan, which is refused."""
    gpus = 1 if spec.name == "single" else 2
    pytester.syspathinsert(Path(__file__).resolve().parents[2])
    pytester.makepyfile(test_it="def test_train(framework, model, gpus, dnnbench): pass")
    name = f"test_it.py::test_train[{spec.name}-{MODEL}-{gpus}gpu]"
    given = {option.name: option.default for option in spec.options}
    facts = {"framework": spec.name, "model": MODEL, "gpus": gpus, "device": "cpu"}
    case = result(name, **facts, image_size=28, options=given)
    chosen = Chosen()
    words = shlex.split(command(case))[1:]
    outcome = pytester.runpytest_inprocess(*words, "--collect-only", plugins=[chosen])
    assert outcome.ret == 0, outcome.stderr.str()
    assert chosen.names == [name]
    assert chosen.options.get(spec.name, {}) == given
