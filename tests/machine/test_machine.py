"""`dnnbench machine`: facts from made-up trees, advice, what is found, and the fingerprint."""

import math
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_dnnbench.__main__ import main
from pytest_dnnbench.controller.machine import detect
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.machine import command
from pytest_dnnbench.machine.advice import advise
from pytest_dnnbench.machine.command import machine_lines
from pytest_dnnbench.machine.facts import GpuFacts, MachineFacts, read_facts
from pytest_dnnbench.machine.findings import findings, learn_noise
from pytest_dnnbench.machine.fingerprint import (
    SCHEMA,
    Fingerprint,
    fingerprint_path,
    read_fingerprint,
    write_fingerprint,
)
from pytest_dnnbench.machine.measuring import (
    FEWEST_LAUNCHES,
    REDUCED_BYTES,
    MachineSpeeds,
    measure_machine,
)
from pytest_dnnbench.rank import machine_speed
from pytest_dnnbench.results.records.schema import Conditions, LaunchEntry, NodeConditions
from pytest_dnnbench.session.machine_fingerprint import compared, yardsticks_here
from tests.patience import HANG_S
from tests.report import records

ROUGH = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
    "sys/devices/system/cpu/smt/active": "1\n",
    "sys/devices/system/node/node0/cpulist": "0\n",
    "sys/devices/system/node/node1/cpulist": "1\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
    "sys/bus/virtio/devices/virtio0/device": "0x0005\n",
    "sys/bus/virtio/devices/virtio0/features": "01100100" + 56 * "0" + "\n",
    "sys/bus/virtio/devices/virtio1/device": "0x0001\n",
    "sys/fs/cgroup/box/cpu.max": "150000 100000\n",
    "proc/self/cgroup": "0::/box\n",
    "proc/loadavg": "1.50 0.70 0.20 2/300 4242\n",
    "proc/meminfo": "MemTotal: 100 kB\nSwapTotal: 1048576 kB\nSwapFree: 524288 kB\n",
    "proc/sys/kernel/numa_balancing": "2\n",
    "proc/stat": "cpu  50 0 30 900 0 0 0 20 7 0\ncpu0 1 1 1 1\n",
}
CALM = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpufreq/boost": "0\n",
    "sys/devices/system/cpu/smt/active": "0\n",
    "sys/devices/system/node/node0/cpulist": "0-1\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/bus/virtio/devices/virtio0/device": "0x0005\n",
    "sys/bus/virtio/devices/virtio0/features": "01100000" + 56 * "0" + "\n",
    "proc/loadavg": "0.01 0.70 0.20 2/300 4242\n",
    "proc/meminfo": "SwapTotal: 0 kB\nSwapFree: 0 kB\n",
    "proc/stat": "cpu  50 0 30 900 0 0 0 0 7 0\n",
}
CAPPED = GpuFacts(name="H100", power_limit_w=500.0, default_limit_w=700.0, persistent=False)


def facts_of(root: Path, files: dict[str, str], gpus: list[GpuFacts] | None = None) -> MachineFacts:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_facts(2, root / "sys", root / "proc", gpus or [])


def test_facts_are_what_the_kernel_says(tmp_path: Path) -> None:
    assert facts_of(tmp_path, ROUGH, [CAPPED]) == MachineFacts(
        cores=2,
        governors={"powersave": 1, "performance": 1},
        turbo=True,
        smt=True,
        huge_pages="never",
        quota_cores=1.5,
        load_1min=1.5,
        swap_used_bytes=512 * 2**20,
        numa_nodes=2,
        numa_balancing=True,
        steal=0.02,
        returns_pages=True,
        gpus=[CAPPED],
    )


def test_what_the_kernel_does_not_say_is_unknown_and_gets_no_advice(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, {"proc/loadavg": "nonsense", "proc/stat": "", "proc/meminfo": ":"})
    assert facts == MachineFacts(cores=2)
    assert advise(facts) == []


def test_a_machine_that_is_set_up_well_gets_no_advice(tmp_path: Path) -> None:
    assert advise(facts_of(tmp_path, CALM)) == []


def test_every_rough_setting_is_named_with_its_value_and_a_command(tmp_path: Path) -> None:
    advice = {each.what: each for each in advise(facts_of(tmp_path, ROUGH, [CAPPED]))}
    assert list(advice) == [
        "other work",
        "stolen time",
        "CPU quota",
        "frequency governor",
        "turbo",
        "SMT",
        "transparent huge pages",
        "free memory",
        "swap",
        "NUMA balancing",
        "power limit of GPU 0",
        "persistence mode of GPU 0",
    ]
    assert advice["frequency governor"].now == "powersave on 1 cores"
    assert advice["CPU quota"].now == "1.5 of 2 cores"
    assert advice["power limit of GPU 0"].command == "sudo nvidia-smi -i 0 -pl 700"
    assert all(each.why and each.command for each in advice.values())


def test_what_is_found_follows_from_the_noise_of_the_launches() -> None:
    rng = random.Random(2)
    noise = learn_noise([100 * math.exp(rng.gauss(0, 0.01)) for _ in range(40)])
    assert noise is not None
    assert noise.launch_sd == pytest.approx(0.01, rel=0.25)
    remarks = findings(noise)
    for smaller, larger in zip(remarks[1:], remarks, strict=False):
        assert smaller.side_by_side < larger.side_by_side
    five = remarks[1]
    # (2.33 + 1.65) standard errors of a difference of two medians of five, and some for the dof.
    assert five.side_by_side == pytest.approx(
        3.98 * noise.launch_sd * math.sqrt(2 * 0.287), rel=0.1
    )
    assert learn_noise([1.0, 2.0]) is None


def fingerprint(**changes: Any) -> Fingerprint:
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "saved": "2026-03-01T10:00:00+00:00",
        "hostname": "node1",
        "cpu": "EPYC",
        "cores": 2,
        "torch": "2.13.0",
        "yardstick_s": [0.0020, 0.00201, 0.0021],
        "memory_bytes_s": 2e10,
        "link_bytes_s": 1e9,
        "case": "single-resnet18-1gpu",
        "throughputs": [100.0] * 5,
        "launch_sd": 0.01,
        "facts": MachineFacts(cores=2),
    }
    return Fingerprint(**facts | changes)


def test_a_fingerprint_is_kept_for_its_host_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = fingerprint_path("../node 1")
    assert path.parent == tmp_path / "pytest-dnnbench" / "machine"
    assert read_fingerprint(path) is None
    write_fingerprint(path, fingerprint())
    assert read_fingerprint(path) == fingerprint()
    unlike = [fingerprint(schema=9), fingerprint(yardstick_s=[]), fingerprint(yardstick_s=[0.0])]
    for damaged in (b"{", b"[]", *map(msgspec.json.encode, unlike)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="run `dnnbench machine` again"):
            read_fingerprint(path)
    assert fingerprint_path("a") != fingerprint_path("b")


def test_a_session_says_how_the_yardstick_compares() -> None:
    here = {"hostname": "node1", "torch": "2.13.0"}
    assert compared(fingerprint(), 0.0024, here) == (
        "this machine's yardstick was 2.01 ms on 2026-03-01, now 2.40 ms (+19%)",
        "yellow",
    )
    assert compared(fingerprint(), 0.00202, here)[1] == ""
    other, _ = compared(fingerprint(torch="2.12.0"), 0.002, here)
    assert "torch 2.12.0 -> 2.13.0" in other


def test_the_yardstick_of_another_node_is_not_compared_with_this_machines() -> None:
    record = records.measured("single", "resnet18", 1)
    here = Conditions(yardstick_s=0.002)
    there = Conditions(yardstick_s=0.004, nodes=[NodeConditions(name="n1", ranks=1)])
    on_a_gpu = Conditions(yardstick_s=0.0015, gpu_uuids=("GPU-a",))
    record.launches = [
        LaunchEntry(
            step_time_s=[1.0], loss=[], rank_wall_s=[1.0], page_faults=[0], conditions=conditions
        )
        for conditions in (here, there, on_a_gpu, Conditions())
    ]
    assert yardsticks_here([record], "cpu") == [0.002]
    assert yardsticks_here([record], "cuda") == [0.0015]


@pytest.fixture(scope="module")
def measured() -> MachineSpeeds:
    """This machine, measured in as few launches as there may be."""
    return measure_machine(
        detect("cpu"), 0.0, model="tests.tiny_models:tiny", say=lambda line: None
    )


def test_a_machine_is_measured_on_fresh_ranks(measured: MachineSpeeds) -> None:
    assert len(measured.record.launches) == FEWEST_LAUNCHES
    assert all(0 < seconds < HANG_S for seconds in measured.yardstick_s)
    assert 1e5 < measured.memory_bytes_s < 1e13
    assert measured.link_bytes_s is None or 1e4 < measured.link_bytes_s < 1e12
    assert machine_speed.REDUCED_BYTES == REDUCED_BYTES


def test_the_text_says_what_is_found_or_why_nothing_can_be_said(measured: MachineSpeeds) -> None:
    lines = machine_lines("CPU ranks", fingerprint(), measured, [])
    text = "\n".join(lines)
    assert "yardstick 2.01 ms (3 times, 2.00 to 2.10)" in lines
    assert "in 5 launches beside as many" in text or "too few are left" in text
    assert lines[-1].startswith("nothing to change")


@pytest.mark.parametrize("busy", [False, True])
def test_a_fingerprint_is_kept_only_of_a_machine_that_had_no_other_work(
    busy: bool,
    measured: MachineSpeeds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reason = "other processes used 1.0 of 2 cores" if busy else None
    measured.record.launches[:] = [
        msgspec.structs.replace(launch, conditions=Conditions(disturbed=reason))
        for launch in measured.record.launches
    ]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(command, "measure_machine", lambda *_, **__: measured)
    assert main(["machine", "--quick", "--device", "cpu"]) == int(busy)
    kept = read_fingerprint(fingerprint_path())
    shown = capsys.readouterr()
    if busy:
        assert kept is None
        assert "5 of them disturbed" in shown.out
        assert "no fingerprint is kept" in shown.err
    else:
        assert kept is not None
        assert kept.throughputs == measured.throughputs
        assert "in 5 launches beside as many of the other state" in shown.out
        assert main(["machine", "--quick", "--device", "cpu"]) == 0
        assert "; the yardstick was " in capsys.readouterr().err


def test_advice_alone_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["machine", "--advice", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(("what to change:\n", "nothing to change"))
