"""Which packages this environment has, told by their metadata: nothing of them is imported. A
leaf."""

import importlib.metadata


def installed_version(package: str) -> str | None:
    """The version of a distribution package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
