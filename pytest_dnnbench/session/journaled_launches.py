"""The launches of a session, kept as they are made, and those of the session that it continues."""

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import count, takewhile
from typing import Literal

from pytest_dnnbench.case import Case
from pytest_dnnbench.controller.case_run import CaseRun
from pytest_dnnbench.controller.slurm import PROGRESS_FILE, tell_the_script
from pytest_dnnbench.errors import DataError
from pytest_dnnbench.function_case import FunctionCase
from pytest_dnnbench.results.records.journal_file import Journal, KeptLaunch
from pytest_dnnbench.results.records.measurement import Launch


class KeptLaunches:
    """Keeps the launches of a session, and gives back those of the one that it continues.
    `is_empty`: there is none of either."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.is_empty = not journal.kept
        self.trouble: str | None = None

    def restore(self, name: str, run: CaseRun) -> None:
        """Gives a case the launches that it has in the journal, and with them its plan,
        proof and prediction."""
        self._restore(name, run, [each for each in self.journal.kept if each.item == name])

    def restore_pairs(self, name: str, run: CaseRun, other: CaseRun) -> None:
        """Gives both sides of a case the launches of the rounds that are complete: the partner of a
        single one would be measured too long after it."""
        sides: dict[str, dict[int, KeptLaunch]] = {"A": {}, "B": {}}
        for launch in self.journal.kept:
            if launch.item == name:
                sides[launch.side][launch.round] = launch
        complete = list(takewhile(lambda n: n in sides["A"] and n in sides["B"], count(1)))
        self._restore(name, run, [sides["A"][number] for number in complete])
        self._restore(name, other, [sides["B"][number] for number in complete])

    @staticmethod
    def _restore(name: str, run: CaseRun, launches: Sequence[KeptLaunch]) -> None:
        if not launches:
            return
        case, before = run.request.case, launches[0].measured_case
        if case != before:
            unlike = [
                field.name
                for field in fields(case)
                if getattr(case, field.name) != getattr(before, field.name, None)
            ]
            raise DataError(
                f"--dnn-resume: {name} measured another case when it was interrupted"
                f" ({', '.join(unlike)}): run without --dnn-resume"
            )
        run.request = replace(run.request, plan=launches[0].plan)
        run.correctness = launches[0].correctness
        run.prediction = launches[0].prediction
        run.launches += [Launch(launch.reports, launch.conditions) for launch in launches]

    def keep(
        self, name: str, run: CaseRun, *, side: Literal["A", "B"] = "A", number: int = 0
    ) -> None:
        """Adds the newest launch of a case. A disk that is full ends the journal, not the
        session."""
        if self.trouble:
            return
        assert run.correctness is not None, "a launch comes after the proof"
        launch, request = run.launches[-1], run.request
        newest = KeptLaunch(
            item=name,
            case=request.case if isinstance(request.case, Case) else None,
            function=request.case if isinstance(request.case, FunctionCase) else None,
            plan=request.plan,
            correctness=run.correctness,
            reports=launch.reports,
            conditions=launch.conditions,
            side=side,
            round=number,
            prediction=run.prediction,
        )
        try:
            self.journal.keep(newest)
            self.is_empty = False
            tell_the_script(PROGRESS_FILE, name)
        except OSError as error:
            self.trouble = f"from {name} on nothing could be written to it: {error}"
