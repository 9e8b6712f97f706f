"""What to change on a machine whose figures should be steadier: pure, from its facts.

Each advice has the value now, the reason, and the command. A setting that the kernel does not give,
as in most virtual machines, gets none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_dnnbench.machine.facts import GpuFacts, MachineFacts

BUSY_LOAD = 0.2
"""Waiting and running threads of others from which on a launch counts as disturbed."""

BUSY = "other work"
"""The name of that advice."""

MOST_STEAL = 0.005
MOST_SWAP = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to change."""

    what: str
    now: str
    why: str
    command: str


def advise(facts: MachineFacts) -> list[Advice]:
    """What to change, what matters most first; empty for a machine that is set up well."""
    return [
        *_load_advice(facts),
        *_clock_advice(facts),
        *_memory_advice(facts),
        *_gpu_advice(facts),
    ]


def _load_advice(facts: MachineFacts) -> Iterator[Advice]:
    if facts.load_1min is not None and facts.load_1min >= BUSY_LOAD:
        yield Advice(
            BUSY,
            f"{facts.load_1min:.2f} threads ran or waited in the last minute",
            "launches beside other work say nothing about the case, and are left out",
            "ps -eo pcpu,pid,user,args --sort=-pcpu | head",
        )
    if facts.steal is not None and facts.steal >= MOST_STEAL:
        yield Advice(
            "stolen time",
            f"{facts.steal:.1%} of all CPU time since the start",
            "the host of this virtual machine runs others on the same cores",
            "ask for dedicated cores, or measure on a machine of your own",
        )
    if facts.quota_cores is not None and facts.quota_cores < facts.cores:
        yield Advice(
            "CPU quota",
            f"{facts.quota_cores:g} of {facts.cores} cores",
            "the kernel stops all threads of a group that has used its share of a period",
            f"give whole cores instead, as in docker run --cpuset-cpus"
            f" 0-{max(int(facts.quota_cores) - 1, 0)}",
        )


def _clock_advice(facts: MachineFacts) -> Iterator[Advice]:
    slow = {name: count for name, count in facts.governors.items() if name != "performance"}
    if slow:
        shown = ", ".join(f"{name} on {count} cores" for name, count in sorted(slow.items()))
        yield Advice(
            "frequency governor",
            shown,
            "clocks follow the load, so the first steps of a launch are slower",
            "sudo cpupower frequency-set -g performance",
        )
    if facts.turbo:
        yield Advice(
            "turbo",
            "on",
            "the clock depends on heat and on how many cores work; off is slower and steadier",
            "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost, or with intel_pstate:"
            " echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo",
        )
    if facts.smt:
        yield Advice(
            "SMT",
            "on: two threads share a core",
            "a rank is up to twice as slow while its sibling works",
            "echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )


def _memory_advice(facts: MachineFacts) -> Iterator[Advice]:
    if facts.huge_pages == "never":
        yield Advice(
            "transparent huge pages",
            "never",
            "launches get other pages each time, and differ by up to a tenth",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )
    if facts.returns_pages:
        yield Advice(
            "free memory",
            "goes back to the host of this virtual machine",
            "a page that is used again after a pause takes up to ten times as long: the first"
            " launch of a model starts late, and steps that take more memory are slower",
            "start the machine without free page reporting, as with QEMU's -device"
            " virtio-balloon,free-page-reporting=off",
        )
    if facts.swap_used_bytes is not None and facts.swap_used_bytes >= MOST_SWAP:
        yield Advice(
            "swap",
            f"{facts.swap_used_bytes / 2**20:,.0f} MiB in use",
            "a page that comes back from disk stops its rank",
            "sudo swapoff -a && sudo swapon -a, with enough memory free",
        )
    if facts.numa_nodes is not None and facts.numa_nodes > 1 and facts.numa_balancing:
        yield Advice(
            "NUMA balancing",
            f"on, over {facts.numa_nodes} nodes",
            "the kernel moves pages between nodes while steps are timed",
            "echo 0 | sudo tee /proc/sys/kernel/numa_balancing",
        )


def _gpu_advice(facts: MachineFacts) -> Iterator[Advice]:
    for number, gpu in enumerate(facts.gpus):
        if _is_capped(gpu):
            yield Advice(
                f"power limit of GPU {number}",
                f"{gpu.power_limit_w:.0f} W of {gpu.default_limit_w:.0f} W",
                "the clock is lowered to stay below it",
                f"sudo nvidia-smi -i {number} -pl {gpu.default_limit_w:.0f}",
            )
        if gpu.persistent is False:
            yield Advice(
                f"persistence mode of GPU {number}",
                "off",
                "the driver starts anew for each launch, with the clocks at rest",
                f"sudo nvidia-smi -i {number} -pm 1",
            )


def _is_capped(gpu: GpuFacts) -> bool:
    return (
        gpu.power_limit_w is not None
        and gpu.default_limit_w is not None
        and gpu.power_limit_w < gpu.default_limit_w
    )
