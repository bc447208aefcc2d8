"""The pins file of a command: written whole or not at all, by the user who called the command.

Root becomes the store's owner when the store is opened, and could not write into ``/etc`` any more: a child that was
made before stays root and writes for it.
"""

import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Protocol

from syncd.errors import NotAuthorisedError, SyncdError
from syncd.jobs import pins as files
from syncd.jobs.pins import Pins
from syncd.store.files import Folder
from syncd.store.owner import decide, owner_of_store

_LENGTH = struct.Struct(">Q")
_MODE = 0o644
_MAX_WORDS = 65536


class Writer(Protocol):
    """Writes the file."""

    def __call__(self, content: bytes) -> None:
        """Durable when it returns. Raise ``SyncdError``."""


def now(path: Path) -> Pins:
    """What the file says now; nothing, where there is none yet. Raise ``ConfigurationError`` for a broken one."""
    return files.read(path) if path.exists() else Pins(path)


@contextmanager
def writing(path: Path, store: Path) -> Iterator[Writer]:
    """While it is entered, what writes ``path``. ``store``: the store that this process may open meanwhile."""
    try:
        stays = decide(owner_of_store(store), path=store, euid=os.geteuid()) is None
    except NotAuthorisedError:
        stays = True  # a daemon may do for this user what it may not itself
    if stays:
        yield lambda content: replace(path, content)
    else:
        with _child(path) as writer:
            yield writer


def replace(path: Path, content: bytes) -> None:
    """Put ``content`` there in one rename; the file keeps its mode. Raise ``SyncdError``."""
    real = Path(os.path.realpath(path))
    with Folder.open(real.parent) as folder:
        found = folder.stat(real.name)
        mode = _MODE if found is None else found.st_mode & 0o777
        folder.write_atomically(real.name, content, mode=mode, staging=folder)


@contextmanager
def _child(path: Path) -> Iterator[Writer]:
    asks, its_orders = os.pipe2(os.O_CLOEXEC)
    its_words, words = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(its_orders)
        os.close(its_words)
        _serve(path, asks, words)
    os.close(asks)
    os.close(words)

    def write(content: bytes) -> None:
        with open(its_orders, "wb", closefd=False) as orders:
            orders.write(_LENGTH.pack(len(content)) + content)
        answer = os.read(its_words, _MAX_WORDS).decode("utf-8", "replace")
        if answer != "done":
            raise SyncdError(answer or f"{path}: the process that was to write it has died")

    try:
        yield write
    finally:
        os.close(its_orders)
        os.close(its_words)
        with suppress(ChildProcessError):  # reaped already, where SIGCHLD is ignored
            os.waitpid(pid, 0)  # it ends as soon as nobody can ask any more


def _serve(path: Path, asks: int, words: int) -> NoReturn:
    """Be the child. A signal for the whole group is meant for the parent, whose end ends this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    try:
        with open(asks, "rb") as orders:
            header = orders.read(_LENGTH.size)
            if len(header) == _LENGTH.size:
                (size,) = _LENGTH.unpack(header)
                content = orders.read(size)
                if len(content) == size:
                    os.write(words, _written(path, content).encode("utf-8"))
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in here
        os._exit(1)
    os._exit(0)


def _written(path: Path, content: bytes) -> str:
    try:
        replace(path, content)
    except SyncdError as error:
        return error.message[:1000]
    return "done"
