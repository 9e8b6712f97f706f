"""From pytest's command line and ini file to the Settings of a session: bad values, and values that
do not go together, are refused before anything starts."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pytest_dnnbench.case import MNIST_IMAGE_SIZE, Scalar
from pytest_dnnbench.catalog import Catalog
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.results.statistics.paired import MOST_ROUNDS
from pytest_dnnbench.run_length import as_seconds, as_warmup
from pytest_dnnbench.session.option import MOST_WHOLE, Option, framework_options
from pytest_dnnbench.session.settings import (
    ALL,
    BY_DEVICE,
    DEFAULT_LAUNCHES,
    EFFECT,
    MOST_RANKS,
    OPTIONS,
    Settings,
)
from pytest_dnnbench.shape import shapes_of

if TYPE_CHECKING:
    import pytest

_BY_NAME = {option.field: option for option in OPTIONS}
_PERCENTAGE = re.compile(r"(?P<percent>[0-9]{1,9}(\.[0-9]{1,9})?)%")
_AUTO = re.compile(r"auto(:(?P<percent>[0-9]+(\.[0-9]+)?)%)?")


def read_settings(config: pytest.Config, catalog: Catalog) -> Settings:
    """The settings of this session. Raises UsageError for any bad value, before anything starts."""
    values = {option.field: _value(config, option) for option in OPTIONS}
    if values["gpu_counts"] is not None:
        values["gpu_counts"] = tuple(_count(text) for text in values["gpu_counts"])
    values["shapes"] = tuple(str(shape) for shape in shapes_of(values["shapes"]))
    _choose_rounds(config, values)
    values["launches"], values["effect"] = _launches(values["launches"])
    values["warmup"] = as_warmup(values["warmup"], "--dnn-warmup")
    values["prediction_error"] = _percentage(values["prediction_error"])
    if values["window"] is not None:
        values["window"] = as_seconds(values["window"], "--dnn-window")
    _choose_one_of("steps", "window", "how long to time", config, values)
    _choose_one_of("gpus", "gpu_counts", "on how many devices to run", config, values)
    limits = _BY_NAME["limits"]
    values["limits"] = limits.parse(limits.of_command_line(config.getoption(limits.key)) or ())
    values["ini_limits"] = limits.parse(config.getini(limits.key) or ())
    settings = Settings(**values, framework_options=_read_framework_options(config, catalog))
    _check(settings, catalog.behind(settings.path))
    return settings


def _read_framework_options(
    config: pytest.Config, catalog: Catalog
) -> dict[str, dict[str, Scalar]]:
    frameworks = catalog.frameworks.values()
    by_flag = {option.name: option for option in framework_options(frameworks)}
    return {
        framework.name: {row.name: _value(config, by_flag[row.flag]) for row in framework.options}
        for framework in frameworks
        if framework.options
    }


def _check(settings: Settings, catalog: Catalog) -> None:
    if settings.path is not None and not os.path.isdir(settings.path):
        raise UsageError(f"--dnn-path {settings.path}: there is no such folder")
    for framework in settings.frameworks or ():
        if framework != ALL:
            catalog.framework(framework)
    for model in settings.models:
        catalog.model(model)
    for name in ("frameworks", "models"):
        if getattr(settings, name) == ():
            raise UsageError(f"--dnn-{name} is empty: name at least one, separated by commas")
    if settings.false_alarms >= 0.5:
        raise UsageError(f"--dnn-false-alarms is {settings.false_alarms}: it must be below 0.5")
    beside = settings.has_other_side  # A session with two sides refuses `auto` in its own words.
    if settings.effect is not None and settings.baseline is None and not beside:
        raise UsageError(
            "--dnn-launches auto needs --dnn-baseline: launches are planned from the noise of"
            " stored sessions; add --dnn-baseline latest, or give a number of launches"
        )
    if settings.accept is not None and not settings.accept.strip():
        raise UsageError("--dnn-accept is empty: write why the change is right")
    if settings.dataset == "text" and not settings.text:
        raise UsageError(
            "--dnn-dataset text needs --dnn-text FILE: the file's bytes are the tokens"
        )
    if settings.dataset == "mnist" and not settings.data_dir:
        raise UsageError(
            "--dnn-dataset mnist needs --dnn-data-dir: the folder with the MNIST files"
        )
    if settings.dataset == "mnist" and settings.image_size not in (BY_DEVICE, MNIST_IMAGE_SIZE):
        raise UsageError(
            f"--dnn-image-size is {settings.image_size}: MNIST's images have {MNIST_IMAGE_SIZE}"
            " pixels a side"
        )


def _value(config: pytest.Config, option: Option) -> Any:
    place, value = option.given(config)
    return value if place else option.default


def _choose_one_of(
    first: str, second: str, what: str, config: pytest.Config, values: dict[str, Any]
) -> None:
    """Lets one of two options stand that say the same: the one that is nearer to the user, of the
    typed command line, addopts and the ini file. Raises UsageError where they are equally near."""
    if values[first] is None or values[second] is None:
        return
    options = [_BY_NAME[name] for name in (first, second)]
    distances = [_distance(option, config) for option in options]
    if distances[0] == distances[1]:
        former, latter = (f"{option.flag} {_text(values[option.field])}" for option in options)
        raise UsageError(f"{former} and {latter} both say {what}: leave one of them out")
    values[first if distances[1] < distances[0] else second] = None


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _distance(option: Option, config: pytest.Config) -> int:
    """How far from the user an option is given: 0 typed, 1 in addopts, 2 in the ini file."""
    if option.is_typed(config):
        return 0
    return 1 if config.getoption(option.key) is not None else 2


def _choose_rounds(config: pytest.Config, values: dict[str, Any]) -> None:
    """With two environments and no number of launches: the most rounds that are made to compare
    them. What confirms a verdict stays as many launches as without."""
    two_sides = any(values[name] for name in ("against", "against_path", "against_env"))
    is_given = any(ask("dnn_launches") is not None for ask in (config.getoption, config.getini))
    if two_sides and not is_given:
        values["launches"] = MOST_ROUNDS
        if values["confirm"] is None:
            values["confirm"] = DEFAULT_LAUNCHES


def _percentage(text: str | None) -> float | None:
    """The limit on the error of predictions, a fraction."""
    if text is None:
        return None
    number = _PERCENTAGE.fullmatch(text.strip())
    if number is None or not float(number["percent"]):
        raise UsageError(f"--dnn-prediction-error {text!r}: give a percentage above 0, as in 20%")
    return float(number["percent"]) / 100


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:20]) <= MOST_RANKS):
        raise UsageError(
            f"--dnn-gpu-counts {text!r} is not a count: write whole numbers from 1 to"
            f" {MOST_RANKS:,}, as in 1,2,4"
        )
    return int(text)


def _launches(text: str) -> tuple[int, float | None]:
    """The launches, and with auto the change to detect; the launches are the fewest then."""
    if auto := _AUTO.fullmatch(str(text)):
        percent = float(auto["percent"] or 100 * EFFECT)
        if not 0 < percent < 100:
            raise UsageError(
                f"--dnn-launches {text}: a change to detect lies between 0% and 100%, as in auto:3%"
            )
        return DEFAULT_LAUNCHES, percent / 100
    try:
        count = int(text)
    except ValueError:
        raise UsageError(
            f"--dnn-launches {text!r} is not a number: write a number such as 5, auto, or auto:3%"
        ) from None
    if not 1 <= count <= MOST_WHOLE:
        raise UsageError(
            f"--dnn-launches is {count}: it must be at least 1 and at most {MOST_WHOLE}"
        )
    return count, None
