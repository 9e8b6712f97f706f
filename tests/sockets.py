"""The sockets of a process, as the kernel's tables have them: hexadecimal addresses and states."""

import os
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"
"""The state of a TCP socket that accepts connections."""


def addresses_of(pid: int, tables: tuple[str, ...] = ("tcp", "tcp6")) -> set[tuple[str, str, str]]:
    """(local address, remote address, state) of each socket of a process. Raises OSError if it is
    gone."""
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            links.add(os.readlink(descriptor))
    rows = [
        line.split()
        for table in tables
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {(row[1], row[2], row[3]) for row in rows if f"socket:[{row[9]}]" in links}


def listening(pid: int) -> list[str]:
    """The local addresses on which a process receives: TCP that listens, and any UDP. Raises
    OSError if it is gone."""
    tcp = [local for local, _, state in addresses_of(pid) if state == LISTENING]
    return sorted(tcp + [local for local, _, _ in addresses_of(pid, ("udp", "udp6"))])
