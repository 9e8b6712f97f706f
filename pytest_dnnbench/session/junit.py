"""The figures of a case as properties of its test, which pytest's JUnit XML carries: for dashboards
that read no file of pytest-benchmark."""

import pytest

from pytest_dnnbench.results.records.schema import Record

_PREFIX = "dnnbench."


def add_properties(item: pytest.Item, record: Record) -> None:
    """Gives a test the verdict of its case, the unit of a sample and each figure, in place of those
    of an earlier run of the test. A metric without enough undisturbed launches has no figure."""
    kept = [each for each in item.user_properties if not each[0].startswith(_PREFIX)]
    figures = {name: record.measured(name).figure for name in record.metrics}
    item.user_properties[:] = [
        *kept,
        (f"{_PREFIX}verdict", record.verdict.status),
        (f"{_PREFIX}sample", record.run.sample),
        *((_PREFIX + name, repr(value)) for name, value in figures.items() if value is not None),
    ]
