"""Histories with their changes as people read them: in which sessions how many cases changed, each
change, then in a line per kind what has none. The histories are made in history.py."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pytest_dnnbench.counted import counted, verb
from pytest_dnnbench.metrics import THROUGHPUT, metric_row
from pytest_dnnbench.report.figures import amount, change
from pytest_dnnbench.report.history import Change, History
from pytest_dnnbench.report.runs import Run
from pytest_dnnbench.results.statistics.change_points import RATE, fewest_sessions

_MOST_FACTS = 6
_MOST_NAMES = 3


def history_lines(runs: Sequence[Run], shown: Sequence[History], rate: float = RATE) -> list[str]:
    """The sessions in which cases changed; each history with a change, the latest change last; the
    others, a line for those of equal counts; and how to join environments."""
    changed = [each for each in shown if each.changes]
    lines = [
        f"{counted(len(runs), 'session')}, {_histories(shown)}:"
        f" {len(changed)} with changes (where nothing changed, chance"
        f" names one in {rate:.0%} of them)"
    ]
    if len(changed) > 1:
        lines += ["", *_session_lines(runs, changed)]
    for each in changed:
        first, last = each.values[0], each.values[-1]
        lines += [
            "",
            f"{each.name}: {metric_row(each.metric).title}, {_counts(each)}",
            f"  {amount(first, each.unit)} in the first, {amount(last, each.unit)} in the last",
        ]
        for point in each.changes:
            lines += _change_lines(runs, point)
    quiet = [each for each in shown if not each.changes]
    least = fewest_sessions(rate)
    enough = [each for each in quiet if len(each.results) >= least]
    too_few = [each for each in quiet if len(each.results) < least]
    for head, some in (("no change:", enough), (_too_few(least), too_few)):
        lines += ["", head, *_quiet_lines(some)] if some else []
    return [*lines, *_joining(shown), *_bisecting(runs, changed)]


def _histories(shown: Sequence[History]) -> str:
    """How many cases, and how many histories where these are more."""
    cases = counted(len({(each.name, each.metric) for each in shown}), "history")
    earlier = sum(bool(each.elsewhere) for each in shown)
    return f"{cases} and {earlier} in earlier environments" if earlier else cases


def _session_lines(runs: Sequence[Run], changed: Sequence[History]) -> list[str]:
    """Each session from which on cases were slower, or faster: how many, by how much, and which.
    Cases that changed by the same cause stand together here, or in the next session."""
    groups: dict[tuple[int, bool, str], list[tuple[History, Change]]] = defaultdict(list)
    for each in changed:
        for point in each.changes:
            groups[point.after.run, point.worse, each.metric].append((each, point))
    lines = []
    for (number, worse, metric), members in sorted(groups.items()):
        sizes = sorted(point.point.change for _, point in members)
        span = " to ".join(dict.fromkeys((change(sizes[0]), change(sizes[-1]))))
        lines.append(
            f"from {_session(runs[number])} on: {metric_row(metric).title}"
            f" {'worse' if worse else 'better'} in {counted(len(members), 'case')}, {span}:"
            f" {_names([each.name for each, _ in members])}"
        )
    return lines


def _too_few(least: int) -> str:
    return f"not known, for a change shows in {least} sessions at the earliest:"


def _quiet_lines(quiet: Iterable[History]) -> list[str]:
    """A line for the cases with as many sessions."""
    alike: dict[str, list[str]] = defaultdict(list)
    for each in quiet:
        metric = "" if each.metric == THROUGHPUT else f" {metric_row(each.metric).title}"
        alike[_counts(each)].append(each.name + metric)
    return [f"  {_names(names)}: {counts}" for counts, names in alike.items()]


def _names(names: Sequence[str]) -> str:
    """The first of them, and how many more."""
    more = len(names) - _MOST_NAMES
    if more <= 1:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMES])} and {more} more"


def _joining(shown: Sequence[History]) -> list[str]:
    """How the sessions of several environments make one history."""
    facts = sorted({text.partition(":")[0] for each in shown for text in each.elsewhere})
    if not facts:
        return []
    return [
        "",
        f"{', '.join(facts)} {verb(len(facts), 'differs', 'differ')} between sessions: each"
        f" environment has a history of its own; `--across {','.join(facts)}` makes one of them",
    ]


def _bisecting(runs: Sequence[Run], changed: Sequence[History]) -> list[str]:
    """How to search the commit of the latest change for the worse, where commits are on record."""
    worse = [point for each in changed for point in each.changes if point.worse]
    if not worse:
        return []
    latest = max(worse, key=lambda point: point.after.run)
    good, bad = runs[latest.before.run].commit, runs[latest.after.run].commit
    if not good or not bad or good == bad:
        return []
    return [
        "",
        f"`dnnbench bisect --good {good} --bad {bad} -- ARGUMENTS` measures the commits of the"
        f" change in {_session(runs[latest.after.run])}; ARGUMENTS are pytest's",
    ]


def _counts(each: History) -> str:
    elsewhere = _facts(each.elsewhere)
    left_out = [
        f"{each.disturbed} left out as disturbed" if each.disturbed else "",
        f"{each.unlike} of another environment" if each.unlike else "",
        f"before {elsewhere}" if elsewhere else "",
    ]
    return ", ".join(filter(None, (f"{counted(len(each.results), 'session')}", *left_out)))


def _change_lines(runs: Sequence[Run], changed: Change) -> list[str]:
    point, run = changed.point, runs[changed.after.run]
    low, high = map(change, point.interval)
    direction = "worse" if changed.worse else "better"
    lines = [
        f"  from {_session(run)} on: {change(point.change)} ({low} to {high}), {direction};"
        f" {point.chance:.1%} by chance"
    ]
    earlier = runs[changed.before.run]
    if run.commit and earlier.commit and run.commit != earlier.commit:
        lines.append(f"    commits: {earlier.commit}..{run.commit}")
    if changed.elsewhere:
        lines.append(f"    since then other: {_facts(changed.elsewhere)}")
    if changed.machine is not None:
        lines.append(f"    the machine's yardstick: {change(changed.machine)} of its speed")
    return lines


def _facts(facts: Sequence[str]) -> str:
    more = len(facts) - _MOST_FACTS
    return "; ".join(facts[:_MOST_FACTS]) + (f"; {more} more" if more > 0 else "")


def _session(run: Run) -> str:
    return f"{run.source} ({run.saved[:10]})" if run.saved else run.source
