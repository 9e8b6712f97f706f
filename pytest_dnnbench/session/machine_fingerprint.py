"""The machine as `dnnbench machine` found it once, beside the machine of this session."""

import platform
import statistics
from collections.abc import Iterable
from typing import Any

import pytest

from pytest_dnnbench.controller.torch_build import installed_torch
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.machine.fingerprint import (
    SLOWER,
    Fingerprint,
    fingerprint_path,
    read_fingerprint,
)
from pytest_dnnbench.results.records.schema import Record
from pytest_dnnbench.session import benchmark_file, state


class MachineFingerprint:
    """Says at the end how the yardstick compares with the fingerprint's, where there is one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def summary(self) -> list[tuple[str, str]]:
        """One line, or none."""
        if state.is_xdist_worker(self._config):
            return []
        records = list(benchmark_file.records(self._config).values())
        if not any(yardsticks_here(records, device) for device in ("cpu", "cuda")):
            return []
        try:
            fingerprint = read_fingerprint(fingerprint_path())
        except DataError as error:
            return [(f"the machine's fingerprint is not compared: {error}", "yellow")]
        if fingerprint is None:
            return []
        yardsticks = yardsticks_here(records, fingerprint.device)
        if not yardsticks:
            return []
        return [compared(fingerprint, statistics.median(yardsticks), _here())]


def yardsticks_here(records: Iterable[Record], device: str) -> list[float]:
    """The yardstick of each launch on this machine with ranks on this kind of device, seconds; of
    one on nodes it is that of another machine, or the slowest."""
    return [
        launch.conditions.yardstick_s
        for record in records
        for launch in record.launches
        if launch.conditions.yardstick_s
        and not launch.conditions.nodes
        and device == ("cuda" if launch.conditions.gpu_uuids else "cpu")
    ]


def compared(fingerprint: Fingerprint, now_s: float, here: dict[str, Any]) -> tuple[str, str]:
    """The line and its colour. Another processor or torch makes another yardstick."""
    facts = {name: getattr(fingerprint, name) for name in here}
    if other := [
        f"{name} {facts[name]} -> {here[name]}" for name in here if facts[name] != here[name]
    ]:
        return (
            f"the machine's fingerprint of {fingerprint.saved[:10]} is of another one"
            f" ({', '.join(other)}): run `dnnbench machine` again",
            "",
        )
    before_s = statistics.median(fingerprint.yardstick_s)
    change = now_s / before_s - 1
    line = (
        f"this machine's yardstick was {1e3 * before_s:.2f} ms on {fingerprint.saved[:10]}, now"
        f" {1e3 * now_s:.2f} ms ({change:+.0%})"
    )
    return line, "yellow" if change >= SLOWER else ""


def _here() -> dict[str, Any]:
    torch = installed_torch()
    return {"hostname": platform.node(), "torch": torch.version if torch else ""}
