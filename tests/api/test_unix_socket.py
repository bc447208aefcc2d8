"""The control socket's file: never open to more users than it is meant for, and never taken from another daemon."""

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from syncd.api import unix_socket
from syncd.errors import BusyError, ConfigurationError
from tests.api.world import daemon, over_unix
from tests.pull.world import as_root


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_folder_and_socket_are_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "run" / "syncd" / "s"
    listener = unix_socket.listen(path, None)
    assert (mode(path.parent), mode(path)) == (0o750, 0o660)
    listener.close()
    assert not path.exists()


def test_it_is_closed_to_others_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    seen: list[int] = []
    really = unix_socket._give
    monkeypatch.setattr(unix_socket, "_give", lambda *a, **k: (seen.append(mode(path)), really(*a, **k)))
    before = os.umask(0)
    try:
        unix_socket.listen(path, None).close()
    finally:
        os.umask(before)
    assert seen == [0o600]


@as_root
def test_it_is_given_to_the_group_of_the_settings(tmp_path: Path) -> None:
    group = next(one for one in grp.getgrall() if one.gr_gid != os.getegid())
    path = tmp_path / "run" / "s"
    listener = unix_socket.listen(path, group.gr_name)
    assert path.stat().st_gid == path.parent.stat().st_gid == group.gr_gid
    listener.close()


def test_a_group_that_is_not_there_is_a_fault_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no group 'no-such-group'"):
        unix_socket.listen(tmp_path / "s", "no-such-group")


def test_what_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    unix_socket.listen(path, None).close()


def test_one_that_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = unix_socket.listen(path, None)
    with pytest.raises(BusyError, match="another process answers"):
        unix_socket.listen(path, None)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="is no socket"):
        unix_socket.listen(path, None)
    assert path.read_text() == "precious"


def test_a_socket_of_somebody_else_survives_our_closing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = unix_socket.listen(path, None)
    path.unlink()
    second = unix_socket.listen(path, None)
    first.close()
    assert path.exists()
    second.close()


def test_a_folder_where_anybody_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="anybody may replace"):
        unix_socket.listen(tmp_path / "s", None)


def test_a_path_that_is_too_long_is_a_fault_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long"):
        unix_socket.listen(tmp_path / ("s" * 200), None)


async def test_a_second_daemon_at_the_same_socket_is_refused(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world:
        with pytest.raises(BusyError):
            async with daemon(tmp_path):
                pass
        async with over_unix(world) as client, client.head("/") as response:
            assert response.status == 200
