"""Locks between processes and between the tasks of one: ``flock`` on files that are never deleted.

A lock belongs to an open file description, so that two tasks of one process exclude each other like two processes do,
and the kernel lets go of it when its holder dies. Nobody blocks in the kernel: waiting is asyncio's, by polling.
"""

import asyncio
import errno
import fcntl
import os
from collections.abc import Callable
from typing import Self

from syncd.errors import BusyError, StoreError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.descriptors import write_all
from syncd.store.files import Folder
from syncd.store.os_errors import translated

POLL_SECONDS = 0.1
_MAX_HOLDER = 4096  # bytes


class Lock:
    """A lock that is held until ``release``, the end of its ``with``, or the death of the process."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The locked file."""
        return self._fd

    @property
    def held(self) -> bool:
        """Whether it has not been released yet."""
        return self._fd >= 0

    def release(self) -> None:
        """Let go; calling it again does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(fd: int, *, shared: bool) -> bool:
    """flock(2) without waiting: whether it was got. Raise ``OSError`` where the file system has no locks."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:  # EACCES: NFS, which maps flock onto fcntl
            return False
        raise
    return True


class Locks:
    """The locks of one store."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def prove_exclusion(self) -> None:
        """Raise ``StoreError`` unless a second lock fails while a first one is held.

        Lustre without ``-o flock``, some GPFS and some FUSE file systems let everybody have every lock.
        """
        first = self._try(layout.SELF_TEST_LOCK, shared=False)
        if first is None:
            return  # another process is proving the same right now: it excludes us, which is the proof
        with first:
            second = self._try(layout.SELF_TEST_LOCK, shared=False)
        if second is not None:
            second.release()
            raise StoreError(
                f"{self._folder.path}: this file system grants one lock to two holders at once",
                hint="move the store to a local file system; on Lustre, mount with '-o flock'",
            )

    def try_name(self, name: ModelName) -> Lock | None:
        """The lock of everything that changes this name; None while somebody else holds it."""
        return self._try(layout.name_lock(name), shared=False)

    def try_digest(self, digest: Digest) -> Lock | None:
        """The lock of whoever brings this blob in; None while somebody else holds it."""
        return self._try(layout.digest_lock(digest), shared=False)

    def try_scrub(self) -> Lock | None:
        """The lock of whoever reads the store over; None while somebody else does."""
        return self._try(layout.SCRUB_LOCK, shared=False)

    def try_references(self, *, shared: bool) -> Lock | None:
        """Shared to add a lease or a manifest, exclusive to take anything away; None while others exclude it."""
        return self._try(layout.REFERENCES_LOCK, shared=shared)

    def daemon(self, holder: str) -> Lock:
        """The lock of the one daemon that a store has; ``holder`` says, to whoever comes later, who that is.

        Raise ``BusyError``, which tells who holds it.
        """
        lock = self._try(layout.DAEMON_LOCK, shared=False)
        if lock is None:
            found = (self._folder.read_file(layout.DAEMON_LOCK, _MAX_HOLDER) or b"").decode("utf-8", "replace")
            raise BusyError(
                f"another daemon owns {self._folder.path.parents[1]}: {found or 'a new one'}",
                hint="one daemon serves one store: stop that one, or give this one another store",
            )
        try:
            # Over what is there, and then cut: a disk that is full has no new block for it.
            write_all(lock.fd, (holder.encode(),), 0, self._folder.path / layout.DAEMON_LOCK)
            with translated(self._folder.path / layout.DAEMON_LOCK):
                os.ftruncate(lock.fd, len(holder.encode()))
        except BaseException:
            lock.release()
            raise
        return lock

    async def name(
        self, name: ModelName, *, poll: float = POLL_SECONDS, on_wait: Callable[[], None] | None = None
    ) -> Lock:
        """``try_name`` until it is got; ``on_wait`` is called after each vain try, every ``poll`` seconds."""
        return await _polled(lambda: self.try_name(name), poll, on_wait)

    async def digest(self, digest: Digest, *, poll: float = POLL_SECONDS) -> Lock:
        """``try_digest`` until it is got, likewise."""
        return await _polled(lambda: self.try_digest(digest), poll, None)

    async def references(
        self, *, shared: bool, poll: float = POLL_SECONDS, on_wait: Callable[[], None] | None = None
    ) -> Lock:
        """``try_references`` until it is got, likewise."""
        return await _polled(lambda: self.try_references(shared=shared), poll, on_wait)

    def removal_mark(self, name: ModelName) -> int:
        """A number that grows when the name is removed: a pull that sees it change stops itself."""
        found = self._folder.stat(layout.name_lock(name))
        return found.st_size if found else 0

    def mark_removal(self, name: ModelName) -> None:
        """Tell every pull of this name that began before now to stop. Needs no lock."""
        file = layout.name_lock(name)
        fd = self._folder.create_file(file, os.O_APPEND)
        try:
            write_all(fd, (b".",), 0, self._folder.path / file)  # O_APPEND: Linux ignores the offset
        finally:
            os.close(fd)

    def _try(self, file: str, *, shared: bool) -> Lock | None:
        fd = self._folder.create_file(file, 0)
        try:
            with translated(self._folder.path / file):
                locked = try_lock(fd, shared=shared)
        except BaseException:
            os.close(fd)
            raise
        if locked:
            return Lock(fd)
        os.close(fd)
        return None


async def _polled(attempt: Callable[[], Lock | None], poll: float, on_wait: Callable[[], None] | None) -> Lock:
    while (lock := attempt()) is None:
        if on_wait is not None:
            on_wait()
        await asyncio.sleep(poll)
    return lock
