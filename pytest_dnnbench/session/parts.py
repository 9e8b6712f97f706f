"""The parts of a session: one plugin of pytest for each thing that it does. Imported when a session
starts, and not by `pytest --help`."""

import pytest

from pytest_dnnbench.session.baseline import SessionBaseline
from pytest_dnnbench.session.completeness import Completion
from pytest_dnnbench.session.github import GitHub
from pytest_dnnbench.session.interrupts import Interrupts
from pytest_dnnbench.session.journal import Journaling
from pytest_dnnbench.session.launch_planning import LaunchPlanning
from pytest_dnnbench.session.machine_fingerprint import MachineFingerprint
from pytest_dnnbench.session.option_effects import OptionEffects
from pytest_dnnbench.session.preflight import Preflight
from pytest_dnnbench.session.progress import ProgressDisplay
from pytest_dnnbench.session.replay_clock import ReplayClocks
from pytest_dnnbench.session.report import SessionReport
from pytest_dnnbench.session.reruns import Reruns
from pytest_dnnbench.session.rounds import Rounds
from pytest_dnnbench.session.saving import Saving
from pytest_dnnbench.session.server import ServerLife
from pytest_dnnbench.session.side_by_side import SideBySide
from pytest_dnnbench.session.state import is_xdist_worker
from pytest_dnnbench.session.summary import Summary
from pytest_dnnbench.session.traces import Traces
from pytest_dnnbench.session.verdicts import Verdicts
from pytest_dnnbench.session.xdist import Xdist


def parts_of(config: pytest.Config) -> list[object]:
    """The parts, in the order in which pytest registers them."""
    everywhere = [
        OptionEffects(config),
        Completion(),
        ReplayClocks(),
        ServerLife(config),
        SideBySide(config),
        Rounds(),
        Reruns(config),
        Preflight(config),
        ProgressDisplay(config),
        Xdist(config),
        Journaling(config),
        SessionBaseline(config),
        LaunchPlanning(config),
        Traces(config),
        Verdicts(config),
        SessionReport(config),
        GitHub(config),
        MachineFingerprint(config),
        Summary(config),
    ]
    if is_xdist_worker(config):
        return everywhere
    return [*everywhere, Interrupts(config), Saving(config)]
