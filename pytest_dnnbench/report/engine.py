"""The template engine of the page. It escapes every text; only our own files, and what it has
rendered itself, go in as they are."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from pytest_dnnbench.counted import counted

TEMPLATES = Path(__file__).parent / "templates"

_STYLED_STATUSES = {"ok", "partial", "improved", "regressed", "noisy", "failed"}


def template(name: str) -> Template:
    """The template in a file of ours."""
    return _environment().get_template(name)


def own_file(name: str) -> Markup:
    """The text of a file of ours, as it is."""
    return Markup(TEMPLATES.joinpath(name).read_text())  # noqa: S704 # nobody else's text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    environment.globals["status_class"] = _status_class
    return environment


def _status_class(status: str) -> str:
    """The CSS class of a verdict's status."""
    return status if status in _STYLED_STATUSES else "other"
