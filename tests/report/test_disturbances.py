"""The line about disturbed launches."""

import msgspec

from pytest_dnnbench.report.disturbances import disturbances
from pytest_dnnbench.results.records.schema import Conditions, LaunchEntry
from tests.report.records import measured


def disturbed(launch: LaunchEntry, reason: str) -> LaunchEntry:
    return msgspec.structs.replace(launch, conditions=Conditions(disturbed=reason))


def test_disturbed_launches_are_counted_and_the_first_is_named() -> None:
    quiet = measured("ddp", "m", 2, launches=1)
    busy = measured("ddp", "m", 2, launches=2)
    busy.launches[1] = disturbed(busy.launches[1], "other processes used 1.0 of 2 cores")
    assert disturbances([quiet, busy]) == (
        "1 of 3 launches was disturbed, the first in ddp-m-2gpu (train):"
        " other processes used 1.0 of 2 cores"
    )
    busy.launches[0] = disturbed(busy.launches[0], "process 7 used GPU 0")
    line = disturbances([quiet, busy])
    assert line is not None
    assert line.startswith("2 of 3 launches were disturbed, the first in ddp-m-2gpu (train): pr")
    assert disturbances([quiet]) is None
