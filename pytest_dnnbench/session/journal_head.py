"""What must be alike before a session is continued: its cases, its options, where it runs. A
session on nodes may go on on others of the same kind: a batch system gives a requeued job what is
free."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.installed import installed_version
from pytest_dnnbench.session.resources import Resources
from pytest_dnnbench.session.settings import NOT_MEASURED

if TYPE_CHECKING:
    from pytest_dnnbench.results.records.journal_file import JournalHead


def journal_head(shared: Resources, cases: list[str]) -> JournalHead:
    """The head of this session's journal; `cases` are its node ids, in order."""
    from pytest_dnnbench.results.records.journal_file import JournalHead

    machine = shared.machine
    packages = {"pytest-dnnbench", "torch", "torchvision", "numpy"}
    packages |= {
        name
        for spec in shared.catalog.frameworks.values()
        if not spec.missing()
        for name in spec.requires
    }
    environment = {
        "hostname": platform.node() if shared.cluster is None else None,
        "python": platform.python_version(),
        "cpu": machine.cpu,
        "cores": machine.cores,
        "device": machine.kind,
        "gpus": [gpu.uuid if shared.cluster is None else gpu.name for gpu in machine.gpus],
        "driver": machine.driver,
        **{name: installed_version(name) for name in sorted(packages)},
        **shared.must_stay,
    }
    options = {
        name: value for name, value in asdict(shared.settings).items() if name not in NOT_MEASURED
    }
    return JournalHead(cases, through_json(options), through_json(environment))


def through_json(value: dict[str, Any]) -> dict[str, Any]:
    """The value as it is after its way through JSON."""
    return dict(json.loads(json.dumps(value)))


def head_differences(then: JournalHead, now: JournalHead) -> list[str]:
    """What an interrupted session and the one that is to continue it do not have in common."""
    unlike = [
        f"{name}: {before.get(name)} then, {after.get(name)} now"
        for before, after in ((then.options, now.options), (then.environment, now.environment))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    for cases, when in (
        (set(then.cases) - set(now.cases), "then"),
        (set(now.cases) - set(then.cases), "now"),
    ):
        if cases:
            more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
            unlike.append(f"only {when}: {min(cases)}{more}")
    return unlike
