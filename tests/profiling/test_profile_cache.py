"""A kept profile serves exactly what it was measured for, and nothing else."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_dnnbench.planner.profile import Operator, Profile
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
    for lost in ("update_s", "add_s"):
        facts = {key: value for key, value in before.metadata.items() if key != lost}
        write_profile(replace(before, metadata=facts), plain)
        assert lost in cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK).metadata
        assert lost in read_profile(plain).metadata


def test_a_profile_of_fewer_repetitions_is_replaced_and_one_of_more_serves(cache: Path) -> None:
    def samples(repetitions: int) -> int:
        effort = Effort(warmup=0, repetitions=repetitions)
        profile = cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=effort)
        return len(profile.metadata["whole_samples_s"])

    assert [samples(each) for each in (1, 3, 2, 1)] == [1, 3, 3, 3]
    assert len(list(cache.iterdir())) == 1


def test_a_rank_that_keeps_no_profile_leaves_none(cache: Path) -> None:
    assert cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK, keeps=False).operators
    assert not cache.exists()


@pytest.mark.parametrize(("ranks", "undisturbed"), [(1, 0.9), (2, 0.9), (4, 0.45), (8, 0.225)])
def test_ranks_that_share_cores_leave_each_other_their_share(
    monkeypatch: pytest.MonkeyPatch, ranks: int, undisturbed: float
) -> None:
    monkeypatch.setattr(profiler, "LEAST_CORE_SHARE", 0.9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})

    def had_its_core(core_share: float) -> bool:
        facts = {"beside": ranks - 1, "core_share": core_share, "environment": {"threads": 1}}
        return profiler.had_its_core(
            Profile((Operator("a", "an operator", 1, 1, 1, 1),), (), facts)
        )

    assert had_its_core(undisturbed + 0.01)
    assert not had_its_core(undisturbed - 0.01)


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
        assert cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK).operators


def test_without_the_variable_the_cache_is_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    cached_profile(MODEL, 28, 4, "fp32", "cpu", effort=QUICK)
    assert len(list((tmp_path / ".cache" / "pytest-dnnbench" / "profiles").iterdir())) == 1
