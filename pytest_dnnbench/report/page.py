"""The page: one HTML file that holds all of a study and loads nothing.

Every text is escaped by the template engine; only our own CSS and script, the rendered rows and the
plots' SVG go in as they are. The page is bounded: the rows by case_rows.py, the lists here.
"""

import base64
import hashlib
import importlib.metadata
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from markupsafe import Markup

from pytest_dnnbench.metrics import THROUGHPUT
from pytest_dnnbench.report.captions import caption, environment_line
from pytest_dnnbench.report.case_rows import CaseRows, case_rows, environment_key
from pytest_dnnbench.report.disturbances import disturbances
from pytest_dnnbench.report.engine import own_file, template
from pytest_dnnbench.report.figures import amount, rate
from pytest_dnnbench.report.findings import finding, headline, winner_sentence
from pytest_dnnbench.report.functions import FunctionTable, function_table
from pytest_dnnbench.report.nodes import LINK_HEADS, NODE_HEADS, NodesTable, nodes_table
from pytest_dnnbench.report.plots import LEADS, Plot
from pytest_dnnbench.report.rows import Section, has_mixed_rates
from pytest_dnnbench.report.runs import Result, Run
from pytest_dnnbench.report.side_by_side import SideTable, side_table
from pytest_dnnbench.report.study import Study, natural, throughput_unit
from pytest_dnnbench.report.text import printable
from pytest_dnnbench.report.verdicts import judged_lines, keeps_limits
from pytest_dnnbench.report.winners import Contest, contests

MOST_CONTESTS, MOST_ENVIRONMENTS, MOST_CHOICES = 150, 60, 100
"""Entries shown: of comparisons, of environments, and of each filter's choices."""

MOST_OPEN = 20
"""Comparisons and failures that are shown before a reader opens the others."""


MOST_FACTS = 4
"""Facts in the title of an environment."""

# Within a style of an SVG: a text that looks like a colour stays as it is.
_COLOUR = re.compile(r"(?<=(?:fill|roke): )#[0-9a-fA-F]{6}\b")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A plot as it goes into the page: the SVG of each panel, and the files beside the page that
    hold it too."""

    plot: Plot
    svgs: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WinnerRow:
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
    functions: FunctionTable | None
    sides: SideTable | None
    nodes: NodesTable | None
    node_heads: tuple[str, ...]
    link_heads: tuple[str, ...]
    sessions: Sequence[Run]
    statuses: list[tuple[str, int]]
    failures: list[tuple[str, str]]
    contents: list[tuple[str, str]]
    answer: str
    headline: list[str]
    disturbed: str
    lead: PlotSection | None
    comparisons: list[WinnerRow]
    comparisons_left_out: int
    most_open: int
    rate_unit: str
    devices: str
    plots: list[PlotSection]
    filters: list[Filter]
    table: CaseRows
    environments: list[EnvironmentEntry]
    environments_left_out: int
    notes: list[str]
    version: str


def page_html(study: Study, sections: Sequence[Section], drawn: Sequence[Drawn], title: str) -> str:
    """The whole page of a study and its sections."""
    script, failures = own_file("page.js"), _failures(study)
    fought = [contest for contest in contests(study) if len(contest.group.at(contest.gpus)) > 1]
    environments = {environment_key(result): result for result in study.measured}
    places = {key: place for place, key in enumerate([*environments][:MOST_ENVIRONMENTS], 1)}
    page = Page(
        title=printable(title),
        policy=_policy(script),
        css=own_file("page.css"),
        script=script,
        environment=environment_line(study) if study.measured else "",
        cases=len(study.latest),
        functions=function_table(study),
        sides=side_table(study),
        nodes=nodes_table(study),
        node_heads=NODE_HEADS,
        link_heads=LINK_HEADS,
        sessions=study.runs,
        statuses=_statuses(study),
        failures=failures,
        contents=_contents(study, drawn, bool(failures)),
        answer=winner_sentence(fought, study),
        headline=headline(fought, study),
        disturbed=disturbances([result.record for result in study.measured]) or "",
        lead=next((_plot_section(each, study) for each in drawn if each.plot.key == LEADS), None),
        comparisons=_comparisons(fought[:MOST_CONTESTS], study),
        comparisons_left_out=max(len(fought) - MOST_CONTESTS, 0),
        most_open=MOST_OPEN,
        rate_unit=throughput_unit(study.latest),
        devices=_devices(study),
        plots=[_plot_section(plot, study) for plot in drawn if plot.plot.key != LEADS],
        filters=_filters(study),
        table=case_rows(study, sections, places),
        environments=_environments([environments[key] for key in places]),
        environments_left_out=len(environments) - len(places),
        notes=study.notes,
        version=importlib.metadata.version("pytest-dnnbench"),
    )
    return template("page.html").render(page=page)


def _failures(study: Study) -> list[tuple[str, str]]:
    """What failed where it ran last, with its message or, where the file has none, what its verdict
    says. What has passed since is in the history."""
    latest: dict[str, int] = {}
    for number, run in enumerate(study.runs):
        measured = [result.name for result in (*run.results, *run.functions)]
        latest |= dict.fromkeys([*measured, *(name for name, _ in run.failures)], number)
    return [
        (name, message or _regression(run, name))
        for number, run in enumerate(study.runs)
        for name, message in run.failures
        if latest[name] == number
    ]


def _regression(run: Run, name: str) -> str:
    """Which metrics of a failed case regressed, and by how much; empty for another failure."""
    results = (*run.results, *run.functions)
    record = next((each.record for each in results if each.name == name), None)
    if record is None or record.verdict.status != "regressed":
        return ""
    rows = record.verdict.metrics.items()
    regressed = {name: row for name, row in rows if row.status == "regressed"}
    verdict = msgspec.structs.replace(record.verdict, metrics=regressed)
    return "\n".join(judged_lines(msgspec.structs.replace(record, verdict=verdict)))


def _comparisons(shown: Sequence[Contest], study: Study) -> list[WinnerRow]:
    mixed = has_mixed_rates(study.latest)
    return [
        WinnerRow(
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
    them, so they go: an id may stand in a page only once. Its colours become those of the page,
    which has others in the dark."""
    element = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])
    element = _COLOUR.sub(lambda match: f"var(--c{match[0][1:].lower()}, {match[0]})", element)
    return Markup(element)  # noqa: S704 # matplotlib has escaped the texts in it


def _environments(results: Sequence[Result]) -> list[EnvironmentEntry]:
    """The environments. Where there are several, each is titled by the facts in which they differ,
    which are most of what a reader asks of them."""
    facts = [result.record.environment.must_match for result in results]
    names = dict.fromkeys(name for each in facts for name in each)
    differing = [name for name in names if len({each.get(name) for each in facts}) > 1]
    return [EnvironmentEntry(_about(each, differing), sorted(each.items())) for each in facts]


def _about(facts: Mapping[str, object], differing: Sequence[str]) -> str:
    if differing:
        shown = [f"{name.replace('_', ' ')} {_shown(facts.get(name))}" for name in differing]
        more = [f"and {len(shown) - MOST_FACTS} more"] if len(shown) > MOST_FACTS else []
        return ", ".join([*shown[:MOST_FACTS], *more])
    parts = [str(facts[name]) for name in ("gpu", "cpu") if facts.get(name)]
    parts += [f"torch {facts['torch']}"] if facts.get("torch") else []
    return ", ".join(parts) or "nothing recorded"


def _shown(value: object) -> str:
    return "none" if value is None else printable(value, 60)


def _statuses(study: Study) -> list[tuple[str, int]]:
    """How many cases have each status, regressed first; none where nothing was to be compared
    with."""
    counts = Counter(result.status for result in study.measured)
    if counts.keys() <= {"no-baseline"}:
        within = sum(keeps_limits(result.record.verdict) for result in study.measured)
        return [("within limits", within)] if within else []
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
        Filter(label, key, sorted(choices, key=natural)[:MOST_CHOICES])
        for label, key, choices in values
        if len(choices) > 1
    ]


def _contents(study: Study, drawn: Sequence[Drawn], failed: bool) -> list[tuple[str, str]]:
    failures = [("failures", "Failed")] if failed else []
    about = ("about", "About")
    functions = [("functions", "Timed functions")] if study.functions else []
    if any(result.record.against for result in study.measured):
        functions.append(("sides", "Side by side"))
    environments = [("environments", "Environments")]
    if any(run.preflight for run in study.runs):
        environments.insert(0, ("nodes", "Nodes"))
    if not study.latest:
        none = [] if functions else [("summary", "Summary")]
        return [*none, *failures, *functions, *(environments if functions else ()), about]
    plots = [
        (drawing.plot.key, drawing.plot.title) for drawing in drawn if drawing.plot.key != LEADS
    ]
    tables = [("cases", "All cases"), *functions, *environments]
    return [*failures, ("summary", "Who wins"), *plots, *tables, about]


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
