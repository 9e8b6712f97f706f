"""Profiles kept between sessions, one JSON file each, in the user's cache directory.

A kept profile serves only where everything that its times depend on is equal: the model's
"module:factory" and its operators, shape, precision, device, and the environment (torch, processor,
GPU, threads). Files are written whole or not at all, so that any number of processes may share the
directory.
"""

import hashlib
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pytest_dnnbench.errors import ProfileError
from pytest_dnnbench.files import cache_folder
from pytest_dnnbench.planner.profile import Profile
from pytest_dnnbench.planner.profile_file import read_profile, write_profile
from pytest_dnnbench.rank.profiling.conditions import profile_environment, usable_device
from pytest_dnnbench.rank.profiling.example_input import traced_example
from pytest_dnnbench.rank.profiling.operator_graph import trace
from pytest_dnnbench.rank.profiling.profiler import (
    Effort,
    fingerprint,
    form_facts,
    had_its_core,
    image_or_own,
    input_facts,
    profile_workload,
)
from pytest_dnnbench.rank.workloads.checks import model_of
from pytest_dnnbench.rank.workloads.workload import Workload
from pytest_dnnbench.step_form import StepForm


def cached_profile(
    model: str,
    image_size: int,
    batch_size: int,
    precision: str,
    device: str,
    *,
    threads: int = 1,
    effort: Effort | None = None,
    workload: Workload | None = None,
    form: StepForm | None = None,
    beside: int = 0,
    keeps: bool = True,
) -> Profile:
    """The kept profile under exactly these conditions, or a new one, which is then kept. Arguments
    as of `profile_model`; with a `workload`, that one, which `model` leads to; `form` as of
    `profile_workload`. `beside` counts the other ranks of this machine that profile the
    same at the same time; without `keeps`, a new profile is not kept.

    A file that cannot be read, or is of fewer repetitions, is replaced by a new profile. A
    directory that cannot be written gives a warning. A profile that other work has disturbed serves
    once and is not kept.
    """
    place, effort = usable_device(device), effort or Effort()
    workload, form = workload or image_or_own(model, image_size), form or StepForm()
    conditions: dict[str, Any] = {
        "model": model,
        "image_size": image_size,
        "batch_size": batch_size,
        "precision": precision,
        "device": place.type,
        "environment": profile_environment(place, threads),
        **_facts_of(workload, form, beside),
    }
    path = cache_folder("profiles") / _file_name(conditions)
    kept = _kept_profile(path, conditions, effort)
    if kept is not None:
        return kept
    given = (workload, model, image_size, batch_size, precision, device)
    profile = profile_workload(*given, threads=threads, effort=effort, form=form)
    if beside:
        profile = replace(profile, metadata={**profile.metadata, "beside": beside})
    if keeps and had_its_core(profile):
        _keep(profile, path)
    return profile


def _facts_of(workload: Workload, form: StepForm, beside: int) -> dict[str, Any]:
    """What the times depend on beside the shape and the machine."""
    return {
        "graph": _fingerprint(workload),
        **input_facts(workload),
        **form_facts(form),
        **({"beside": beside} if beside else {}),
    }


def _kept_profile(path: Path, conditions: dict[str, Any], effort: Effort) -> Profile | None:
    """The profile in a file; None where it is of other conditions or too few samples, or cannot be
    read."""
    try:
        profile = read_profile(path)
        profile.require(**conditions)
        _require_samples(profile, path, effort)
    except ProfileError:
        return None
    return profile


def _require_samples(profile: Profile, path: Path, effort: Effort) -> None:
    """Raises ProfileError for a profile of fewer repetitions, and for one of an earlier version,
    without the time of an update, the model's inputs or, on a GPU, a head start."""
    if len(profile.metadata.get("whole_samples_s", ())) < effort.repetitions:
        raise ProfileError(f"{path} is of fewer repetitions: profile the model again")
    if profile.metadata.get("device") == "cuda" and "host_s" not in profile.metadata:
        raise ProfileError(f"{path} has the times of Python in it: profile the model again")
    if not {"update_s", "add_s"} <= profile.metadata.keys():
        raise ProfileError(f"{path} lacks the time of an update: profile the model again")
    if not profile.inputs:
        raise ProfileError(f"{path} lacks the model's inputs: profile the model again")


def _fingerprint(workload: Workload) -> str:
    with torch.random.fork_rng(devices=[]):
        return fingerprint(trace(model_of(workload).train(), traced_example(workload)))


def _file_name(conditions: dict[str, Any]) -> str:
    """The conditions for people, then a digest that makes the name unique."""
    shape = "{image_size}px-batch{batch_size}-{precision}-{device}".format(**conditions)
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '-', str(conditions['model']))}-{shape}-{digest}.json"


def _keep(profile: Profile, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_profile(profile, path)
    except OSError as error:
        warnings.warn(
            f"the profile cannot be kept ({error}): it is measured again next time", stacklevel=3
        )
