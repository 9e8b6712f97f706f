"""The page: one HTML file that holds all of a study and loads nothing.

Every text is escaped by the template engine; only our own CSS and script, the rendered rows and the
plots' SVG go in as they are. The page is bounded: the rows by case_rows.py, the lists here.
"""

import base64
import hashlib
import importlib.metadata
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.captions import caption, environment_line
from pytest_dnnbench.report.case_rows import CaseRows, case_rows, environment_key
from pytest_dnnbench.report.engine import own_file, template
from pytest_dnnbench.report.figures import amount, rate
from pytest_dnnbench.report.findings import finding, headline
from pytest_dnnbench.report.plots import Plot
from pytest_dnnbench.report.rows import Section, has_mixed_rates
from pytest_dnnbench.report.runs import Result, Run
from pytest_dnnbench.report.study import Study, throughput_unit
from pytest_dnnbench.report.winners import Contest, contests

MOST_CONTESTS, MOST_ENVIRONMENTS, MOST_CHOICES = 150, 60, 100
"""Entries shown: of comparisons, of environments, and of each filter's choices."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot as it goes into the page: the SVG of each panel, and the files beside the page that
    hold it too."""

    plot: Plot
    svgs: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row of "who wins where". `unit`: of the rate; empty where the rate's text has it."""

    group: str
    gpus: int
    first: str
    decided: bool
    undecided: str
    rate: str
    unit: str
    finding: str
    why: str


@dataclass(frozen=True, slots=True)
class PlotSection:
    """A plot with its caption; `panels` are labels and drawings, `files` names and paths."""

    plot: Plot
    panels: list[tuple[str, Markup]]
    caption: str
    files: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class EnvironmentEntry:
    """An environment: in a few words, and all of its facts."""

    about: str
    facts: list[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice above the table: the values of the column `key`."""

    label: str
    key: str
    choices: list[str]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template shows. `contents` are the keys and titles of the page's sections;
    each `..._left_out` counts what the page has no room for."""

    title: str
    policy: str
    css: Markup
    script: Markup
    environment: str
    cases: int
    sessions: Sequence[Run]
    statuses: list[tuple[str, int]]
    failures: list[tuple[str, str]]
    contents: list[tuple[str, str]]
    headline: list[str]
    comparisons: list[Comparison]
    comparisons_left_out: int
    rate_unit: str
    devices: str
    plots: list[PlotSection]
    filters: list[Filter]
    table: CaseRows
    environments: list[EnvironmentEntry]
    environments_left_out: int
    notes: list[str]
    version: str


def render(study: Study, sections: Sequence[Section], drawn: Sequence[Drawn], title: str) -> str:
    """The whole page of a study and its sections."""
    script, failures = own_file("page.js"), _failures(study)
    fought = [contest for contest in contests(study) if len(contest.group.at(contest.gpus)) > 1]
    environments = {environment_key(result): result for result in study.latest}
    places = {key: place for place, key in enumerate([*environments][:MOST_ENVIRONMENTS], 1)}
    page = Page(
        title=title,
        policy=_policy(script),
        css=own_file("page.css"),
        script=script,
        environment=environment_line(study) if study.latest else "",
        cases=len(study.latest),
        sessions=study.runs,
        statuses=_statuses(study),
        failures=failures,
        contents=_contents(study, drawn, bool(failures)),
        headline=headline(fought, study),
        comparisons=_comparisons(fought[:MOST_CONTESTS], study),
        comparisons_left_out=max(len(fought) - MOST_CONTESTS, 0),
        rate_unit=throughput_unit(study.latest),
        devices=_devices(study),
        plots=[_plot_section(plot, study) for plot in drawn],
        filters=_filters(study),
        table=case_rows(study, sections, places),
        environments=[_environment(environments[key]) for key in places],
        environments_left_out=len(environments) - len(places),
        notes=study.notes,
        version=importlib.metadata.version("pytest-dnnbench"),
    )
    return template("page.html").render(page=page)


def _failures(study: Study) -> list[tuple[str, str]]:
    return [failure for run in study.runs for failure in run.failures]


def _comparisons(shown: Sequence[Contest], study: Study) -> list[Comparison]:
    mixed = has_mixed_rates(study.latest)
    return [
        Comparison(
            group=contest.group.label,
            gpus=contest.gpus,
            first=study.label(contest.first),
            decided=contest.clear,
            undecided="no clear winner" if contest.lead else "not compared",
            rate=_rate(contest.first, with_unit=mixed),
            unit="" if mixed else contest.first.throughput_unit,
            finding=finding(contest, study),
            why=contest.why if contest.lead else "",
        )
        for contest in shown
    ]


def _rate(result: Result, *, with_unit: bool) -> str:
    value = result.value(THROUGHPUT)
    return amount(value, result.throughput_unit) if with_unit else rate(value)


def _plot_section(drawn: Drawn, study: Study) -> PlotSection:
    plot = drawn.plot
    panels = [
        (f"{plot.title}: {panel.title}", _inline(svg))
        for panel, svg in zip(plot.panels, drawn.svgs, strict=True)
    ]
    files = [
        ("PNG" if path.endswith(".png") else f"SVG {place}", path)
        for place, path in enumerate(drawn.files)
    ]
    return PlotSection(plot, panels, caption(study, plot.key), files)


def _inline(svg: str) -> Markup:
    """The SVG's element alone. Its groups' ids are the same in every panel and nothing refers to
    them, so they go: an id may stand in a page only once."""
    element = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    return Markup(element)  # noqa: S704 # matplotlib has escaped the texts in it


def _environment(result: Result) -> EnvironmentEntry:
    facts = result.record.environment.must_match
    parts = [str(facts[name]) for name in ("gpu", "cpu") if facts.get(name)]
    parts += [f"torch {facts['torch']}"] if facts.get("torch") else []
    return EnvironmentEntry(", ".join(parts) or "nothing recorded", sorted(facts.items()))


def _statuses(study: Study) -> list[tuple[str, int]]:
    """How many cases have each status, regressed first."""
    counts = Counter(result.status for result in study.latest)
    return sorted(counts.items(), key=lambda pair: (pair[0] != "regressed", pair[0]))


def _filters(study: Study) -> list[Filter]:
    """A filter for each column in which the cases differ."""
    values = [
        ("Model", "model", {result.case.model for result in study.latest}),
        ("Phase", "phase", {result.case.phase for result in study.latest}),
        ("Framework", "framework", set(study.series)),
        ("Verdict", "verdict", {result.status for result in study.latest}),
    ]
    return [
        Filter(label, key, sorted(choices)[:MOST_CHOICES])
        for label, key, choices in values
        if len(choices) > 1
    ]


def _contents(study: Study, drawn: Sequence[Drawn], failed: bool) -> list[tuple[str, str]]:
    failures = [("failures", "Failed")] if failed else []
    about = ("about", "About")
    if not study.latest:
        return [("summary", "Summary"), *failures, about]
    plots = [(drawing.plot.key, drawing.plot.title) for drawing in drawn]
    tables = [("cases", "All cases"), ("environments", "Environments")]
    return [("summary", "Who wins"), *failures, *plots, *tables, about]


def _devices(study: Study) -> str:
    kinds = {result.case.device for result in study.latest}
    return "CPU ranks" if kinds == {"cpu"} else "GPUs"


def _policy(script: str) -> str:
    """Nothing is loaded, and no script runs but ours. Styles are allowed: matplotlib styles its
    elements one by one."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}';"
        " base-uri 'none'; form-action 'none'"
    )
