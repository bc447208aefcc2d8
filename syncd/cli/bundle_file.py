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
from syncd.oci import image_layout
from syncd.store import archive
from syncd.store.descriptors import same_file
from syncd.store.files import Folder, fsync_file
from syncd.store.locks import try_lock
from syncd.store.os_errors import error_of, translated
from syncd.store.owner import decide, owner_of_store

_PARTIAL = ".partial"
_DONE = b"done"
_MAX_WORDS = 65536
_MOST_LINKS = 40  # path_resolution(7)
_SHARED = stat.S_ISVTX | stat.S_IWOTH
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
    with _place(path) as (folder, real):
        name = real + _PARTIAL
        found = folder.stat(real)
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
def _place(path: Path) -> Iterator[tuple[Folder, str]]:
    """The folder and the name in it that ``path`` means. Raise ``SyncdError``.

    A link in its place is followed, but not one that somebody else has put into a folder such as /tmp: the kernel's own
    rule (proc(5), protected_symlinks), which it cannot apply for us, as a rename follows none.
    """
    at = path
    for _ in range(_MOST_LINKS):
        if at.name in {"", ".."}:
            raise UsageError(f"{path} is a folder", hint="name a file in it")
        parent = Path(os.path.realpath(at.parent))
        if not parent.is_dir():
            raise NotFoundError(f"{path} cannot be written: {parent} is no folder")
        with Folder.open(parent) as folder:
            found = folder.stat(at.name)
            if found is None or not stat.S_ISLNK(found.st_mode):
                yield folder, at.name
                return
            around = os.fstat(folder.fd)
            shared = around.st_mode & _SHARED == _SHARED
            if shared and found.st_uid not in {os.geteuid(), around.st_uid}:
                raise NotAuthorisedError(f"{parent / at.name} is a link of another user's, and is not followed")
            with translated(parent / at.name):
                at = parent / os.readlink(at.name, dir_fd=folder.fd)
    raise UsageError(f"{path} leads from link to link")


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
    """A descriptor of the empty file ``name``, locked; what a killed export left goes, and nothing else."""
    while True:
        fd = folder.create_file(name, 0)
        try:
            claimed = _claimed(fd, folder, name)
        except BaseException:
            os.close(fd)
            raise
        if claimed:
            return fd
        os.close(fd)


def _claimed(fd: int, folder: Folder, name: str) -> bool:
    """Lock and empty it; False if it bears that name no more: another export has ended, and this is its FILE."""
    path = folder.path / name
    with translated(path):
        if not try_lock(fd, shared=False):
            raise BusyError(f"{path}: another export writes it", hint="let that one end first")
        found = os.fstat(fd)
        if not same_file(found, folder.stat(name)):
            return False
        if not _is_left(fd, found):
            raise UsageError(f"{path} is no unfinished export of this user's", hint="move it out of the way")
        os.ftruncate(fd, 0)
    return True


def _is_left(fd: int, found: os.stat_result) -> bool:
    """Whether that is nothing, or what an export of this user left when it was killed."""
    begins = archive.header(image_layout.MARKER, len(image_layout.MARKER_CONTENT))
    its = found.st_uid == os.geteuid() and found.st_nlink == 1
    return its and begins.startswith(os.pread(fd, len(begins), 0))


def _finish(folder: Folder, fd: int, name: str, real: str) -> None:
    found = folder.stat(real)
    umask = os.umask(0)
    os.umask(umask)
    mode = 0o666 & ~umask
    if found is not None:
        # Of another user's file, no right is taken over that this one would not have given.
        mode = stat.S_IMODE(found.st_mode) & (0o777 if found.st_uid == os.geteuid() else mode)
    fsync_file(fd, folder.path / name, mode=mode)
    folder.rename(name, folder, real)
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
        with suppress(BrokenPipeError):  # it was killed, and says nothing
            os.write(its_orders, _DONE)
        answer = os.read(its_words, _MAX_WORDS)
        if answer != _DONE:
            raise SyncdError(answer.decode("utf-8", "replace") or f"{path}: the process that was to name it has died")

    try:
        yield ask
    finally:
        os.close(its_orders)
        os.close(its_words)
        with suppress(ChildProcessError):  # reaped already, where SIGCHLD is ignored
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
