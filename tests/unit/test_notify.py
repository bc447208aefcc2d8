"""What systemd hears: real datagrams on a real NOTIFY_SOCKET."""

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.daemon.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        yield listening


@pytest.fixture
def notifier(manager: socket.socket) -> Notifier:
    return Notifier.of({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}, 42)


def test_ready_comes_with_a_status(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("3 models")

    assert manager.recv(4096) == b"READY=1\nSTATUS=3 models"


def test_a_reload_carries_the_monotonic_time_in_microseconds(manager: socket.socket, notifier: Notifier) -> None:
    notifier.reloading(1_234_567_890)

    assert manager.recv(4096) == b"RELOADING=1\nMONOTONIC_USEC=1234567"


def test_a_status_stays_one_line_whatever_a_name_holds(manager: socket.socket, notifier: Notifier) -> None:
    notifier.status("pulling x\nWATCHDOG=trigger")

    assert manager.recv(4096) == b"STATUS=pulling x WATCHDOG=trigger"


def test_stopping_and_pings_are_said(manager: socket.socket, notifier: Notifier) -> None:
    notifier.alive()
    notifier.stopping()

    assert manager.recv(4096) == b"WATCHDOG=1"
    assert manager.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


def test_the_abstract_namespace_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0syncd-test-notify")
        listening.settimeout(30)

        Notifier.of({"NOTIFY_SOCKET": "@syncd-test-notify"}, 1).alive()

        assert listening.recv(64) == b"WATCHDOG=1"


def test_the_watchdogs_time_is_for_the_process_that_it_names() -> None:
    environ = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}

    assert Notifier.of(environ, 42).watchdog == 3.0
    assert Notifier.of(environ, 43).watchdog is None
    assert Notifier.of({"WATCHDOG_USEC": "nonsense"}, 1).watchdog is None


def test_without_a_manager_nothing_is_sent_and_nothing_fails(tmp_path: Path) -> None:
    Notifier.of({}, 1).ready("x")
    Notifier.of({"NOTIFY_SOCKET": str(tmp_path / "gone")}, 1).ready("x")


def test_a_manager_that_has_no_room_is_told_of(notifier: Notifier) -> None:
    heard = [notifier.ready("x") for _ in range(2000)]

    assert heard[0]
    assert not heard[-1]


def test_no_descriptor_left_is_no_failure(notifier: Notifier) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        notifier.alive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
