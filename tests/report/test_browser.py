"""The page in a real browser: it renders, sorts, filters and fits a phone, and the console stays
silent.

Runs where a Chromium is installed; everything else about the page is tested without one.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_dnnbench.report.runs import run_in_memory, run_of
from pytest_dnnbench.report.study import Study
from pytest_dnnbench.report.write import write_report
from tests.report import chromium
from tests.report.records import benchmark, session

DESKTOP, PHONE = 1280, 390
SHOWN = "[...document.querySelectorAll('#table > tbody')].filter(body => !body.hidden)"


@pytest.fixture(scope="module")
def tab() -> Iterator[chromium.Page]:
    path = chromium.find()
    if path is None:
        pytest.skip(
            f"needs a Chromium on the path ({', '.join(chromium.NAMES)}):"
            " Debian's package is `chromium`"
        )
    with chromium.browser(path) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sessions with a regression, a failure and a name as long as a record can have."""
    content = session(("resnet50", "efficientnet_b0"), day=2, slower="ddp")
    content["benchmarks"].append(benchmark("<b>&" * 60, "package.module:" + "factory_" * 60, 2))
    failures = (("test_a", "RankHung: " + "did_not_report" * 60),)
    newer = replace(run_of(content, "2.json"), failures=failures)
    runs = [run_of(session(day=1), "1.json"), newer]
    return write_report(Study(runs), tmp_path_factory.mktemp("report"))


@pytest.fixture
def opened(tab: chromium.Page, report: Path) -> Iterator[chromium.Page]:
    """The page in a wide window; whatever a test does, the console must stay silent and nothing be
    asked for."""
    tab.complaints.clear()
    tab.requests.clear()
    tab.open(report, DESKTOP)
    yield tab
    assert tab.complaints == []
    assert set(tab.requests) == {report.resolve().as_uri()}


def column(page: chromium.Page, name: str) -> list[Any]:
    """What the shown rows hold in one column, from top to bottom."""
    heads = "[...document.querySelectorAll('#table > thead th')]"
    place = f"{heads}.findIndex(head => head.dataset.column === '{name}')"
    cells: list[Any] = page.evaluate(
        f"{SHOWN}.map(body => body.rows[0].cells[{place}].dataset.sort)"
    )
    return cells


def click(page: chromium.Page, selector: str) -> None:
    page.evaluate(f"document.querySelector({selector!r}).click()")


def choose(page: chromium.Page, selector: str, value: str, event: str = "change") -> None:
    page.evaluate(
        f"(field => {{ field.value = {value!r}; field.dispatchEvent(new Event({event!r})) }})"
        f"(document.querySelector({selector!r}))"
    )


def test_everything_is_there_and_visible(opened: chromium.Page) -> None:
    assert opened.evaluate("document.title") == "Benchmark report"
    sizes = opened.evaluate(
        "[...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect().width)"
    )
    assert len(sizes) >= 20
    assert min(sizes) > 250
    assert len(column(opened, "model")) == 29
    assert opened.evaluate("document.getElementById('count').value") == "29 of 29"
    assert opened.evaluate("document.querySelectorAll('script').length") == 1
    assert opened.evaluate("document.querySelectorAll('b:not(#summary b)').length") == 0


def test_a_click_on_a_head_sorts_and_the_next_turns_round(opened: chromium.Page) -> None:
    click(opened, "th[data-column=throughput] button")
    first = [float(value) for value in column(opened, "throughput")]
    assert first == sorted(first, reverse=True)
    assert (
        opened.evaluate("document.querySelector('[aria-sort]').getAttribute('aria-sort')")
        == "descending"
    )
    click(opened, "th[data-column=throughput] button")
    assert [float(value) for value in column(opened, "throughput")] == first[::-1]
    click(opened, "th[data-column=framework] button")
    names = column(opened, "framework")
    assert [name for name in names if name.isalpha()] == sorted(
        name for name in names if name.isalpha()
    )


def test_search_and_choices_filter_together(opened: chromium.Page) -> None:
    choose(opened, "#search", "resnet50 horovod", "input")
    assert set(column(opened, "model")) == {"resnet50"}
    assert set(column(opened, "framework")) == {"horovod"}
    choose(opened, "select[data-column=phase]", "train")
    assert column(opened, "gpus") == ["1", "2", "4"]
    assert opened.evaluate("document.getElementById('count').value") == "3 of 29"
    choose(opened, "select[data-column=framework]", "ddp")
    assert column(opened, "gpus") == []
    assert opened.evaluate("document.getElementById('none').checkVisibility()")
    choose(opened, "#search", "", "input")
    choose(opened, "select[data-column=framework]", "")
    choose(opened, "select[data-column=phase]", "")
    choose(opened, "select[data-column=verdict]", "regressed")
    assert set(column(opened, "framework")) == {"ddp"}
    assert len(column(opened, "framework")) == 12


def test_a_case_opens_its_details(opened: chromium.Page) -> None:
    visible = "document.querySelector('#table .more').checkVisibility()"
    assert opened.evaluate(visible) is False
    click(opened, ".toggle")
    assert opened.evaluate(visible) is True
    assert (
        opened.evaluate("document.querySelector('.toggle').getAttribute('aria-expanded')") == "true"
    )
    assert "pytest " in opened.evaluate("document.querySelector('#table .command').textContent")
    click(opened, ".more a[href^='#env-']")
    assert opened.evaluate("document.querySelector(location.hash).open") is True


@pytest.mark.parametrize("width", [320, PHONE, 700, DESKTOP])
def test_nothing_makes_the_page_scroll_sideways(
    opened: chromium.Page, report: Path, width: int
) -> None:
    opened.open(report, width)
    opened.evaluate("document.querySelectorAll('.toggle').forEach(toggle => toggle.click())")
    opened.evaluate(
        "document.querySelectorAll('details').forEach(details => { details.open = true })"
    )
    assert opened.evaluate("innerWidth") == width
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_a_phone_shows_cards_that_can_be_sorted(opened: chromium.Page, report: Path) -> None:
    opened.open(report, PHONE)
    assert opened.evaluate("document.querySelector('#table thead').checkVisibility()") is False
    assert (
        opened.evaluate(
            "document.getElementById('sort').checkVisibility({visibilityProperty: true})"
        )
        is True
    )
    choose(opened, "#sort", "gpus")
    counts = [int(count) for count in column(opened, "gpus")]
    assert counts == sorted(counts, reverse=True)
    texts = "[...document.querySelectorAll('main p, main td, main li')]"
    visible = f"{texts}.filter(element => element.checkVisibility())"
    sizes = f"{visible}.map(element => parseFloat(getComputedStyle(element).fontSize))"
    assert opened.evaluate(f"Math.min(...{sizes})") >= 13


@pytest.mark.parametrize("failures", [[], [("test_a", "it broke")]])
def test_an_empty_report_renders_too(
    tab: chromium.Page, tmp_path: Path, failures: list[tuple[str, str]]
) -> None:
    tab.complaints.clear()
    run = run_in_memory({}, failures=failures)
    tab.open(write_report(Study([run]), tmp_path), PHONE)
    assert tab.evaluate("document.querySelector('h2').textContent") == "Nothing was measured"
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert tab.complaints == []


def test_the_browser_reports_what_the_policy_forbids(
    tab: chromium.Page, report: Path, tmp_path: Path
) -> None:
    """The checks above could fail: a script that was smuggled in is stopped, and heard of."""
    smuggled = tmp_path / "index.html"
    smuggled.write_text(
        report.read_text().replace("</main>", "<script>document.title = 'owned'</script></main>")
    )
    tab.complaints.clear()
    tab.open(smuggled, DESKTOP)
    assert tab.evaluate("document.title") == "Benchmark report"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)
    tab.complaints.clear()
