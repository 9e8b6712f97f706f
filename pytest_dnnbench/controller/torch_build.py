"""The installed torch and what it was built for, read without importing it, which takes seconds."""

import importlib.util
import runpy
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """`version` has the build's suffix ("2.13.0+cpu"); `cuda` is the CUDA version that torch was
    built for, None for a CPU build; `commit` that of its source."""

    version: str
    cuda: str | None
    commit: str


def installed_torch() -> TorchBuild | None:
    """What torch's own version file says; None without torch."""
    specification = importlib.util.find_spec("torch")
    if specification is None or specification.origin is None:
        return None
    # A few assignments, written by torch's build; they import nothing of torch.
    facts = runpy.run_path(str(Path(specification.origin).with_name("version.py")))
    return TorchBuild(facts["__version__"], facts.get("cuda"), facts.get("git_version", "unknown"))
