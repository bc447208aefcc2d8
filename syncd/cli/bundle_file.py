"""The file that an export writes: whole under its name, or not there; and a pipe, whose reader finds out by its end.

Root becomes the store's owner when the store is opened, and could not rename a file in root's folder any more: a child
that was made before stays root and does that.
"""

import os
import select
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from syncd.errors import BusyError, NotAuthorisedError, NotFoundError, SyncdError, UsageError
from syncd.jobs.export import ExportStoppedError
from syncd.store.files import Folder, error_of, fsync_file, same_file, translated
from syncd.store.locks import try_lock
from syncd.store.owner import decide, owner_of_store

_PARTIAL = ".partial"
_DONE = b"done"
_MAX_WORDS = 65536
_PATIENCE = 200  # milliseconds between two looks at whether it was cancelled

Step = Callable[[], None]


class Output:
    """What an export writes into. ``finish`` makes it whole."""

    def __init__(self, fd: int, path: Path, finish: Step, *, waits: bool, most: int | None = None) -> None:
        """``waits``: the descriptor is to be waited for. ``most``: bytes that it takes then without blocking."""
        self._fd = fd
        self._path = path
        self._most = most
        self._poll = select.poll() if waits else None
        if self._poll is not None:
            self._poll.register(fd, select.POLLOUT)
        self.finish = finish

    def write(self, content: bytes | memoryview, cancelled: Callable[[], bool]) -> None:
        """Take all of it. Raise ``SyncdError``, and ``BrokenPipeError`` once nobody reads any more."""
        rest = memoryview(content)
        while rest:
            while self._poll is not None and not self._poll.poll(_PATIENCE):
                if cancelled():
                    raise ExportStoppedError(f"{self._path}: nobody has read it to its end")
            try:
                rest = rest[os.write(self._fd, rest[: self._most]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise
            except OSError as error:
                raise error_of(error, self._path) from error


@contextmanager
def to_stdout() -> Iterator[Output]:
    """Standard output. Raise ``UsageError`` for a terminal."""
    if os.isatty(1):
        raise UsageError("a bundle is no text for a terminal", hint="'syncd export NAME -o FILE', or pipe it on")
    path = Path("standard output")
    with translated(path):
        is_pipe = stat.S_ISFIFO(os.fstat(1).st_mode)
        fd, most = _pipe() if is_pipe else (os.dup(1), None)
    try:
        yield Output(fd, path, lambda: None, waits=is_pipe, most=most)
    finally:
        os.close(fd)


def _pipe() -> tuple[int, int | None]:
    """A descriptor of standard output, and how much it takes at once; None: whatever it likes, it does not block."""
    try:
        # Opened anew: not to block is said of what others have open, too, where a descriptor is but duplicated.
        return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), None
    except PermissionError:
        # Another user's, as under 'sudo -u OWNER': once poll(2) says so, it has room for this much (pipe(7), PIPE_BUF).
        return os.dup(1), select.PIPE_BUF


@contextmanager
def to_file(path: Path, store: Path) -> Iterator[Output]:
    """``path``, which gets its name in ``finish``: until then, and after an error, what was there is there.

    ``store``: the store that this process may open meanwhile. Raise ``SyncdError``.
    """
    real = Path(os.path.realpath(path))
    name = real.name + _PARTIAL
    if not real.parent.is_dir():
        raise NotFoundError(f"{path} cannot be written: {real.parent} is no folder")
    with Folder.open(real.parent) as folder:
        found = folder.stat(real.name)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is no regular file", hint=f"'syncd export NAME -o - > {path}' writes into it")
        fd = _made(folder, name)

        def finish() -> None:
            _finish(folder, fd, name, real)

        def abandon() -> None:
            if same_file(os.fstat(fd), folder.stat(name)):  # not, once it has its name
                folder.unlink(name, missing_ok=True)

        try:
            with _hands(finish, abandon, path, store) as its_finish:
                yield Output(fd, path, its_finish, waits=False)
        finally:
            os.close(fd)


@contextmanager
def _hands(finish: Step, abandon: Step, path: Path, store: Path) -> Iterator[Step]:
    """While it is entered: what finishes. ``abandon`` is called at its end."""
    if not _stays(store):
        with _child(finish, abandon, path) as its_finish:
            yield its_finish
        return
    try:
        yield finish
    finally:
        abandon()


def _made(folder: Folder, name: str) -> int:
    fd = folder.create_file(name, 0)
    try:
        with translated(folder.path / name):
            mine = try_lock(fd, shared=False)
            if mine:
                os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    if not mine:
        os.close(fd)
        raise BusyError(f"{folder.path / name}: another export writes it", hint="let that one end first")
    return fd


def _finish(folder: Folder, fd: int, name: str, real: Path) -> None:
    found = folder.stat(real.name)
    umask = os.umask(0)
    os.umask(umask)
    mode = 0o666 & ~umask if found is None else stat.S_IMODE(found.st_mode)
    fsync_file(fd, folder.path / name, mode=mode)
    folder.rename(name, folder, real.name)
    folder.fsync()


def _stays(store: Path) -> bool:
    """Whether this process remains who it is when it opens the store."""
    try:
        return decide(owner_of_store(store), path=store, euid=os.geteuid()) is None
    except NotAuthorisedError:
        return True  # it will be refused


@contextmanager
def _child(finish: Step, abandon: Step, path: Path) -> Iterator[Step]:
    """While it is entered: what has a child of this process, which stays root, finish."""
    asks, its_orders = os.pipe2(os.O_CLOEXEC)
    its_words, words = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(its_orders)
        os.close(its_words)
        _serve(finish, abandon, asks, words)
    os.close(asks)
    os.close(words)

    def ask() -> None:
        os.write(its_orders, _DONE)
        answer = os.read(its_words, _MAX_WORDS)
        if answer != _DONE:
            raise SyncdError(answer.decode("utf-8", "replace") or f"{path}: the process that was to name it has died")

    try:
        yield ask
    finally:
        os.close(its_orders)
        os.close(its_words)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)  # it ends as soon as nobody can ask any more


def _serve(finish: Step, abandon: Step, asks: int, words: int) -> NoReturn:
    """Be the child. A signal for the whole group is meant for the parent, whose end ends this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    try:
        if os.read(asks, len(_DONE)) == _DONE:
            os.write(words, _answer(finish))
        abandon()
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in here
        os._exit(1)
    os._exit(0)


def _answer(finish: Step) -> bytes:
    try:
        finish()
    except SyncdError as error:
        return error.message[:1000].encode("utf-8", "replace")
    return _DONE
