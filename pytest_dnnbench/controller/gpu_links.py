"""How the GPUs of a machine are connected with each other, as NVML says: by NVLink, directly or
through switches, or else by what a transfer over PCIe crosses. The words are those of `nvidia-smi
topo --matrix`.

    NV18    18 links of NVLink, in use
    PIX     one PCIe switch            PXB     several
    PHB     a CPU's PCIe bridge        NODE    several of one NUMA node
    SYS     between NUMA nodes
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from typing import Any

_OVER_PCIE = {10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
"""NVML's levels of the common ancestor of two GPUs (NVML_TOPOLOGY_...)."""

_SWITCH = 2
"""NVML_NVLINK_DEVICE_TYPE_SWITCH."""

Links = dict[str, dict[str, str]]


def links_of(library: Any, handles: Mapping[str, Any]) -> Links:
    """The connection of each GPU with each other, by their UUIDs; `handles` are NVML's, `library`
    is what `nvml` yields. What this driver does not say is left out."""
    ends = {uuid: _ends(library, handle) for uuid, handle in handles.items()}
    buses: dict[str, str] = {}
    for uuid, handle in handles.items():
        with suppress(library.NVMLError):
            buses[uuid] = _bus(library.nvmlDeviceGetPciInfo(handle))
    links: Links = {uuid: {} for uuid in handles}
    for first, second in combinations(handles, 2):
        direct = ends[first][buses[second]] if second in buses else 0
        # Every link to a switch reaches every other GPU at the switches.
        count = direct or min(ends[first][_SWITCHES], ends[second][_SWITCHES])
        name = f"NV{count}" if count else _over_pcie(library, handles[first], handles[second])
        if name:
            links[first][second] = links[second][first] = name
    return links


def described(uuids: Sequence[str], links: Mapping[str, Mapping[str, str]]) -> str | None:
    """The connections among these GPUs in one line: one word if all are alike, or each pair by the
    places of the two; None for fewer than two GPUs, or where one connection is not known."""
    names = {
        f"{first}-{second}": links.get(uuids[first], {}).get(uuids[second])
        for first, second in combinations(range(len(uuids)), 2)
    }
    if not names or None in names.values():
        return None
    words = set(names.values())
    if len(words) == 1:
        return words.pop()
    return ", ".join(f"{pair} {name}" for pair, name in names.items())


_SWITCHES = "switches"


def _ends(library: Any, handle: Any) -> Counter[str]:
    """Where a GPU's links in use lead, with how many lead there: to the bus of another GPU, or to
    switches."""
    ends = Counter[str]()
    for link in range(library.NVML_NVLINK_MAX_LINKS):
        try:
            if not library.nvmlDeviceGetNvLinkState(handle, link):
                continue
            if library.nvmlDeviceGetNvLinkRemoteDeviceType(handle, link) == _SWITCH:
                ends[_SWITCHES] += 1
            else:
                ends[_bus(library.nvmlDeviceGetNvLinkRemotePciInfo(handle, link))] += 1
        except library.NVMLError:
            continue  # a link that this GPU does not have
    return ends


def _bus(pci: Any) -> str:
    """The address of a device, in the same letters whoever gives it."""
    address = pci.busId
    return (address.decode() if isinstance(address, bytes) else str(address)).lower()


def _over_pcie(library: Any, first: Any, second: Any) -> str:
    with suppress(library.NVMLError):
        return _OVER_PCIE.get(library.nvmlDeviceGetTopologyCommonAncestor(first, second), "")
    return ""
