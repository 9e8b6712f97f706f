"""Which packages this environment has, told by their metadata: nothing of them is imported. A
leaf."""

import importlib.metadata
from collections.abc import Mapping

DECIDE_SPEED = ("torch", "torchvision", "numpy", "msgspec", "horovod")
"""What all ranks of a launch must have alike."""


def installed_version(package: str) -> str | None:
    """The version of a distribution package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages() -> dict[str, str | None]:
    """The versions of what ranks must have alike, by the name of the package."""
    return {name: installed_version(name) for name in DECIDE_SPEED}


def differences(theirs: Mapping[str, str | None], ours: Mapping[str, str | None]) -> str:
    """In words, what differs there from here, with both versions; empty where nothing does."""
    return ", ".join(
        f"{name} {theirs.get(name) or 'is missing'} there and {version or 'none'} here"
        for name, version in ours.items()
        if theirs.get(name) != version
    )
