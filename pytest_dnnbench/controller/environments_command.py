"""`dnnbench environments`: shows the environments that --dnn-against has made, and removes them."""

import argparse
import re
import time

from pytest_dnnbench.controller.kept_environments import (
    KeptEnvironment,
    environments_folder,
    kept_environments,
    remove,
)
from pytest_dnnbench.counted import counted
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.harmless import one_line, say

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d{1,5})([hdw])")


def main(arguments: list[str]) -> int:
    """Exit status 0. Raises UsageError for names that are not there and environments in use; what
    could be removed has been then."""
    options = _parser().parse_args(arguments)
    environments = kept_environments()
    if options.remove:
        return _remove([_named(text, environments) for text in options.remove])
    if options.unused is not None:
        oldest_s = time.time() - _seconds(options.unused)
        return _remove([each for each in environments if each.used_s < oldest_s])
    _show(environments)
    return 0


def _show(environments: list[KeptEnvironment]) -> None:
    folder = environments_folder()
    if not environments:
        say(f"no environments in {folder}")
        return
    say(f"{'name':18}{'size':>10}  {'last used':18}made for")
    for each in environments:
        used = f"{_age(time.time() - each.used_s)} ago"
        say(f"{each.name:18}{_size(each.size_bytes):>10}  {used:18}{one_line(each.label)}")
    size_bytes = sum(each.size_bytes for each in environments)
    say(f"{counted(len(environments), 'environment')}, {_size(size_bytes)}, in {folder}")


def _remove(chosen: list[KeptEnvironment]) -> int:
    refusals = []
    for each in {each.folder: each for each in chosen}.values():
        try:
            remove(each)
        except UsageError as error:  # the others can go all the same
            refusals.append(str(error))
        else:
            say(f"removed {each.name} ({one_line(each.label)}), {_size(each.size_bytes)}")
    if refusals:
        raise UsageError("; ".join(refusals))
    if not chosen:
        say("nothing to remove")
    return 0


def _named(text: str, environments: list[KeptEnvironment]) -> KeptEnvironment:
    """The only environment that the text names."""
    # The whole name first: it is also the begin of the names of what is left over of its kind.
    matches = [each for each in environments if each.name == text]
    matches = matches or [each for each in environments if each.is_meant_by(text)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UsageError(
            f"--remove {text!r}: there is no such environment; give a name of the list that this"
            " command shows without options, or a whole requirement, as torch==2.9.1"
        )
    names = ", ".join(each.name for each in matches)
    raise UsageError(f"--remove {text!r} names {len(matches)} environments: choose from {names}")


def _seconds(text: str) -> float:
    if match := _AGE.fullmatch(text):
        return float(match[1]) * _UNITS[match[2]]
    raise UsageError(f"--unused {text!r}: write hours, days or weeks, as in 12h, 30d or 4w")


def _age(seconds: float) -> str:
    """As in 3 days."""
    for name, unit in (("weeks", _UNITS["w"]), ("days", _UNITS["d"]), ("hours", _UNITS["h"])):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 60:.0f} minutes"


def _size(count: int) -> str:
    for name, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= scale:
            return f"{count / scale:.1f} {name}"
    return f"{count / 2**10:.0f} KiB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnnbench environments",
        description="Show the environments that --dnn-against has made for requirements, or remove"
        " some of them. They are made again when they are needed.",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--remove",
        action="append",
        metavar="NAME",
        help="remove one, by its name or by its requirement, as in torch==2.9.1; repeatable",
    )
    chosen.add_argument(
        "--unused", metavar="AGE", help="remove those that no session has used for, as in 30d"
    )
    return parser
