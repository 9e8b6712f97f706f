"""The versions of a package: which lie between two, and an environment for each."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence

from pytest_dnnbench.bisection.comparing import Arguments, CannotMeasure
from pytest_dnnbench.bisection.kept_search import VersionsOf
from pytest_dnnbench.controller.made_environment import made_environment
from pytest_dnnbench.errors import UsageError
from pytest_dnnbench.starting import started

_LISTED = re.compile(r"^Available versions: (.+)$", re.MULTILINE)


def released_versions(package: str, *, pre: bool = False) -> list[str]:
    """What pip's index has of a package for this interpreter, oldest first; with `pre` also
    pre-releases. Raises UsageError where pip cannot say."""
    command = [sys.executable, "-m", "pip", "index", "versions", "--disable-pip-version-check"]
    asked = [*command, *(["--pre"] if pre else []), "--", package]
    answer = started(lambda: subprocess.run(asked, capture_output=True, text=True, check=False))
    listed = _LISTED.search(answer.stdout)
    if listed is None:
        why = (answer.stderr.strip() or answer.stdout.strip() or "it said nothing").rpartition(
            "\n"
        )[2]
        raise UsageError(
            f"pip cannot list the versions of {package}: {why}: give them with --versions, oldest"
            " first"
        )
    return [version.strip() for version in reversed(listed[1].split(","))]


def versions_between(versions: Sequence[str], good: str, bad: str) -> list[str]:
    """From good to bad, both included, in the order of the list or against it. An empty name is
    that end of the list. Raises UsageError for one that is not in it."""
    if not versions:
        raise UsageError("--versions names none: give them from good to bad, as in 1.0,1.1,1.2")
    if doubled := next((each for each in versions if versions.count(each) > 1), None):
        raise UsageError(f"--versions has {doubled} twice")
    good, bad = good or versions[0], bad or versions[-1]
    for flag, version in (("--good", good), ("--bad", bad)):
        if version not in versions:
            raise UsageError(f"{flag} {version} is not among {', '.join(versions)}")
    first, last = versions.index(good), versions.index(bad)
    if first == last:
        raise UsageError(f"--good and --bad are the same version, {good}")
    return [*versions[first : last + 1]] if first < last else [*versions[last : first + 1]][::-1]


class Environments:
    """The versions of a search as sides of a comparison, each in an environment that is made for it
    and kept."""

    noun = "version"

    def __init__(self, of: VersionsOf, announce: Callable[[str], None]) -> None:
        self._package = of.package
        self._announce = announce

    def label(self, version: str) -> str:
        """The version."""
        return version

    def title(self, version: str) -> str:
        """Package and version."""
        return f"{self._package} {version}"

    def arguments(self, earlier: str, later: str) -> Arguments:
        """pytest's, which runs in the earlier version's environment, beside the later one's."""
        a, b = (self._python(version) for version in (earlier, later))
        return Arguments(a, ("--dnn-against", f"{self._package}-{later}={b}"))

    def close(self) -> None:
        """Nothing: the environments are kept, as those of --dnn-against are."""

    def _python(self, version: str) -> str:
        try:
            return made_environment([f"{self._package}=={version}"], self._announce)
        except UsageError as error:
            raise CannotMeasure(version, str(error).removeprefix("--dnn-against: ")) from None
