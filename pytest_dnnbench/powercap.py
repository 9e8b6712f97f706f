"""The energy counters of this machine's CPU packages (RAPL), as the kernel's powercap shows them. A
leaf: the controller asks whether they can be read, rank 0 reads them.

    /sys/class/powercap/intel-rapl:0/energy_uj     a package; intel-rapl:0:0 is a part of it
"""

import re
from pathlib import Path

ROOT = Path("/sys/class/powercap")

_PACKAGE = re.compile(r"(intel|amd)-rapl:[0-9]+")
_MICRO = 1e-6


def packages(root: Path = ROOT) -> list[Path]:
    """The folders of the packages; none where the kernel or the processor has no counters."""
    try:
        return sorted(path for path in root.iterdir() if _PACKAGE.fullmatch(path.name))
    except OSError:
        return []


def why_unreadable(root: Path = ROOT) -> str | None:
    """Why the counters that are there cannot be read, in words; None where they can be, and where
    there are none."""
    for package in packages(root):
        try:
            _counted(package)
        except PermissionError:
            return f"CPU energy is not recorded: {package / 'energy_uj'} may only be read by root"
        except (OSError, ValueError) as error:
            return f"CPU energy is not recorded: {package / 'energy_uj'}: {error}"
    return None


class PackageEnergy:
    """The energy of all packages between `begin` and `end`. A counter that starts again from zero
    at its range is noticed once: the range lasts for minutes."""

    def __init__(self, root: Path = ROOT) -> None:
        self._packages = packages(root)
        self._begun: list[int] | None = None

    def begin(self) -> None:
        """Reads the counters."""
        self._begun = self._read()

    def end(self) -> float | None:
        """Joules since `begin`; None where a counter cannot be read."""
        begun, ended = self._begun, self._read()
        if begun is None or ended is None:
            return None
        microjoules = 0
        for package, before, after in zip(self._packages, begun, ended, strict=True):
            microjoules += after - before if after >= before else after - before + _range(package)
        return microjoules * _MICRO

    def _read(self) -> list[int] | None:
        try:
            return [_counted(package) for package in self._packages] or None
        except (OSError, ValueError):
            return None


def _counted(package: Path) -> int:
    return int((package / "energy_uj").read_text())


def _range(package: Path) -> int:
    return int((package / "max_energy_range_uj").read_text())
