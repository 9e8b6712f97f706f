"""The documentation names nothing that does not exist: links, paths, options, commands, hooks."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_dnnbench
from pytest_dnnbench import hookspecs
from pytest_dnnbench.__main__ import COMMANDS
from pytest_dnnbench.metrics import METRICS

ROOT = Path(pytest_dnnbench.__file__).parents[1]
PACKAGE = ROOT / "pytest_dnnbench"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
    ]
)
# Shown as examples of what a plugin of the reader's own adds.
EXAMPLES = {"--dnn-mine-bucket-mb", "--dnn-NAME", "--dnn-horovod-", "--dnn-"}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture(scope="session")
def options(request: pytest.FixtureRequest) -> set[str]:
    """Every option that pytest knows with this plugin."""
    parser = request.config._parser
    groups = [parser._anonymous, *parser._groups]
    return {flag for group in groups for option in group.options for flag in option.names()}


@pages
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


@pages
def test_paths_exist(page: Path) -> None:
    base = PACKAGE if page.name == "code.md" else ROOT
    for path in sorted(set(paths(page))):
        assert (base / path).exists() or (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_modules_to_know_are_in_their_part() -> None:
    """Rows of the tree: | `part/` | what it does | `module.py`, ... |."""
    tree = (ROOT / "docs" / "code.md").read_text()
    rows = re.findall(r"^\| `([\w/]+/)` \| [^|]+ \| (.+) \|$", tree, flags=re.MULTILINE)
    assert len(rows) > 10, "or this test sees nothing"
    named = [
        PACKAGE / part / name for part, names in rows for name in re.findall(r"`(\S+)`", names)
    ]
    assert [str(path.relative_to(PACKAGE)) for path in named if not path.exists()] == []


@pages
def test_options_exist(page: Path, options: set[str]) -> None:
    named = set(re.findall(r"(?<![\w-])--(?:dnn-[A-Za-z-]*|gpus)", page.read_text()))
    assert named - options - EXAMPLES == set()


@pages
def test_commands_exist(page: Path) -> None:
    code = "\n".join(code_in(page))
    named = set(re.findall(r"(?:^|[\s$/])dnnbench ([a-z]+)", code, flags=re.MULTILINE))
    assert named <= set(COMMANDS)


@pages
def test_benchmark_programs_exist(page: Path) -> None:
    for name in re.findall(r"-m benchmarks\.([a-z_]+)", page.read_text()):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), f"{page.name} names {name}"


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        name for text in code_in(page) for name in re.findall(r"^\s*make ([a-z-]+)", text, re.M)
    }
    assert named <= targets


@pages
def test_public_names_and_hooks_exist(page: Path) -> None:
    text = page.read_text()
    for line in re.findall(r"from pytest_dnnbench import (.+?)(?:\s{2,}#.*)?$", text, re.MULTILINE):
        assert {name.strip() for name in line.split(",")} <= set(pytest_dnnbench.__all__)
    hooks = {name for name in vars(hookspecs) if name.startswith("pytest_dnnbench_")}
    assert set(re.findall(r"\bpytest_dnnbench_[a-z]+\b", text)) <= hooks


@pages
def test_limits_name_metrics_that_exist(page: Path) -> None:
    limits = re.findall(
        r'(?<![\w.])([a-z_]{5,})(?:=[-+]\d|[<>]=\d|=off|="[-+<>])', page.read_text()
    )
    assert set(limits) - {"cache_misses"} <= set(METRICS), "of which one is an example"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    listed = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    assert set(PAGES) - {ROOT / "docs" / "README.md"} <= listed


def test_the_readme_has_no_relative_links() -> None:
    """A package index shows it without the files beside it."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(ROOT / "README.md"))
    assert targets == []


def test_every_option_of_ours_is_documented(options: set[str]) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    ours = {option for option in options if option.startswith("--dnn-")}
    assert ours - set(re.findall(r"--dnn-[a-z-]+", text)) == set()


def test_every_command_has_its_line_in_the_reference() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text()
    assert all(f"`dnnbench {name}" in reference for name in COMMANDS)


def test_the_workflow_shown_is_the_one_that_is_written() -> None:
    workflow = (PACKAGE / "init" / "files" / "dnnbench.yml").read_text()
    assert f"```yaml\n{workflow}```" in (ROOT / "docs" / "ci.md").read_text()


def test_the_metadata_names_files_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all((ROOT / name).exists() for name in (project["readme"], *project["license-files"]))


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def code_in(page: Path) -> Iterator[str]:
    """The code of a page: blocks between fences, indented lines, and spans."""
    text = page.read_text()
    yield from re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"^    .*$", text, flags=re.MULTILINE)
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))


def paths(page: Path) -> Iterator[str]:
    """The paths of this repository that a page names in spans of code."""
    shape = r"(pytest_dnnbench|tests|benchmarks|docs|examples)/\w.*"
    if page.name == "code.md":
        shape += r"|\w[\w/]*(/|/\w+\.py)"
    spans = re.findall(r"(?<!`)`([^`\s]+)`(?!`)", prose(page))
    yield from (span for span in spans if re.fullmatch(shape, span))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repositories make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
