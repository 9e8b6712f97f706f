"""Horovod's own rendezvous, which runs beside the ranks: each rank learns the addresses of the
others from it, once, in `hvd.init`.

    pytest                                              ranks
    RendezvousServer (HTTP, 127.0.0.1, a thread)  <──  "my gloo address is ..."
                                                   ──>  the addresses of the others

`horovodrun` would start the same server; our ranks come from our own launcher. No torch: only
Horovod's server is imported, and only when a case needs it.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_dnnbench.errors import LaunchError

LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo"

_POLL_S = 0.05
"""How soon the server notices that it is asked to stop; it otherwise sleeps in `select`."""


@contextmanager
def horovod_rendezvous(world_size: int) -> Iterator[list[dict[str, str]]]:
    """Runs the server while its `with` lasts; yields the environment variables of each rank.

    Horovod's `RendezvousServer.start` listens on all interfaces and its `stop` leaves the port
    open. This uses the server class behind it, bound to loopback, on a port that the kernel
    chooses. Raises LaunchError where Horovod would crash.
    """
    require_own_address()
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    slots = get_host_assignments([HostInfo(LOOPBACK, world_size)], world_size)
    server = RendezvousHTTPServer((LOOPBACK, 0), RendezvousHandler, 0)
    server.init(slots)
    thread = threading.Thread(
        target=server.serve_forever, args=(_POLL_S,), name="horovod-rendezvous", daemon=True
    )
    thread.start()
    try:
        yield [_variables(slot.to_response_string(), server.server_port) for slot in slots]
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


def _variables(slot: str, port: int) -> dict[str, str]:
    """The variables of one rank. `slot` is Horovod's own form: the values of `names`, separated by
    commas."""
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
    return {
        **{f"HOROVOD_{name}": number for name, number in zip(names, slot.split(","), strict=True)},
        "HOROVOD_HOSTNAME": LOOPBACK,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": LOOPBACK_INTERFACE,
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": LOOPBACK,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
    }
