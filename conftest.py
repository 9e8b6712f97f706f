"""Shared by the suite of cases and the tests: pytest's own plugin for testing plugins, and no test
that is skipped in CI for want of a tool."""

import os
from collections.abc import Generator

import pytest

pytest_plugins = ["pytester"]

MAY_BE_SKIPPED = ("needs the real data", "needs a GPU", "this torch is built for CUDA")
"""What CI cannot install."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where DNNBENCH_NO_SKIPS is set, as in .ci/run, a test that lacks a tool fails."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and "DNNBENCH_NO_SKIPS" in os.environ:
        reason = report.longreprtext
        if not any(allowed in reason for allowed in MAY_BE_SKIPPED):
            report.outcome = "failed"
            report.longrepr = f"skipped where every tool should be there: {reason}"
    return report
