"""`dnnbench machine`: measures this machine, says what it can find and what to change, and keeps
its fingerprint."""

import argparse
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from pytest_dnnbench.case import DEVICES
from pytest_dnnbench.controller.machine import Machine, detect
from pytest_dnnbench.controller.torch_build import installed_torch
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.harmless import say
from pytest_dnnbench.machine.advice import BUSY, Advice, advise
from pytest_dnnbench.machine.facts import MachineFacts, read_facts
from pytest_dnnbench.machine.findings import findings, learn_noise
from pytest_dnnbench.machine.fingerprint import (
    SCHEMA,
    Fingerprint,
    fingerprint_path,
    read_fingerprint,
    write_fingerprint,
)
from pytest_dnnbench.machine.measuring import MachineSpeeds, measure_machine
from pytest_dnnbench.outputs import check_folder, unwritable

SECONDS, QUICK_SECONDS = 120.0, 30.0
MODEL = "resnet18"


def main(arguments: list[str]) -> int:
    """Exit status 0; 1 where too few launches had the machine to themselves to say anything. Raises
    UsageError where the fingerprint cannot be kept, and what a launch raises."""
    options = _parser().parse_args(arguments)
    machine = detect(options.device)
    # Before anything is measured: our own ranks are a load too.
    facts = read_facts(len(machine.affinity) or machine.cores)
    if options.advice:
        say("\n".join(_advice_lines(advise(facts))))
        return 0
    for each in advise(facts)[:1]:
        if each.what == BUSY:
            say(f"this machine is busy, and may take longer: {each.now}", sys.stderr)
    check_folder("the fingerprint's folder", fingerprint_path().parent)
    earlier = _earlier()
    measured = measure_machine(
        machine,
        QUICK_SECONDS if options.quick else SECONDS,
        model=MODEL,
        say=lambda line: say(f"  {line}", sys.stderr),
    )
    fingerprint = _fingerprint(machine, facts, measured)
    if options.json:
        print(msgspec.json.encode(fingerprint).decode())
    else:
        say("\n".join(machine_lines(machine.describe(), fingerprint, measured, advise(facts))))
    path = fingerprint_path()
    if fingerprint.launch_sd is None:
        say("no fingerprint is kept of a machine that others use", sys.stderr)
        return 1
    try:
        write_fingerprint(path, fingerprint)
    except OSError as error:
        raise unwritable("the fingerprint's folder", path.parent, error) from None
    say(f"kept in {path}{_since(earlier, fingerprint)}", sys.stderr)
    return 0


def machine_lines(
    described: str, fingerprint: Fingerprint, measured: MachineSpeeds, advice: Sequence[Advice]
) -> list[str]:
    """For people: speeds, noise, what it finds, what to change."""
    yardsticks = [f"{1e3 * seconds:.2f}" for seconds in sorted(fingerprint.yardstick_s)]
    link = fingerprint.link_bytes_s
    lines = [
        described,
        f"yardstick {1e3 * statistics.median(fingerprint.yardstick_s):.2f} ms"
        f" ({len(yardsticks)} times, {yardsticks[0]} to {yardsticks[-1]})",
        f"memory {fingerprint.memory_bytes_s / 1e9:.1f} GB/s read and written by all cores",
        f"link of two ranks {link / 1e9:.2f} GB/s (all-reduce of 16 MiB, bus bandwidth)"
        if link
        else "link not measured: two ranks need two cores",
        *_noise_lines(fingerprint, measured),
    ]
    return [*lines, "", *_advice_lines(advice)]


def _noise_lines(fingerprint: Fingerprint, measured: MachineSpeeds) -> list[str]:
    launches = len(measured.record.launches)
    disturbed = sum(1 for reason in measured.record.reasons if reason)
    lines = [
        f"{counted(launches, 'launch')} of {fingerprint.case}"
        + (f", {disturbed} of them disturbed and left out" if disturbed else "")
    ]
    noise = learn_noise(measured.throughputs)
    if noise is None:
        reason = next((each for each in measured.record.reasons if each), "")
        return [*lines, f"too few are left to say what this machine finds: {reason}"]
    lines.append(f"launches differ by {noise.launch_sd:.2%}")
    return lines + [
        f"finds {each.side_by_side:.1%} in {counted(each.launches, 'launch')} beside as many of"
        f" the other state; {each.stored:.1%} against five stored sessions that differ no more than"
        " launches"
        for each in findings(noise)
    ]


def _advice_lines(advice: Sequence[Advice]) -> list[str]:
    if not advice:
        return ["nothing to change: no setting that Linux shows here makes figures less steady"]
    lines = ["what to change:"]
    for each in advice:
        lines += [f"  {each.what}: {each.now}", f"    {each.why}", f"    {each.command}"]
    return lines


def _fingerprint(machine: Machine, facts: MachineFacts, measured: MachineSpeeds) -> Fingerprint:
    noise = learn_noise(measured.throughputs)
    torch = installed_torch()
    return Fingerprint(
        schema=SCHEMA,
        saved=datetime.now(UTC).isoformat(timespec="seconds"),
        hostname=platform.node(),
        cpu=machine.cpu,
        cores=machine.cores,
        torch=torch.version if torch else "",
        yardstick_s=measured.yardstick_s,
        memory_bytes_s=measured.memory_bytes_s,
        link_bytes_s=measured.link_bytes_s,
        case=measured.record.trained_case.id,
        throughputs=measured.throughputs,
        launch_sd=noise.launch_sd if noise else None,
        facts=facts,
        device=machine.kind,
    )


def _earlier() -> Fingerprint | None:
    try:
        return read_fingerprint(fingerprint_path())
    except DataError as error:
        say(f"replaced: {error}", sys.stderr)
        return None


def _since(earlier: Fingerprint | None, now: Fingerprint) -> str:
    if earlier is None or earlier.device != now.device:
        return ""
    before, after = (statistics.median(each.yardstick_s) for each in (earlier, now))
    return (
        f"; the yardstick was {1e3 * before:.2f} ms on {earlier.saved[:10]},"
        f" now {1e3 * after:.2f} ms ({after / before - 1:+.0%})"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench machine",
        description="Measure this machine for two minutes: which slowdowns can it find, and what"
        " would make it steadier? Keeps a fingerprint that later sessions are compared with.",
    )
    parser.add_argument("--quick", action="store_true", help="half a minute only")
    parser.add_argument(
        "--advice", action="store_true", help="measure nothing: only what to change"
    )
    parser.add_argument(
        "--device",
        choices=("auto", *DEVICES),
        default="auto",
        help="where the launches run (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the fingerprint, for programs")
    return parser
