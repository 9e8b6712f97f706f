"""Horovod's own rendezvous, which runs beside the ranks: each rank learns the addresses of the
others from it, once, in `hvd.init`.

    pytest, or the leading node's agent                ranks
    RendezvousServer (HTTP, a thread)             <──  "my gloo address is ..."
                                                   ──>  the addresses of the others

It is bound to loopback on one machine; where the ranks are on several nodes, to the address by
which these reach the leading one.

`horovodrun` would start the same server; our ranks come from our own launcher. No torch: only
Horovod's server is imported, and only when a case needs it.
"""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pytest_dnnbench.controller.route import LOOPBACK_INTERFACE, Host
from pytest_dnnbench.errors import LaunchError

LOOPBACK = "127.0.0.1"

_POLL_S = 0.05
"""How soon the server notices that it is asked to stop; it otherwise sleeps in `select`."""


@contextmanager
def horovod_rendezvous(
    world_size: int, *, hosts: Sequence[Host] = ()
) -> Iterator[list[dict[str, str]]]:
    """Runs the server while its `with` lasts; yields the environment variables of each rank.
    `hosts` are the nodes of the ranks, the leading one first; empty: they are on one machine.

    Horovod's `RendezvousServer.start` listens on all interfaces and its `stop` leaves the port
    open. This uses the server class behind it, bound to one address, on a port that the kernel
    chooses. Raises LaunchError where Horovod would crash.
    """
    require_own_address()
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    hosts = hosts or (Host(LOOPBACK, LOOPBACK_INTERFACE, world_size),)
    # By number: Horovod groups ranks by the name of their host, and two nodes may share an address.
    names = [HostInfo(str(number), host.ranks) for number, host in enumerate(hosts)]
    slots = get_host_assignments(names, world_size)
    address = hosts[0].address
    server = RendezvousHTTPServer((address, 0), RendezvousHandler, 0)
    server.init(slots)
    thread = threading.Thread(
        target=server.serve_forever, args=(_POLL_S,), name="horovod-rendezvous", daemon=True
    )
    thread.start()
    try:
        yield [
            _variables(slot, hosts[int(slot.hostname)], address, server.server_port)
            for slot in slots
        ]
    finally:
        server.shutdown()
        thread.join()
        # Closes the port, and waits for requests that are still being answered; Horovod bounds
        # each of them to 3 s.
        server.server_close()


def require_own_address() -> None:
    """Raises LaunchError if the name of this host has no address. Horovod looks it up, although it
    then uses the loopback interface, and dies of SIGSEGV without an answer."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        raise LaunchError(
            f"the name of this host, {name!r}, has no address ({error.strerror}), and Horovod"
            f" crashes without one: add the line `127.0.0.1 {name}` to /etc/hosts"
        ) from None


def _variables(slot: Any, host: Host, address: str, port: int) -> dict[str, str]:
    """The variables of one rank on a host; the rendezvous is at the address. Horovod gives a slot
    as the values of `names`, separated by commas."""
    values = slot.to_response_string().split(",")
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
    return {
        **{f"HOROVOD_{name}": number for name, number in zip(names, values, strict=True)},
        "HOROVOD_HOSTNAME": slot.hostname,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": host.interface,
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
    }
