"""What a case author calls: models by name or by factory, options that exist, parameters of one's
own."""

from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.metrics import METRICS, Metric
from pytest_dnnbench.session.given_by_name import name_of
from pytest_dnnbench.session.state import parametrised
from tests import tiny_models
from tests.fake_launches import CONFTEST

ROOT = Path(__file__).resolve().parents[2]
ONE_CASE = (
    *("--dnn-device=cpu", "--dnn-gpu-counts=1", "--dnn-frameworks=single", "--dnn-launches=1"),
    *("--dnn-steps=1", "--dnn-batch-size=2", "--dnn-models=tests.tiny_models:tiny"),
)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return pytester


def test_a_model_may_be_given_by_its_factory(run: pytest.Pytester) -> None:
    """A function ended in AttributeError: 'function' object has no attribute 'partition'."""
    run.makepyfile(
        test_cases="""
        from tests.tiny_models import tiny

        def test_it(process_group, dnnbench):
            record = dnnbench.measure("single", tiny, process_group(1), phase="train")
            assert record
        """
    )
    run.runpytest_subprocess(*ONE_CASE).assert_outcomes(passed=1)


def test_parameters_may_be_given_by_keyword(run: pytest.Pytester) -> None:
    """Every such test of a project failed to be collected with an IndexError, once the package was
    installed."""
    run.makepyfile(
        test_cases="""
        import pytest

        @pytest.mark.parametrize(argnames="number", argvalues=[1, 2])
        def test_other(number):
            assert number

        @pytest.mark.parametrize(argnames=("framework", "gpus"), argvalues=[("ddp", 1)])
        def test_case(framework, model, gpus, process_group, dnnbench):
            pass
        """
    )
    result = run.runpytest_inprocess("--dnn-device=cpu", "--dnn-models=resnet18", "--collect-only")
    result.stdout.fnmatch_lines(
        ["*test_other[[]1]*", "*test_case*resnet18-ddp-1gpu*", "*3 tests coll*"]
    )
    run.runpytest_inprocess("-k", "other", "--dnn-models=resnet18").assert_outcomes(
        passed=2, deselected=1
    )


def test_marks_of_other_tests_are_not_ours(run: pytest.Pytester) -> None:
    """A project whose own marks are called `limits` could run no test any more."""
    run.makepyfile(
        test_other="""
        import pytest

        @pytest.mark.limits(5, seconds=3)
        @pytest.mark.known_regression()
        def test_it():
            pass
        """
    )
    run.runpytest_inprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("mark", "names"),
    [
        # As users write them, not as PT006 would have it.
        (pytest.mark.parametrize("framework , gpus", []), ["framework", "gpus"]),  # noqa: PT006
        (pytest.mark.parametrize(["my_framework"], []), ["my_framework"]),  # noqa: PT006
        (pytest.mark.parametrize(argnames="my_framework", argvalues=[]), ["my_framework"]),
    ],
)
def test_the_parameters_of_a_mark_are_whole_names(
    mark: pytest.MarkDecorator, names: list[str]
) -> None:
    """A parameter `my_framework` passed for the framework."""
    assert parametrised(mark.mark) == names


def test_a_metric_of_a_hook_goes_with_its_session(run: pytest.Pytester) -> None:
    """A later session of the process, with another plugin, had it still, or was refused."""
    run.makepyfile("def test_it():\n    pass\n")
    for unit in ("J", "W"):

        class Adds:
            @staticmethod
            def pytest_dnnbench_metrics(unit: str = unit) -> list[Metric]:
                return [Metric("of_a_plugin", unit, "lower", over_ranks="sum")]

        run.runpytest_inprocess("-p", "no:cacheprovider", plugins=[Adds()]).assert_outcomes(
            passed=1
        )
        assert "of_a_plugin" not in METRICS


def test_names_of_models() -> None:
    assert name_of("resnet18") == "resnet18"
    assert name_of(tiny_models.tiny) == "tests.tiny_models:tiny"
    assert name_of(Path) == "pathlib:Path"
    for wrong in (lambda: None, object(), 3):
        with pytest.raises(UsageError, match=r"give a function or class at the top"):
            name_of(wrong)  # type: ignore[arg-type] # what users give all the same


def test_an_option_that_the_framework_does_not_have_is_refused(run: pytest.Pytester) -> None:
    """It passed, changed nothing, and was recorded as if it had."""
    run.makepyfile(
        test_cases="""
        def test_it(framework, model, process_group, dnnbench):
            options = {"bucket_cap_mb": 1}
            dnnbench.measure(framework, model, process_group(1), phase="train", options=options)
        """
    )
    run.makeconftest(CONFTEST)
    result = run.runpytest_inprocess(*ONE_CASE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*single has no option 'bucket_cap_mb': it has none*"])


@pytest.mark.parametrize(
    ("framework", "options", "message"),
    [
        ("fsdp", {"reshard": "maybe"}, "fsdp's option 'reshard' is 'maybe': give auto, yes, no"),
        ("ddp", {"bucket_mb": "25"}, "ddp's option 'bucket_mb' is '25': give a number"),
        ("ddp", {"static_graph": 1}, "'static_graph' is 1: give True or False"),
        ("gpipe", {"microbatches": 2.5}, "'microbatches' is 2.5: give a whole number"),
        ("pipedream", {"stages": True}, "'stages' is True: give text or a number"),
    ],
)
def test_an_option_of_a_value_that_none_has_is_refused(
    framework: str, options: dict[str, Scalar], message: str
) -> None:
    """A rank failed on it, with a KeyError."""
    with pytest.raises(UsageError) as caught:
        Catalog().framework(framework).check_options(options)
    assert message in str(caught.value)


@pytest.mark.parametrize("options", [["bucket_mb"], "bucket_mb", 3, {1: 2, "bucket_mb": 1}])
def test_what_is_no_dict_of_options_is_refused_in_a_line(options: Any) -> None:
    """A list ended in an AttributeError, mixed names in a TypeError."""
    with pytest.raises(UsageError, match=r"give a dict of names|no option 1:"):
        Catalog().framework("ddp").check_options(options)


def test_the_values_that_options_have_are_taken() -> None:
    catalog = Catalog()
    for spec in catalog.frameworks.values():
        spec.check_options({row.name: row.default for row in spec.options})
    catalog.framework("ddp").check_options({"bucket_mb": 25, "hook": "fp16", "static_graph": True})
    for stages in (2, "2-1", "auto"):
        catalog.framework("pipedream").check_options({"stages": stages, "bandwidth": 1e9})


def test_parameters_that_a_test_does_not_give_come_from_the_options(run: pytest.Pytester) -> None:
    """A test that parametrised only `model` lost `framework` and `gpus`."""
    run.makepyfile(
        test_cases="""
        import pytest

        @pytest.mark.parametrize("model", ["resnet18", "resnet34"])
        def test_it(framework, model, gpus, process_group, dnnbench): pass
        """
    )
    result = run.runpytest_inprocess(*ONE_CASE, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*test_it[[]*resnet18*", "*test_it[[]*resnet34*"])
    assert result.stdout.str().count("test_it[") == 2
    assert "1gpu" in result.stdout.str()


def test_pytest_forked_is_refused_before_anything_starts(run: pytest.Pytester) -> None:
    """Its fork of the pytest process hung for good."""
    run.makeconftest(
        "def pytest_addoption(parser): parser.addoption('--forked', action='store_true')"
    )
    run.makepyfile(test_cases="def test_it(process_group): pass")
    result = run.runpytest_inprocess("--forked", "--dnn-device=cpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--forked cannot be used with tests that start ranks*"])
