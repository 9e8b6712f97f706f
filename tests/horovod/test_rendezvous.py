"""Horovod's rendezvous server: on loopback only, gone when its `with` ends, and without torch."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from pytest_dnnbench.controller.forkserver import ForkServer
from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous
from pytest_dnnbench.errors import LaunchError
from tests.horovod.test_worker import measure, request
from tests.sockets import LISTENING, addresses_of

LOOPBACK = "0100007F"
LOOPBACK_V6 = ("00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


def test_each_rank_gets_its_place() -> None:
    with horovod_rendezvous(3) as variables:
        assert [rank["HOROVOD_RANK"] for rank in variables] == ["0", "1", "2"]
        assert {rank["HOROVOD_SIZE"] for rank in variables} == {"3"}
        assert [rank["HOROVOD_LOCAL_RANK"] for rank in variables] == ["0", "1", "2"]
        assert {(rank["HOROVOD_CROSS_RANK"], rank["HOROVOD_CROSS_SIZE"]) for rank in variables} == {
            ("0", "1")
        }


def test_the_server_listens_on_loopback_and_ends_with_its_block() -> None:
    threads, before = threading.active_count(), addresses_of(os.getpid())
    with horovod_rendezvous(2) as variables:
        port = f"{int(variables[0]['HOROVOD_GLOO_RENDEZVOUS_PORT']):04X}"
        listening = {
            local for local, _, state in addresses_of(os.getpid()) - before if state == LISTENING
        }
        assert listening == {f"{LOOPBACK}:{port}"}
    assert addresses_of(os.getpid()) == before
    assert threading.active_count() == threads


def test_it_ends_after_an_error_too() -> None:
    threads, before = threading.active_count(), addresses_of(os.getpid())
    with pytest.raises(RuntimeError, match="inside"), horovod_rendezvous(2):
        raise RuntimeError("inside")
    assert addresses_of(os.getpid()) == before
    assert threading.active_count() == threads


def test_two_servers_at_a_time_do_not_meet() -> None:
    with horovod_rendezvous(1) as first, horovod_rendezvous(1) as second:
        assert first[0]["HOROVOD_GLOO_RENDEZVOUS_PORT"] != second[0]["HOROVOD_GLOO_RENDEZVOUS_PORT"]


def test_ranks_talk_over_loopback_only(server: ForkServer) -> None:
    reports = measure(server, request(2, worker="tests.horovod.workers:ShowsItsPorts"))
    for report in reports:
        ports = report.details["ports"]
        assert isinstance(ports, list)
        assert any(state == "01" for _, _, state in ports), "ranks are connected to each other"
        for local, _, _ in ports:
            assert local.split(":")[0] in (LOOPBACK, *LOOPBACK_V6)


def test_torch_is_not_imported_beside_the_ranks() -> None:
    script = (
        "import sys\n"
        "from pytest_dnnbench.controller.horovod_rendezvous import horovod_rendezvous\n"
        "with horovod_rendezvous(2): print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_a_host_whose_name_has_no_address_is_told_before_horovod_crashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """hvd.init died of SIGSEGV."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with (
        pytest.raises(
            LaunchError,
            match=r"'no-such-host', has no address \(Name .* add the line `127.0.0.1 no-such-host`",
        ),
        horovod_rendezvous(2),
    ):
        pass
