"""What a benchmark on a GPU says of where it ran, and how its result is kept."""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_dnnbench.case import Scalar
from pytest_dnnbench.controller.machine import Machine

VERSIONS = ("torch", "cuda", "cudnn", "nccl", "compute_capability")
PACKAGES = ("torch", "torchvision", "triton", "horovod", "nvidia-ml-py")


def card_facts(machine: Machine) -> dict[str, Any]:
    """Card, driver and the versions of packages: what is known before a rank has run."""
    versions = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "driver": machine.driver,
        "settings": [dict(gpu.settings) for gpu in machine.gpus],
        "python": platform.python_version(),
        **versions,
    }


def _version(package: str) -> str | None:
    """Of an installed package; None of another."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def facts_of(machine: Machine, environment: Mapping[str, Scalar | None]) -> dict[str, Any]:
    """Card, driver and versions; `environment` is that of a rank's report."""
    said = {name: environment[name] for name in VERSIONS if name in environment}
    return {**card_facts(machine), **said}


def write(folder: Path | None, name: str, result: Mapping[str, Any]) -> None:
    """Prints a result, and writes it into the folder where there is one."""
    text = json.dumps(result, indent=1)
    print(text, flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
