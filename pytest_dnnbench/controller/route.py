"""The network of a node: its addresses, the interface by which another node is reached, and which
machine it is. Asked of the kernel; no packet is sent."""

import fcntl
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SIOCGIFADDR = 0x8915
_ANY_PORT = 9


@dataclass(frozen=True, slots=True)
class Host:
    """A node of a launch as its other nodes reach it: its address, the interface that has it, and
    how many of the ranks, in order, run there."""

    address: str
    interface: str
    ranks: int


def boot_id() -> str:
    """What identifies the running kernel of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def addresses() -> dict[str, str]:
    """The IPv4 address of each interface that has one, by the interface's name."""
    by_interface: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)
                by_interface[name] = socket.inet_ntoa(answer[20:24])
    return by_interface


def route_to(address: str) -> tuple[str, str]:
    """The interface by which an address is reached, and our own address on it; both empty without a
    route."""
    own = addresses()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((address, _ANY_PORT))  # of UDP: looks the route up, and sends nothing
        except OSError:
            return "", ""
        source = asking.getsockname()[0]
    for name, address_of_ours in own.items():
        if address_of_ours == source:
            return name, source
    return "", ""
