"""A machine's fingerprint: what `dnnbench machine` measured; later sessions are compared with it.

One file per host in the user's cache folder, written whole.
"""

import platform
import re
from pathlib import Path

import msgspec

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.files import cache_folder, replace_file
from pytest_dnnbench.machine.facts import MachineFacts

SCHEMA = 1
"""The version of the file. History: 1, the first."""

SLOWER = 0.10
"""A yardstick that takes so much longer than the fingerprint's is worth a warning: its own noise is
a few percent (docs/statistics.md)."""


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as it was on a date.

    `yardstick_s` are the seconds of a round of the yardstick of its cores or, where `device` is
    "cuda", of its slowest GPU, each time; `memory_bytes_s` what all cores together copy, read and
    written; `link_bytes_s` the bus bandwidth of an all-reduce between two ranks; `launch_sd` the
    relative standard deviation between A/A launches of a small case, `throughputs` the figure of
    each. None: not measured.
    """

    schema: int
    saved: str
    hostname: str
    cpu: str
    cores: int
    torch: str
    yardstick_s: list[float]
    memory_bytes_s: float
    link_bytes_s: float | None
    case: str
    throughputs: list[float]
    launch_sd: float | None
    facts: MachineFacts
    device: str = "cpu"


_DECODER = msgspec.json.Decoder(Fingerprint)


def fingerprint_path(hostname: str | None = None) -> Path:
    """The file of this host. A home folder may be shared by several hosts."""
    name = re.sub(r"[^A-Za-z0-9.-]", "_", hostname or platform.node()).strip(".") or "host"
    return cache_folder("machine") / f"{name}.json"


def write_fingerprint(path: Path, fingerprint: Fingerprint) -> None:
    """Replaces the file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.format(msgspec.json.encode(fingerprint), indent=1))


def read_fingerprint(path: Path) -> Fingerprint | None:
    """The fingerprint; None where there is none. Raises DataError for a damaged one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    try:
        fingerprint = _DECODER.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: {error}: run `dnnbench machine` again") from None
    yardsticks = fingerprint.yardstick_s
    if fingerprint.schema != SCHEMA or not yardsticks or min(yardsticks) <= 0:
        raise DataError(f"{path}: not a fingerprint of this version: run `dnnbench machine` again")
    return fingerprint
