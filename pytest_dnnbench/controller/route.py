"""The network of a node: its addresses, the interface by which another node is reached, and which
machine it is. Asked of the kernel; no packet is sent."""

import array
import fcntl
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOPBACK_INTERFACE = "lo"

_SIOCGIFADDR = 0x8915
_SIOCETHTOOL = 0x8946
_ETHTOOL_GSET = 1
_NO_SPEED = (0, 0xFFFF, 0xFFFFFFFF)
_ANY_PORT = 9


@dataclass(frozen=True, slots=True)
class Host:
    """A node of a launch as its other nodes reach it: its address, the interface that has it, and
    how many of the ranks, in order, run there. `mbit_s` is the nominal speed of the interface in
    Mbit/s; None where the kernel gives none."""

    address: str
    interface: str
    ranks: int
    mbit_s: int | None = None


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


def speeds() -> dict[str, int]:
    """The nominal speed in Mbit/s of each interface that has one, by the interface's name. Asked by
    ethtool's request and not in /sys, which may show the network of another namespace."""
    by_interface: dict[str, int] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            # struct ethtool_cmd: 44 bytes, the command first, the speed's halves at 12 and 28.
            command = array.array("B", struct.pack("I40x", _ETHTOOL_GSET))
            request = struct.pack("16sP16x", name.encode()[:15], command.buffer_info()[0])
            with suppress(OSError):  # as of loopback, which has none
                fcntl.ioctl(asking.fileno(), _SIOCETHTOOL, request)
                low, high = struct.unpack_from("H14xH", command, 12)
                if (speed := low | high << 16) not in _NO_SPEED:
                    by_interface[name] = speed
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
