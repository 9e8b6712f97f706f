"""Saved sessions made up for tests and benchmarks of reports: plausible figures with a seeded
noise."""

import math
import random
from collections.abc import Sequence
from typing import Any

_EFFICIENCY = {"single": 1.0, "ddp": 0.97, "horovod": 0.93}
_SECONDS_PER_IMAGE = 1 / 900


def session(
    models: Sequence[str] = ("resnet50",),
    frameworks: Sequence[str] = ("single", "ddp", "horovod"),
    counts: Sequence[int] = (1, 2, 4),
    *,
    phases: Sequence[str] = ("train", "validate"),
    day: int = 10,
    launches: int = 3,
    steps: int = 10,
    noise: float = 0.005,
    slower: str = "",
) -> dict[str, Any]:
    """The content of a file that pytest-benchmark saved; framework `slower`, if any, lost a tenth
    and is regressed."""
    chance = random.Random(day)
    benchmarks = [
        benchmark(
            framework, model, gpus, phase, chance, launches, steps, noise, framework == slower
        )
        for model in models
        for phase in phases
        for gpus in counts
        for framework in frameworks
        if framework != "single" or gpus == 1
    ]
    return {
        "datetime": f"2026-03-{day:02}T09:30:00+00:00",
        "commit_info": {"id": f"{day:040}"},
        "benchmarks": benchmarks,
        "dnnbench": {"schema": 1, "failed": []},
    }


def benchmark(
    framework: str,
    model: str,
    gpus: int,
    phase: str = "train",
    chance: random.Random | None = None,
    launches: int = 3,
    steps: int = 10,
    noise: float = 0.005,
    regressed: bool = False,
) -> dict[str, Any]:
    """One case as it is saved."""
    chance = chance or random.Random(gpus)
    efficiency = (
        1.0
        if framework == "single"
        else _EFFICIENCY.get(framework, 0.88) ** (math.log2(gpus) + 0.3)
    )
    rate = (
        gpus
        * efficiency
        / _SECONDS_PER_IMAGE
        * (3 if phase == "validate" else 1)
        * (0.9 if regressed else 1)
    )

    def entry(
        value: float, unit: str, better: str = "higher", noise: float = noise
    ) -> dict[str, Any]:
        values = [value * math.exp(chance.gauss(0, noise)) for _ in range(launches)]
        middle = sorted(values)[launches // 2]
        return {
            "value": middle,
            "unit": unit,
            "better": better,
            "per_rank": [],
            "per_launch": values,
        }

    step = 32 * gpus / rate
    status, change = ("regressed", -0.1) if regressed else ("ok", 0.002)
    judged = {
        "status": status,
        "baseline": rate / (1 + change),
        "now": rate,
        "change": change,
        "interval": [change - 0.005, change + 0.005],
        "limit": -0.03,
        "limit_absolute": None,
        "source": "default",
        "confidence": 0.999,
        "minimum_detectable": 0.04,
        "launches_needed": None,
    }
    record = {
        "schema": 1,
        "case": {
            "framework": framework,
            "model": model,
            "gpus": gpus,
            "phase": phase,
            "dataset": "synthetic",
            "image_size": 224,
            "batch_size": 32,
            "precision": "fp32",
            "scaling": "weak",
            "device": "cuda",
            "launcher": "forkserver",
            "seed": 0,
            "options": {},
            "samples_per_update": 32 * gpus,
            "oversubscribed": False,
            "steps": steps,
            "warmup": 3,
            "data": {},
        },
        "metrics": {
            "throughput": entry(rate, "img/s"),
            "step_time_s": entry(step, "s", "lower"),
            "speedup": entry(gpus * efficiency, "x"),
            "scaling_efficiency": entry(efficiency, "1"),
            "allocated_peak_bytes": entry(
                2e9 if framework == "single" else 2.3e9, "B", "lower", 0.0
            ),
            "cached_peak_bytes": entry(2.8e9, "B", "lower", 0.01),
        },
        "launches": [
            {
                "step_time_s": [step * math.exp(chance.gauss(0, 0.02)) for _ in range(steps)],
                "loss": [2.3],
            }
            for _ in range(launches)
        ],
        "thresholds": {},
        "environment": {
            "must_match": {
                "cpu": "EPYC",
                "cores": 64,
                "gpu": ", ".join(["H100"] * gpus),
                "torch": "2.13.0",
            },
            "recorded": {"hostname": "node1", "python": "3.12.1"},
        },
        "correctness": {
            "checked": ["gradients", "parameters"],
            "largest_deviation": {"gradients": 1.2e-15, "parameters": 3e-16},
            "tolerance": {"gradients": 1e-9, "parameters": 1e-9},
            "ranks_agree": "bit for bit",
        },
        "plan": None,
        "details": [{}],
        "verdict": {
            "status": status,
            "against": {"file": "0001_base.json", "sessions": 3, "saved": None},
            "reason": None,
            "metrics": {"throughput": judged},
        },
    }
    name = f"bench_cases/test_steps.py::test_{phase}[{framework}-{model}-{gpus}gpu]"
    return {
        "fullname": name,
        "name": name.partition("::")[2],
        "extra_info": {"dnnbench": record},
        "stats": {},
    }
