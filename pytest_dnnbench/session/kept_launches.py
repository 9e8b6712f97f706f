"""The launches of a session, kept as they are made, and those of the session that it continues."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from pytest_dnnbench.errors import DataError
from pytest_dnnbench.session.journal_head import plain

if TYPE_CHECKING:
    from pytest_dnnbench.controller.case_run import CaseRun
    from pytest_dnnbench.results.records.journal_file import Journal


class KeptLaunches:
    """Keeps the launches of a session, and gives back those of the one that it continues."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.trouble: str | None = None

    def restore(self, name: str, run: CaseRun) -> None:
        """Gives a case the launches that it has in the journal, and with them its plan and
        proof."""
        from pytest_dnnbench.results.records.measurement import Launch

        kept = [launch for launch in self.journal.kept if launch.item == name]
        if not kept:
            return
        asked = plain(asdict(run.request.case))
        if kept[0].case != asked:
            unlike = [name for name in asked if asked[name] != kept[0].case.get(name)]
            raise DataError(
                f"--dnn-resume: {name} measured another case when it was interrupted"
                f" ({', '.join(unlike)}): run without --dnn-resume"
            )
        run.request = replace(run.request, plan=kept[0].plan)
        run.correctness = kept[0].correctness
        run.launches += [Launch(launch.reports, launch.conditions) for launch in kept]

    def keep(self, name: str, run: CaseRun) -> None:
        """Adds the newest launch of a case. A disk that is full ends the journal, not the
        session."""
        if self.trouble:
            return
        from pytest_dnnbench.results.records.journal_file import Kept

        launch = run.launches[-1]
        case = asdict(run.request.case)
        try:
            self.journal.keep(
                Kept(
                    name, case, run.request.plan, run.correctness, launch.reports, launch.conditions
                )
            )
        except OSError as error:
            self.trouble = f"from {name} on nothing could be written to it: {error}"
