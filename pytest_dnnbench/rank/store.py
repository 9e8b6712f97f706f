"""The store in which the ranks of a launch meet: a file in the launch's folder on one machine, a
TCP store on the leading node where a launch has several."""

from datetime import timedelta

from torch.distributed import FileStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined] # torch's gap

from pytest_dnnbench.messages import Place

_SHARED: list[TCPStore] = []
"""The TCP store of this process: a rank connects once, and rank 0 has only one socket to listen
on."""


def store_of(place: Place, name: str = "") -> Store:
    """The launch's store; one with a `name` shares no keys with others."""
    store: Store
    if place.store is None:
        path = f"{place.rendezvous}.{name}" if name else place.rendezvous
        store = FileStore(path, place.world_size)
    else:
        if not _SHARED:
            _SHARED.append(_over_network(place))
        store = PrefixStore(name or "group", _SHARED[0])
    store.set_timeout(timedelta(seconds=place.timeout_s))
    return store


def _over_network(place: Place) -> TCPStore:
    """Rank 0 takes the socket that was bound for it, on a port that the kernel chose: no other
    process can take the port in between."""
    assert place.store is not None
    host, port = place.store
    return TCPStore(
        host,
        port,
        place.world_size,
        is_master=place.store_descriptor is not None,
        timeout=timedelta(seconds=place.timeout_s),
        wait_for_workers=False,
        master_listen_fd=place.store_descriptor,
    )
