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

_PERCENTAGE = re.compile(r"(?P<percent>[0-9]{1,9}(\.[0-9]{1,9})?)%")
_AUTO = re.compile(r"auto(:(?P<percent>[0-9]+(\.[0-9]+)?)%)?")


def read_settings(config: pytest.Config, catalog: Catalog) -> Settings:
    """The settings of this session. Raises UsageError for any bad value, before anything starts."""
    values = {option.key.removeprefix("dnn_"): _value(config, option) for option in OPTIONS}
    if values["gpu_counts"] is not None:
        values["gpu_counts"] = tuple(_count(text) for text in values["gpu_counts"])
    values["shapes"] = tuple(str(shape) for shape in shapes_of(values["shapes"]))
    _choose_rounds(config, values)
    values["launches"], values["effect"] = _launches(values["launches"])
    values["warmup"] = as_warmup(values["warmup"], "--dnn-warmup")
    values["prediction_error"] = _percentage(values["prediction_error"])
    _choose_steps_or_window(config, values)
    limits = next(option for option in OPTIONS if option.name == "limits")
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
    if settings.anchor is not None and settings.baseline is None:
        raise UsageError(
            "--dnn-anchor needs --dnn-baseline: an anchor is judged beside the latest sessions; add"
            " --dnn-baseline latest"
        )
    if settings.accept is not None and not settings.accept.strip():
        raise UsageError("--dnn-accept is empty: write why the change is right")
    if (settings.dataset == "text") != bool(settings.text):
        raise UsageError(
            "--dnn-dataset text and --dnn-text FILE need each other: the file's bytes are the"
            f" tokens; --dnn-dataset is {settings.dataset}"
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
    places = {
        "": option.of_command_line(config.getoption(option.key)),
        f"{option.key} in the ini file": config.getini(option.key),
    }
    for place, given in places.items():
        if given is not None and given != "":
            return option.parse(given, place)
    return option.default


def _choose_steps_or_window(config: pytest.Config, values: dict[str, Any]) -> None:
    """Lets one of --dnn-steps and --dnn-window stand: that of the command line, where the other is
    the ini file's. Raises UsageError where both are in the same place."""
    if values["window"] is not None:
        values["window"] = as_seconds(values["window"], "--dnn-window")
    if values["steps"] is None or values["window"] is None:
        return
    on_line = [name for name in ("steps", "window") if config.getoption(f"dnn_{name}") is not None]
    if len(on_line) != 1:
        raise UsageError(
            f"--dnn-steps {values['steps']} and --dnn-window {values['window']} both say how long"
            " to time: leave one of them out"
        )
    values["window" if on_line == ["steps"] else "steps"] = None


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
