"""The arithmetic that a GPU can do at most, by NVIDIA's name of it: dense, without sparsity, in
floating-point operations per second. A leaf.

Each card stands under the exact name that the driver gives; of any other card nothing is said. The
sources are NVIDIA's data sheets of the V100, T4, A100, L4, L40S, H100 and H200. Where a sheet gives
figures with sparsity, half of them is taken.
"""

TERA = 1e12

_V100 = {"fp32": 15.7}
_T4 = {"fp32": 8.1}
_A100 = {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0}
_L4 = {"fp32": 30.3, "tf32": 60.0, "bf16": 121.0}
_L40S = {"fp32": 91.6, "tf32": 183.0, "bf16": 362.0}
_H100_SXM = {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4}
_H100_PCIE = {"fp32": 51.0, "tf32": 378.0, "bf16": 756.0}

PEAKS = {
    "Tesla V100-SXM2-16GB": _V100,
    "Tesla V100-SXM2-32GB": _V100,
    "Tesla T4": _T4,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA L4": _L4,
    "NVIDIA L40S": _L40S,
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": _H100_PCIE,
    "NVIDIA H200": _H100_SXM,
}
"""1e12 operations per second, by name and by precision (case.PRECISIONS)."""


def peak_flops(name: str, precision: str) -> float | None:
    """Operations per second of a GPU in a precision; None where they are not known."""
    peak = PEAKS.get(name, {}).get(precision)
    return None if peak is None else peak * TERA
