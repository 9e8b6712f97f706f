"""NVML for tests on machines without a GPU: pynvml's functions that the controller calls, with the
answers that a test gives."""

from types import SimpleNamespace
from typing import Any

_ABOUT_A_GPU = (
    "Name",
    "UUID",
    "MemoryInfo",
    "CudaComputeCapability",
    "ComputeRunningProcesses",
    "ClockInfo",
    "Temperature",
    "PowerUsage",
    "CurrentClocksThrottleReasons",
    "CpuAffinity",
    "MigMode",
    "TotalEnergyConsumption",
    "UtilizationRates",
    "FieldValues",
    "PowerManagementLimit",
    "EccMode",
    "ComputeMode",
    "NvLinkState",
    "NvLinkRemoteDeviceType",
    "NvLinkRemotePciInfo",
    "PciInfo",
    "TopologyCommonAncestor",
    "DeviceHandleFromMigDeviceHandle",
)


class NvmlError(Exception):
    """What this NVML raises."""


class FakeNvml(SimpleNamespace):
    """To stand in `sys.modules` as pynvml. A GPU's handle is its UUID.

    `answers` are functions by the end of their name, as in `ClockInfo=lambda gpu, clock: 1400`;
    whatever else is asked of a GPU is not supported. `closed` are the UUIDs of those that may not
    be used. `is_open` tells whether NVML was initialised and not yet shut down, `inits` how often
    it was.
    """

    NVMLError = NvmlError
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_NVLINK_MAX_LINKS = 18

    def __init__(
        self,
        *uuids: str,
        driver: str | None = "550.1",
        closed: tuple[str, ...] = (),
        **answers: Any,
    ) -> None:
        super().__init__()
        self.closed = closed
        self.inits = 0
        self.uuids = uuids
        self.driver = driver
        self.is_open = False
        self.nvmlDeviceGetUUID = lambda gpu: gpu
        for name in _ABOUT_A_GPU:
            if name in answers or name != "UUID":
                setattr(self, f"nvmlDeviceGet{name}", answers.get(name, _unsupported))

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's name, as those below
        """Fails without a driver."""
        if self.driver is None:
            raise NvmlError("Driver Not Loaded")
        self.is_open = True
        self.inits += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        """The end of what nvmlInit began."""
        self.is_open = False

    def nvmlSystemGetDriverVersion(self) -> str | None:  # noqa: N802
        """As given."""
        return self.driver

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Of the GPUs given."""
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        """The UUID."""
        if self.uuids[index] in self.closed:
            raise NvmlError("Insufficient Permissions")
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        """The same."""
        if uuid.startswith("MIG-") and uuid not in self.uuids:
            raise NvmlError("Not Found")
        return uuid


def _unsupported(*_: Any) -> None:
    raise NvmlError("Not Supported")
