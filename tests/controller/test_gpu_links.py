"""How GPUs are connected, on an NVML that a test gives."""

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_dnnbench.controller.gpu_links import described, links_of
from tests.controller.fake_nvml import FakeNvml, NvmlError

GPU, SWITCH = 0, 2
BUSES = {"a": "00000000:01:00.0", "b": "00000000:02:00.0", "c": "00000000:A3:00.0"}
LEVELS = {("a", "b"): 10, ("a", "c"): 50, ("b", "c"): 50}


def nvml(ends: dict[str, list[str]], levels: dict[tuple[str, str], int] = LEVELS) -> FakeNvml:
    """GPUs whose links in use lead to these others, or to a "switch"."""

    def end(gpu: str, link: int) -> str:
        if link > len(ends[gpu]):
            raise NvmlError("Invalid Argument")
        return (["off", *ends[gpu]])[link]  # the first link of each is not in use

    def bus(name: str) -> Any:
        return SimpleNamespace(busId=BUSES[name].encode())

    return FakeNvml(
        *ends,
        NvLinkState=lambda gpu, link: int(end(gpu, link) != "off"),
        NvLinkRemoteDeviceType=lambda gpu, link: SWITCH if end(gpu, link) == "switch" else GPU,
        NvLinkRemotePciInfo=lambda gpu, link: SimpleNamespace(busId=BUSES[end(gpu, link)].lower()),
        PciInfo=bus,
        TopologyCommonAncestor=lambda *pair: levels[pair],
    )


def connections(ends: dict[str, list[str]], **more: Any) -> str | None:
    links = links_of(nvml(ends, **more), {gpu: gpu for gpu in ends})
    return described([*ends], links)


def test_gpus_at_switches_have_as_many_links_as_the_one_with_fewest() -> None:
    assert connections({"a": ["switch"] * 16, "b": ["switch"] * 16, "c": ["switch"] * 16}) == "NV16"
    one_is_down = {"a": ["switch"] * 16, "b": ["switch"] * 16, "c": ["switch"] * 15}
    assert connections(one_is_down) == "0-1 NV16, 0-2 NV15, 1-2 NV15"


def test_direct_links_are_counted_by_pair_and_the_rest_goes_over_pcie() -> None:
    ends = {"a": ["b", "b", "b", "b"], "b": ["a", "a", "a", "a"], "c": []}
    assert connections(ends) == "0-1 NV4, 0-2 SYS, 1-2 SYS"


def test_without_nvlink_it_is_what_a_transfer_crosses() -> None:
    assert connections({"a": [], "b": [], "c": []}) == "0-1 PIX, 0-2 SYS, 1-2 SYS"
    assert connections({"a": [], "b": []}) == "PIX"


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_gpus_are_not_connected(count: int) -> None:
    assert connections({gpu: [] for gpu in "ab"[:count]}) is None


def test_what_the_driver_does_not_say_is_not_recorded() -> None:
    silent = FakeNvml("a", "b")
    links = links_of(silent, {"a": "a", "b": "b"})
    assert links == {"a": {}, "b": {}}
    assert described(["a", "b"], links) is None
