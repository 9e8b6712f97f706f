"""`dnnbench init [FOLDER]`: writes the suite's cases into a folder of the user's own repository.

The files come from files/ of this package. An existing file is never overwritten. Not here: what
the cases do (session/bench.py).
"""

import argparse
from importlib.resources import files
from pathlib import Path

from pytest_dnnbench.errors import UsageError

CASES = "test_steps.py"
WORKFLOW = Path(".github", "workflows", "dnnbench.yml")
DEFAULT_FOLDER = "bench_cases"

CONFIGURATION = """\
[tool.pytest.ini_options]
pythonpath = ["."]         # ranks can then import your models from this repository
dnn_models = "resnet18"    # or your own: "my_package.my_module:factory"
"""


def main(arguments: list[str]) -> int:
    """Exit status 0. Files that exist are kept: --ci adds a workflow to cases of before. Raises
    UsageError where all exist, and for a folder that cannot be written to."""
    options = _parser().parse_args(arguments)
    texts = {Path(options.folder, CASES): _file(f"{CASES}.txt")}
    if options.ci:
        texts[WORKFLOW] = _file(WORKFLOW.name).replace(DEFAULT_FOLDER, options.folder)
    existing = [path for path in texts if path.exists()]
    if len(existing) == len(texts):
        raise UsageError(
            f"{' and '.join(map(str, existing))} exists already, and no file is overwritten:"
            " name another folder, or move the file away"
        )
    for path, text in texts.items():
        if path in existing:
            print(f"kept {path}, which exists already")
        else:
            _write(path, text)
            print(f"wrote {path}")
    print(_next_steps(options.folder))
    return 0


def _file(name: str) -> str:
    return files("pytest_dnnbench.init").joinpath("files", name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:  # "x" fails where a file has just appeared
            file.write(text)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): name another folder"
        ) from None


def _next_steps(folder: str) -> str:
    return f"""
To measure models of your own, add to pyproject.toml (if it has a [tool.pytest.ini_options]
already, add the lines to it):

{CONFIGURATION}
Then run:

  pytest {folder} --benchmark-disable         # check every case without timing it
  pytest {folder} --benchmark-save=bench      # measure, and save the session
  pytest {folder} --benchmark-save=bench --dnn-baseline latest

The last command also compares: a case that got slower, or needs more memory, fails."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench init",
        description="Writes benchmark cases to start from. An existing file is never overwritten.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        default=DEFAULT_FOLDER,
        metavar="FOLDER",
        help="folder of the cases, created if it does not exist (default: %(default)s)",
    )
    parser.add_argument(
        "--ci",
        action="store_true",
        help=f"also write {WORKFLOW}, a workflow that compares each pull request with its base",
    )
    return parser
