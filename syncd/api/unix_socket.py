"""A listening unix socket that is at no moment open to more users than it is meant for.

Linux: a socket's file gets the mode of the socket's own inode (``unix_bind``), so that ``fchmod`` before ``bind``
closes the moment in which the umask alone would decide, without touching the umask of all threads.
"""

import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from syncd.errors import BusyError, ConfigurationError, NotAuthorisedError, StoreError, SyncdError

GROUP = "syncd"
"""The group of folder and socket where the settings name none, and where there is such a group."""

_BACKLOG = 128
_FOLDER_MODE = 0o750
_SOCKET_MODE = 0o660
_PROBE_SECONDS = 1.0


class UnixListener:
    """``socket``: listening. ``close`` takes its file away, unless somebody else has put one of his own there."""

    def __init__(self, listening: socket.socket, path: Path) -> None:
        self.socket = listening
        self.path = path
        found = path.lstat()
        self._identity = (found.st_dev, found.st_ino)

    def close(self) -> None:
        """Close, and unlink."""
        self.socket.close()
        with suppress(OSError):  # whoever listens next takes away what is left: nobody answers there
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()


def listen(path: Path, group: str | None) -> UnixListener:
    """Listen at ``path``, for the members of ``group``. Blocks for a moment.

    Raise ``BusyError`` if somebody answers there already; ``ConfigurationError`` for a place or a group that cannot be
    used; ``NotAuthorisedError``.
    """
    gid = _gid(group)
    try:
        with _folder(path.parent, gid):
            _remove_stale(path)
            return _bind(path, gid, required=group is not None)
    except OSError as error:
        raise _translated(path, error) from error


def _gid(group: str | None) -> int | None:
    try:
        return grp.getgrnam(group or GROUP).gr_gid
    except KeyError:
        if group is None:
            return None
        raise ConfigurationError(
            f"control.group: there is no group {group!r}",
            hint=f"make it ('groupadd --system {group}'), or name another",
        ) from None


@contextmanager
def _folder(path: Path, gid: int | None) -> Iterator[None]:
    """The folder, made with its mode if need be, locked against another daemon that is at the same place."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        _give(path, gid, _FOLDER_MODE, required=False)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid not in {0, os.geteuid()}:
            raise ConfigurationError(
                f"{path} belongs to user {found.st_uid}, who could replace a socket there",
                hint="set control.socket to a path in a folder of the daemon's own",
            )
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise ConfigurationError(
                f"anybody may replace a socket in {path}", hint="set control.socket to a path in another folder"
            )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another process is making a socket in {path}", hint="try again") from error
        yield
    finally:
        os.close(fd)


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError(f"{path} is there, and is no socket", hint="remove it, or set control.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # whoever listened there is gone
            return
        except FileNotFoundError:
            return
        except (BlockingIOError, TimeoutError):
            pass  # somebody listens who is too busy to accept
    raise BusyError(
        f"another process answers on {path}", hint="another syncd runs: 'syncd status' asks it; or set control.socket"
    )


def _bind(path: Path, gid: int | None, *, required: bool) -> UnixListener:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(os.fspath(path))
        _give(path, gid, _SOCKET_MODE, required=required)
        listening.listen(_BACKLOG)
        return UnixListener(listening, path)
    except BaseException:
        listening.close()
        raise


def _give(path: Path, gid: int | None, mode: int, *, required: bool) -> None:
    """First the group, then the mode: the other way round another group would be let in for a moment."""
    if gid is not None:
        try:
            os.chown(path, -1, gid, follow_symlinks=False)
        except PermissionError as error:
            if required:
                raise ConfigurationError(
                    f"{path} cannot be given to the group of control.group",
                    hint="the daemon's user has to be a member of that group",
                ) from error
    path.chmod(mode)


def _translated(path: Path, error: OSError) -> SyncdError:
    if error.errno is None or error.errno == errno.ENAMETOOLONG:  # "AF_UNIX path too long" comes without a number
        return ConfigurationError(f"{path}: {error}", hint="set control.socket to a shorter path")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return NotAuthorisedError(
            f"{path}: {error.strerror}", hint="set control.socket to a path where this user may write"
        )
    return StoreError(f"{path}: {error.strerror}")
