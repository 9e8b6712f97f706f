"""A kept profile serves exactly what it was measured for, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_dnnbench.planner.profile_file import read_profile, write_profile
from pytest_dnnbench.rank.profiling import profile_cache, profiler
from pytest_dnnbench.rank.profiling.profile_cache import cached_profile
from pytest_dnnbench.rank.profiling.profiler import Effort
from pytest_dnnbench.step_form import StepForm

QUICK = Effort(warmup=0, repetitions=1)
MODEL = "tests.tiny_models:tiny"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        profiler, "LEAST_CORE_SHARE", 0.0
    )  # other work does not disturb what is tested here
    return tmp_path / "pytest-dnnbench" / "profiles"


def test_the_second_call_reads_what_the_first_has_measured(cache: Path) -> None:
    first = cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    (kept,) = cache.iterdir()
    assert kept.name.startswith("tests.tiny_models-tiny-28px-batch4-fp32-cpu-")
    assert cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK) == first == read_profile(kept)


def test_a_profile_that_other_work_was_in_the_way_of_is_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    (kept,) = cache.iterdir()
    kept.unlink()
    assert profile.metadata["core_share"] > 0
    monkeypatch.setattr(profiler, "LEAST_CORE_SHARE", float("inf"))
    cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    assert list(cache.iterdir()) == []


def test_another_shape_precision_or_thread_count_is_another_profile(cache: Path) -> None:
    for image_size, batch_size, precision, threads in [
        (28, 4, "fp32", 1),
        (32, 4, "fp32", 1),
        (28, 2, "fp32", 1),
        (28, 4, "bf16", 1),
        (28, 4, "fp32", 2),
    ]:
        profile = cached_profile(
            MODEL, image_size, batch_size, precision, "cpu", threads=threads, effort=QUICK
        )
        profile.require(image_size=image_size, batch_size=batch_size, precision=precision)
        assert profile.metadata["environment"]["threads"] == threads
    assert len(list(cache.iterdir())) == 5


def test_another_processor_or_an_edited_model_is_another_profile(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("pytest_dnnbench.rank.profiling.conditions.cpu_model", lambda: "another")
        cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(profile_cache, "_fingerprint", lambda workload: "edited")
    cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    assert len(list(cache.iterdir())) == 3


def test_another_layout_or_optimiser_is_another_profile_and_an_older_one_is_replaced(
    cache: Path,
) -> None:
    cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    (plain,) = cache.iterdir()
    fused = StepForm(memory_format="channels_last", fused=True)
    profile = cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK, form=fused)
    profile.require(memory_format="channels_last", update="fused")
    assert len(list(cache.iterdir())) == 2
    before = read_profile(plain)
    facts = {key: value for key, value in before.metadata.items() if key != "update_s"}
    write_profile(replace(before, metadata=facts), plain)
    assert "update_s" in cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK).metadata
    assert "update_s" in read_profile(plain).metadata


def test_a_damaged_file_is_measured_anew_and_replaced(cache: Path) -> None:
    cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    (kept,) = cache.iterdir()
    kept.write_text(kept.read_text()[:100])
    profile = cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    assert read_profile(kept) == profile
    assert list(cache.iterdir()) == [kept]


def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.warns(UserWarning, match="the profile cannot be kept"):
        assert cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK).nodes


def test_without_the_variable_the_cache_is_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    assert len(list((tmp_path / ".cache" / "pytest-dnnbench" / "profiles").iterdir())) == 1
