"""The collectives (test_collectives.py) run when they are asked for by name: `pytest bench_cases`
measures the training and validation steps of frameworks, and a baseline of these must not get other
cases because the suite has grown."""

import re
from pathlib import Path

import pytest

COLLECTIVES = "test_collectives.py"
SIZES = "4KiB,256KiB,16MiB"
_UNITS = ("B", "KiB", "MiB", "GiB")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the sizes."""
    parser.addoption(
        "--collective-sizes",
        metavar="X",
        default=SIZES,
        help=f"sizes of the collectives (default: {SIZES})",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Checks the sizes before anything starts."""
    sizes_of(config)


def sizes_of(config: pytest.Config) -> dict[str, int]:
    """The sizes in bytes, by what the user wrote. Raises pytest.UsageError."""
    return {text: _bytes_of(text) for text in config.getoption("--collective-sizes").split(",")}


def _bytes_of(text: str) -> int:
    matched = re.fullmatch(rf"([1-9][0-9]*)({'|'.join(_UNITS)})", text)
    if matched is None:
        raise pytest.UsageError(
            f"--collective-sizes {text!r} is no size: write whole numbers with B, KiB, MiB or GiB,"
            " as in 64KiB,1MiB"
        )
    return int(matched[1]) << 10 * _UNITS.index(matched[2])


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves the collectives out unless an argument names their file."""
    asked = any(Path(argument.split("::")[0]).name == COLLECTIVES for argument in config.args)
    return True if collection_path.name == COLLECTIVES and not asked else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives the collectives their sizes."""
    if "size" in metafunc.fixturenames:
        sizes = sizes_of(metafunc.config)
        metafunc.parametrize("size", [*sizes.values()], ids=[*sizes])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects collectives on one rank, which exchanges nothing."""

    def is_alone(item: pytest.Item) -> bool:
        parameters = getattr(item, "callspec", None)
        return (
            item.path.name == COLLECTIVES
            and parameters is not None
            and parameters.params["gpus"] == 1
        )

    if alone := [item for item in items if is_alone(item)]:
        config.hook.pytest_deselected(items=alone)
        items[:] = [item for item in items if not is_alone(item)]
