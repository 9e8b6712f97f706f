"""`dnnbench horovod`: makes sure that a Horovod is installed that fits the
installed torch."""

import argparse
import time
from pathlib import Path

from pytest_dnnbench.errors import BuildError
from pytest_dnnbench.horovod_build import steps
from pytest_dnnbench.horovod_build.recipe import HOROVOD_VERSION, Recipe, current_recipe
from pytest_dnnbench.horovod_build.requisites import check_compiler
from pytest_dnnbench.horovod_build.steps import BuildLog
from pytest_dnnbench.horovod_build.wheel_store import WheelStore, default_store
from pytest_dnnbench.installed import installed_version


def main(arguments: list[str]) -> int:
    """Returns 0 when Horovod is ready, 1 for `--check` when it is not. Raises UsageError or
    BuildError."""
    options = _parser().parse_args(arguments)
    recipe, present = current_recipe(cpu_only=options.cpu), installed_version("horovod")
    if present == recipe.version and not options.force:
        print(f"Horovod {present} is installed.")
        return 0
    if options.check:
        print(
            f"Horovod is {present or 'not installed'}; {recipe.version} fits:"
            " run `dnnbench horovod`"
        )
        return 1
    if present is not None and not _built_here(present) and not options.force:
        return _keep_foreign(present, default_store())
    _provide(recipe, default_store(), options)
    return 0


def wheel_for(
    recipe: Recipe, store: WheelStore, *, jobs: int, sdist: Path | None = None, again: bool = False
) -> Path:
    """The recipe's wheel: from the store, or built now. `again` builds in any case. Raises
    BuildError."""
    if (stored := store.find(recipe.key)) and not again:
        print(f"found the wheel: {stored}")
        return stored
    with store.turn(
        recipe.key, lambda: print("another process builds this wheel: waiting for it", flush=True)
    ):
        if (stored := store.find(recipe.key)) and not again:  # another process has just built it
            return stored
        check_compiler()
        start = time.monotonic()
        print(
            f"building Horovod {HOROVOD_VERSION} for torch {recipe.torch.version},"
            f" {jobs} compilations at a time;"
        )
        print("this happens once", flush=True)
        with store.scratch(recipe.key) as folder:
            log = BuildLog(folder / "build.log", store.failure_log(recipe.key), _say)
            wheel = steps.build_wheel(recipe, folder, log, jobs=jobs, sdist=sdist)
            stored = store.keep(recipe.key, wheel, log.path, recipe.facts)
    print(f"built in {time.monotonic() - start:.0f} s; kept as {stored}")
    return stored


def _provide(recipe: Recipe, store: WheelStore, options: argparse.Namespace) -> None:
    jobs = options.jobs or steps.default_jobs()
    wheel = wheel_for(recipe, store, jobs=jobs, sdist=options.sdist, again=options.force)
    path = store.folder / f"{recipe.key}.install.log"
    log = BuildLog(path, path, _say)
    steps.install(wheel, log, again=options.force)
    print(f"Horovod {recipe.version} is installed: {steps.check_installed(log)}")


def _keep_foreign(present: str, store: WheelStore) -> int:
    """Keeps a Horovod that was installed by other means if it loads into this torch. Raises
    BuildError if it does not."""
    path = store.folder / "check.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        built_with = steps.check_installed(BuildLog(path, path, lambda _: None))
    except BuildError as error:
        raise BuildError(
            f"the installed Horovod {present} does not load: replace it with --force ({error})"
        ) from error
    print(
        f"Horovod {present}, which was installed by other means, loads and stays ({built_with});"
        " --force replaces it."
    )
    return 0


def _built_here(version: str) -> bool:
    return version.startswith(f"{HOROVOD_VERSION}+torch")


def _say(line: str) -> None:
    print(line, flush=True)


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"no file {path!r}")
    return Path(path).resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench horovod",
        description=(
            "Build Horovod against the installed torch, once, and install it; with NCCL if torch"
            " has CUDA."
        ),
    )
    parser.add_argument(
        "--cpu", action="store_true", help="without GPU operations, even for a torch with CUDA"
    )
    parser.add_argument(
        "--jobs", type=int, help="compilations at a time (default: by cores and free memory)"
    )
    parser.add_argument(
        "--sdist",
        type=_existing,
        help="the source archive, for a machine that cannot reach a package index",
    )
    parser.add_argument(
        "--check", action="store_true", help="only report whether the right Horovod is installed"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="build and install again, even if the right one is installed",
    )
    return parser
