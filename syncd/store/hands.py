"""Who reaches into sources: this process, or a child that stays root when this process becomes the store's owner.

The child does four things, each of them in a source that was opened before it was made, and it ends when this process
does. What it hands out is descriptors to read by.
"""

import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, Protocol, Self

import msgspec

from syncd.errors import NotAuthorisedError, NotFoundError, SyncdError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store.source import Forgotten, Ownership, SourceStore

_LENGTH = struct.Struct(">I")
_MAX_MESSAGE = 64 * 1024 * 1024  # bytes: a source may have a hundred thousand blobs to forget


class SourceError(SyncdError):
    """What went wrong in a source."""


_KINDS: Mapping[int, type[SyncdError]] = {kind.exit_code: kind for kind in (NotAuthorisedError, NotFoundError)}


class Open(msgspec.Struct, frozen=True, tag=True):
    """``SourceStore.open_blob`` of the source with this index."""

    source: int
    file: str


class HandOver(msgspec.Struct, frozen=True, tag=True):
    """``SourceStore.hand_over``."""

    source: int
    file: str
    inode: tuple[int, int]
    uid: int
    gid: int


class GiveBack(msgspec.Struct, frozen=True, tag=True):
    """``SourceStore.give_back``."""

    source: int
    file: str
    inode: tuple[int, int]
    before: Ownership


class Forget(msgspec.Struct, frozen=True, tag=True):
    """``SourceStore.forget``. ``name``: the four parts."""

    source: int
    name: tuple[str, str, str, str] | None
    digest: str | None
    blobs: tuple[str, ...]


Request = Open | HandOver | GiveBack | Forget


class Answer(msgspec.Struct, frozen=True):
    """What came of a request; a descriptor travels beside it. ``error``: message, hint and exit code."""

    before: Ownership | None = None
    forgotten: Forgotten | None = None
    error: tuple[str, str | None, int] | None = None


class Hands(Protocol):
    """Does what is asked of it, in whatever process. Methods block and may be called from any thread."""

    def ask(self, request: Request) -> tuple[Answer, int]:
        """The answer, and a descriptor that the caller closes (-1: none). Raise ``SyncdError``."""


class OwnHands:
    """This process."""

    def __init__(self, sources: Sequence[SourceStore]) -> None:
        self._sources = sources

    def ask(self, request: Request) -> tuple[Answer, int]:
        """The answer, and a descriptor that the caller closes (-1: none). Raise ``SyncdError``."""
        source = self._sources[request.source]
        match request:
            case Open():
                return Answer(), source.open_blob(request.file)
            case HandOver():
                return Answer(before=source.hand_over(request.file, request.inode, request.uid, request.gid)), -1
            case GiveBack():
                source.give_back(request.file, request.inode, request.before)
                return Answer(), -1
            case Forget():
                name = ModelName(*request.name) if request.name else None
                digest = Digest.parse(request.digest) if request.digest else None
                blobs = {Digest.parse(blob) for blob in request.blobs}
                return Answer(forgotten=source.forget(name, digest, blobs)), -1


class ChildsHands:
    """A child that was made while this process was still root."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lock = threading.Lock()

    def ask(self, request: Request) -> tuple[Answer, int]:
        """The answer, and a descriptor that the caller closes (-1: none). Raise ``SyncdError``."""
        with self._lock:
            try:
                _send(self._channel, msgspec.json.encode(request), -1)
                content, fd = _receive(self._channel)
            except (OSError, EOFError) as error:
                raise SourceError(f"the process that reads the sources as root has died: {error}") from error
        answer = msgspec.json.decode(content, type=Answer)
        if answer.error is not None:
            message, hint, code = answer.error
            raise _KINDS.get(code, SourceError)(message, hint=hint)
        return answer, fd


@contextmanager
def childs_hands(sources: Sequence[SourceStore]) -> Iterator[ChildsHands]:
    """Make the child. To be entered before this process has threads, and before it becomes somebody else."""
    mine, its = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        mine.close()
        _serve(its, OwnHands(sources))
    its.close()
    try:
        with mine:
            yield ChildsHands(mine)
    finally:
        with suppress(ChildProcessError):  # reaped already, where SIGCHLD is ignored
            os.waitpid(pid, 0)  # it ends as soon as the channel is closed


def _serve(channel: socket.socket, hands: OwnHands) -> NoReturn:
    """Be the child. A signal for the whole group is meant for the parent, whose end ends this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    try:
        while True:
            content, _ = _receive(channel)
            answer, fd = _answered(hands, content)
            try:
                _send(channel, msgspec.json.encode(answer), fd)
            finally:
                if fd >= 0:
                    os.close(fd)
    except (OSError, EOFError):
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nothing of the parent's may run in here
        os._exit(1)


def _answered(hands: OwnHands, content: bytes) -> tuple[Answer, int]:
    try:
        return hands.ask(msgspec.json.decode(content, type=Request))
    except SyncdError as error:
        return Answer(error=(error.message, error.hint, int(error.exit_code))), -1


def _send(channel: socket.socket, content: bytes, fd: int) -> None:
    # The descriptor rides on the first byte.
    socket.send_fds(channel, [b"!"], [fd] if fd >= 0 else [])
    channel.sendall(_LENGTH.pack(len(content)) + content)


def _receive(channel: socket.socket) -> tuple[bytes, int]:
    first, fds, _, _ = socket.recv_fds(channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
    try:
        size = _LENGTH.unpack(_exactly(channel, _LENGTH.size))[0] if first else 0
        if not 0 < size <= _MAX_MESSAGE:
            raise EOFError("the channel is closed")  # noqa: TRY301 - so that what came with it is closed
        return _exactly(channel, size), fds[0] if fds else -1
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _exactly(channel: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = channel.recv(size - len(content))
        if not part:
            raise EOFError("the channel is closed")
        content += part
    return bytes(content)


class SourceDesk:
    """What may be asked of sources, in words; whose ``hands`` do it does not matter."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    @classmethod
    def own(cls, sources: Sequence[SourceStore]) -> Self:
        """Sources that this process may do everything with."""
        return cls(OwnHands(sources))

    def open_blob(self, source: int, file: str) -> int:
        """A descriptor to read by; the caller closes it."""
        return self._hands.ask(Open(source, file))[1]

    def hand_over(self, source: int, file: str, inode: tuple[int, int]) -> Ownership:
        """Let the file belong to this user, as a blob does; whose it was."""
        before = self._hands.ask(HandOver(source, file, inode, os.geteuid(), os.getegid()))[0].before
        if before is None:
            raise SourceError(f"{file} was not handed over")
        return before

    def give_back(self, source: int, file: str, inode: tuple[int, int], before: Ownership) -> None:
        """Undo that."""
        self._hands.ask(GiveBack(source, file, inode, before))

    def forget(self, source: int, name: ModelName | None, digest: Digest | None, blobs: frozenset[Digest]) -> Forgotten:
        """Take away a manifest, and of these blobs those that nobody names there."""
        asked = Forget(
            source, name.parts if name else None, str(digest) if digest else None, tuple(str(blob) for blob in blobs)
        )
        forgotten = self._hands.ask(asked)[0].forgotten
        if forgotten is None:
            raise SourceError("nothing was taken away")
        return forgotten
