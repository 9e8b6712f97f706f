"""An agent of a node with one GPU that is not there: the real agent, over an NVML of the tests.

python -m tests.cluster.gpu_agent UUID WATTS
"""

import sys
import time
from typing import Any

from pytest_dnnbench.controller import agent
from pytest_dnnbench.controller.machine import Gpu, Machine
from tests.controller.fake_nvml import FakeNvml


def main(uuid: str, watts: float) -> None:
    """Serves until stdin closes. The GPU draws the same power all the time."""
    sys.modules["pynvml"] = FakeNvml(  # type: ignore[assignment]
        uuid,
        TotalEnergyConsumption=lambda _: 1e3 * watts * time.monotonic(),
        PowerUsage=lambda _: 1e3 * watts,
        ComputeRunningProcesses=lambda _: [],
    )

    def detect(device: str) -> Machine:
        return Machine(device, (Gpu("H", uuid),), "1", 1, "cpu", "a fake", (0,))

    replaced: Any = agent
    replaced.detect = detect
    agent.main()


if __name__ == "__main__":
    _, uuid, watts, *program = sys.argv
    sys.argv[1:] = program[-1:]  # the agent's own argument, as an engine gives it
    main(uuid, float(watts))
