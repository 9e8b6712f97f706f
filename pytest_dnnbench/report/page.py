"""The page: one HTML file that holds all of a study and loads nothing.

Every text is escaped by the template engine; only our own CSS, script, rows and the plots' SVG go
in as they are. The page is bounded: rows lose their details, then rows are left out, when it would
grow too large.
"""

import base64
import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pytest_dnnbench.report import words
from pytest_dnnbench.report.plots import Plot
from pytest_dnnbench.report.reproduce import command
from pytest_dnnbench.report.rows import CLEAR, Column, Row, Section, columns
from pytest_dnnbench.report.runs import Result, plain
from pytest_dnnbench.report.study import Study, settings
from pytest_dnnbench.report.winners import THROUGHPUT, contests

TEMPLATES = Path(__file__).parent / "templates"

# Bounds in characters: rows with details, then all rows; and in entries: comparisons, environments,
# choices.
MOST_DETAILED, MOST_ROWS = 3_000_000, 3_600_000
MOST_CONTESTS, MOST_ENVIRONMENTS, MOST_CHOICES = 150, 60, 100

_STATUSES = {"ok", "improved", "regressed", "noisy", "failed"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot as it goes into the page: the SVG of each panel, and the files beside the page that
    hold it too."""

    plot: Plot
    svgs: tuple[str, ...]
    files: tuple[str, ...]


def render(study: Study, found: Sequence[Section], drawn: Sequence[Drawn], title: str) -> str:
    """The whole page; `found` are the study's sections."""
    rows = [(section, row) for section in found for row in section.rows]
    shown = columns(row for _, row in rows)
    environments = _environments(study)
    made = _rows(study, rows, shown, environments)
    script, css = (TEMPLATES.joinpath(name).read_text() for name in ("page.js", "page.css"))
    failures = [failure for run in study.runs for failure in run.failures]
    known = [contest for contest in contests(study) if len(contest.group.at(contest.gpus)) > 1]
    plots = [_plot(one, study) for one in drawn] if study.latest else []
    template = _template("page.html")
    text: str = template.render(
        title=title,
        policy=_policy(script),
        css=Markup(css),  # noqa: S704 # our own file
        script=Markup(script),  # noqa: S704 # our own file
        environment=words.environment(study) if study.latest else "",
        cases=len(study.latest),
        sessions=study.runs,
        statuses=_statuses(study),
        failures=failures,
        sections=_contents(study, plots, bool(failures)),
        headline=words.headline(known, study),
        contests=[_contest(contest, study) for contest in known[:MOST_CONTESTS]],
        contests_left=max(len(known) - MOST_CONTESTS, 0),
        devices=_devices(study),
        plots=plots,
        columns=[(head, key, kind) for head, key, kind in _heads(shown, study)],
        sortable=[(head, key) for head, key, _ in _heads(shown, study)],
        filters=_filters(study),
        rows=Markup("").join(made.rows),
        shown=len(made.rows),
        rows_left=len(rows) - len(made.rows),
        bare=made.bare,
        environments=[_environment(facts) for facts in environments[:MOST_ENVIRONMENTS]],
        environments_left=max(len(environments) - MOST_ENVIRONMENTS, 0),
        notes=[note for run in study.runs for note in run.notes],
        version=importlib.metadata.version("pytest-dnnbench"),
    )
    return text


@dataclass(frozen=True, slots=True)
class _Rows:
    rows: list[Markup]
    bare: int


def _rows(
    study: Study,
    rows: Sequence[tuple[Section, Row]],
    shown: Sequence[Column],
    environments: Sequence[dict[str, Any]],
) -> _Rows:
    """As many rows as fit, the first of them with their details."""
    template = _template("row.html")
    places = {
        _text(facts): place for place, facts in enumerate(environments[:MOST_ENVIRONMENTS], 1)
    }
    made, size, bare = [], 0, 0
    for section, row in rows:
        detailed = size < MOST_DETAILED
        text = template.render(
            cells=_cells(section, row, shown, study),
            name=row.result.name,
            details=_details(row.result, study, places) if detailed else None,
        )
        if size + len(text) > MOST_ROWS:
            break
        size += len(text)
        bare += not detailed
        made.append(Markup(text))  # noqa: S704 # the template has escaped it
    return _Rows(made, bare)


def _heads(shown: Sequence[Column], study: Study) -> list[tuple[str, str, bool]]:
    setting = [("setting", "setting", False)] if _varied(study) else []
    own = [
        ("verdict" if one.key == "verdict" else one.head, one.key, not one.is_text) for one in shown
    ]
    if not any(key == "verdict" for _, key, _ in own):
        own.append(("verdict", "verdict", False))
    return [("model", "model", False), ("phase", "phase", False), *setting, *own]


def _cells(
    section: Section, row: Row, shown: Sequence[Column], study: Study
) -> list[dict[str, Any]]:
    group = section.group
    texts: list[tuple[str, str, object]] = [
        ("model", group.model, group.model),
        ("phase", group.phase, group.phase),
    ]
    if _varied(study):
        texts.append(("setting", group.setting, group.setting))
    own = {one.key: (one.text(row), one.value(row)) for one in shown} | {
        "verdict": (row.status, row.status)
    }
    texts += [(key, *pair) for key, pair in own.items()]
    heads = {key: (head, number) for head, key, number in _heads(shown, study)}
    return [
        {
            "column": key,
            "label": heads[key][0],
            "number": heads[key][1],
            "text": text,
            "sort": "" if value is None else value,
            "best": key == THROUGHPUT and row.rank == CLEAR,
        }
        for key, text, value in texts
    ]


def _details(result: Result, study: Study, places: Mapping[str, int]) -> dict[str, Any]:
    verdict, correctness = result.verdict, result.correctness
    against = verdict.get("against")
    return {
        "figures": [
            (
                words.NAMES.get(name, name),
                words.amount(figure.value, figure.unit),
                words.bounds(figure, name),
            )
            for name, figure in result.metrics.items()
        ],
        "status": result.status,
        "against": words.against(against) if isinstance(against, Mapping) else "",
        "reason": plain(verdict.get("reason") or ""),
        "judged": words.judged(verdict),
        "correctness": words.evidence(correctness),
        "settings": words.facts(settings(result) | {"options": result.case.get("options") or None}),
        "plan": words.plan(result.plan),
        "environment": places.get(_text(result.must_match)),
        "recorded": words.facts(result.recorded),
        "command": command(result),
        "saved": study.runs[result.run].saved or study.runs[result.run].source,
    }


def _contest(contest: Any, study: Study) -> dict[str, Any]:
    return {
        "group": contest.group.label,
        "gpus": contest.gpus,
        "first": study.label(contest.first),
        "undecided": "no clear winner" if contest.lead else "not compared",
        "decided": contest.clear,
        "rate": words.rate(contest.first.value(THROUGHPUT)),
        "finding": words.finding(contest, study),
        "why": contest.why if contest.lead else "",
    }


def _plot(drawn: Drawn, study: Study) -> dict[str, Any]:
    plot = drawn.plot
    panels = [
        {"title": panel.title, "svg": _inline(svg, f"{plot.title}: {panel.title}")}
        for panel, svg in zip(plot.panels, drawn.svgs, strict=True)
    ]
    about = {"key": plot.key, "title": plot.title, "about": plot.about, "note": plot.note}
    return {
        **about,
        "panels": panels,
        "caption": words.caption(study, plot.key),
        "files": _links(drawn.files),
    }


def _links(files: Sequence[str]) -> list[tuple[str, str]]:
    return [
        ("PNG" if path.endswith(".png") else f"SVG {place}", path)
        for place, path in enumerate(files)
    ]


def _inline(svg: str, label: str) -> Markup:
    """The element alone, as wide as its place, under a label of its own."""
    body = svg[svg.index("<svg") :]
    head, _, rest = body.partition(">")
    box = head.partition('viewBox="')[2].partition('"')[0]
    for start, end in (
        ("<title>", "</title>"),
        ("<metadata>", "</metadata>"),
        ("<style", "</style>"),
    ):
        before, opened, after = rest.partition(start)
        rest = before + after.partition(end)[2] if opened else rest
    opening = Markup(
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{}" role="img" aria-label="{}">'
    )
    return opening.format(box, label) + Markup(rest)  # noqa: S704 # matplotlib has escaped the texts in it


def _environments(study: Study) -> list[dict[str, Any]]:
    found = {_text(result.must_match): result.must_match for result in study.latest}
    return list(found.values())


def _environment(facts: dict[str, Any]) -> dict[str, Any]:
    about = ", ".join(str(facts[name]) for name in ("gpu", "cpu") if facts.get(name))
    torch = f"torch {facts['torch']}" if facts.get("torch") else ""
    return {
        "about": ", ".join(filter(None, (about, torch))) or "nothing told",
        "facts": sorted(facts.items()),
    }


def _statuses(study: Study) -> list[tuple[str, int]]:
    counted = Counter(result.status for result in study.latest)
    return sorted(counted.items(), key=lambda pair: (pair[0] != "regressed", pair[0]))[:12]


def _filters(study: Study) -> list[tuple[str, str, list[str]]]:
    found = [
        ("Model", "model", {result.model for result in study.latest}),
        ("Phase", "phase", {result.phase for result in study.latest}),
        ("Framework", "framework", set(study.series)),
        ("Verdict", "verdict", {result.status for result in study.latest}),
    ]
    return [
        (name, key, sorted(values)[:MOST_CHOICES]) for name, key, values in found if len(values) > 1
    ]


def _contents(
    study: Study, plots: Sequence[Mapping[str, Any]], failed: bool
) -> list[tuple[str, str]]:
    if not study.latest:
        return [
            ("summary", "Summary"),
            *([("failures", "Failed")] if failed else []),
            ("about", "About"),
        ]
    drawn = [(plot["key"], plot["title"]) for plot in plots]
    ends = [("cases", "All cases"), ("environments", "Environments"), ("about", "About")]
    return [("summary", "Who wins"), *([("failures", "Failed")] if failed else []), *drawn, *ends]


def _devices(study: Study) -> str:
    kinds = {result.case.get("device") for result in study.latest}
    return "CPU ranks" if kinds == {"cpu"} else "GPUs"


def _varied(study: Study) -> bool:
    return any(group.setting for group in study.groups)


def _policy(script: str) -> str:
    """Nothing is loaded, and no script runs but ours. Matplotlib styles its elements one by one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    script_only = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"{script_only}; base-uri 'none'; form-action 'none'"


@cache
def _engine() -> Environment:
    engine = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.globals["status_class"] = lambda status: status if status in _STATUSES else "other"
    return engine


def _template(name: str) -> Any:
    return _engine().get_template(name)


def _text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)
