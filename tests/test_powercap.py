"""The packages' energy counters, on files that a test writes."""

from pathlib import Path

import pytest

from pytest_dnnbench.powercap import PackageEnergy, packages, why_unreadable


def write(root: Path, name: str, microjoules: int, most: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_the_energy_of_all_packages_is_added_up(tmp_path: Path) -> None:
    write(tmp_path, "intel-rapl:0", 100)
    write(tmp_path, "intel-rapl:1", 999_000)
    write(tmp_path, "intel-rapl:0:0", 5)  # a part of a package
    write(tmp_path, "dtpm", 5)
    energy = PackageEnergy(tmp_path)
    energy.begin()
    write(tmp_path, "intel-rapl:0", 2_100)
    write(tmp_path, "intel-rapl:1", 3_000)  # started again at its range
    assert energy.end() == pytest.approx(0.002 + 0.004)
    assert why_unreadable(tmp_path) is None


def test_a_machine_without_counters_has_no_energy_and_no_complaint(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        energy = PackageEnergy(root)
        energy.begin()
        assert energy.end() is None
        assert why_unreadable(root) is None


def test_a_counter_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, "intel-rapl:0", 100)
    reading = Path.read_text

    def refused(path: Path) -> str:
        if path.is_relative_to(folder):
            raise PermissionError(13, "Permission denied")
        return reading(path)

    monkeypatch.setattr(Path, "read_text", refused)
    assert packages(tmp_path) == [folder]
    energy = PackageEnergy(tmp_path)
    energy.begin()
    assert energy.end() is None
    assert why_unreadable(tmp_path) == (
        f"CPU energy is not recorded: {folder / 'energy_uj'} may only be read by root"
    )
