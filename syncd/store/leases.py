"""Leases: the manifests whose blobs a running pull needs kept, on disk, so that they outlive the process.

A lease is live while its file is locked; no pid is looked at. It gets its name in ``leases/`` after it was locked and
under the shared references lock, so that a collection, which holds that lock exclusively, sees it live or not at all.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from syncd.errors import InvalidManifestError, InvalidNameError, StoreError, SyncdError
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Manifest
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.descriptors import read_all, write_all
from syncd.store.files import Folder, fsync_file, new_token
from syncd.store.locks import Lock, try_lock
from syncd.store.os_errors import translated

LEASE_SECONDS = 7 * 24 * 3600.0
"""How long a lease whose holder died keeps its blobs, from its last ``touch`` on, unless the settings say otherwise."""

_MAX_BYTES = 2 * MAX_MANIFEST_BYTES  # base64 adds a third


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: tuple[str, str, str, str]
    manifest: bytes


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A lease as others see it. ``age``: seconds since its holder took or touched it; ``lifetime``: after its death.

    ``passing``: it is no pull's, and nobody goes on with what its holder did: dead, it keeps nothing.
    """

    id: str
    name: ModelName
    manifest: Manifest
    live: bool
    age: float
    lifetime: float = LEASE_SECONDS
    passing: bool = False

    @property
    def keeps(self) -> bool:
        """Whether its blobs must stay."""
        return self.live or (not self.passing and self.age < self.lifetime)


class Lease:
    """A lease that this process holds. At the end of its ``with`` it is released, or after an error abandoned."""

    def __init__(self, id_: str, name: ModelName, manifest: Manifest, fd: int, folder: Folder) -> None:
        self.id = id_
        self.name = name
        self.manifest = manifest
        self._fd = fd
        self._folder = folder

    def touch(self) -> None:
        """Start its seven days anew: a holder does so now and then, in case it dies."""
        with translated(self._folder.path / self.id):
            os.utime(self._fd)

    def release(self) -> None:
        """Let the blobs go; calling it again does nothing."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            self._folder.unlink(self.id, missing_ok=True)
        finally:
            os.close(fd)

    def abandon(self) -> None:
        """Stop holding it but leave it: its blobs stay for its lifetime, as after a crash.

        So ends a pull that failed or was interrupted, since the next run resumes it.
        """
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.release()
        else:
            self.abandon()


class Leases:
    """The leases of one store. ``lifetime``: seconds for which one whose holder died keeps its blobs."""

    def __init__(self, folder: Folder, staging: Folder, clock: Callable[[], float] = time.time) -> None:
        self.lifetime = LEASE_SECONDS
        self._folder = folder
        self._staging = staging
        self._clock = clock

    def take(self, name: ModelName, manifest: Manifest, held: Lock, *, passing: bool = False) -> Lease:
        """Keep this manifest's blobs from now on. ``held``: the references lock, shared.

        ``passing``: while its holder lives, and no longer.
        """
        if not held.held:
            raise ValueError("a lease is taken under the references lock")
        content = msgspec.json.encode(_Content(name.parts, manifest.raw))
        temporary = layout.temporary_file(new_token())
        id_ = layout.passing_lease(new_token()) if passing else new_token()
        path = self._staging.path / temporary
        fd = self._staging.create_file(temporary)
        try:
            _lock_new(fd, path)
            write_all(fd, (content,), 0, path)
            fsync_file(fd, path, mode=layout.OWN_FILE_MODE)
            self._staging.rename(temporary, self._folder, id_)
            self._folder.fsync()
        except BaseException:
            os.close(fd)
            with suppress(SyncdError):
                self._staging.unlink(temporary, missing_ok=True)
                self._folder.unlink(id_, missing_ok=True)
            raise
        return Lease(id_, name, manifest, fd, self._folder)

    def all(self, now: float) -> list[LeaseState]:
        """Every lease that can be read; ``now`` as ``time.time()`` gives it."""
        return [state for _, state in self._scan(now) if state is not None]

    def of_name(self, name: ModelName) -> LeaseState | None:
        """The newest live lease of a pull of this name: whose progress a waiter shows."""
        mine = [
            state
            for _, state in self._scan(self._clock())
            if state and state.live and not state.passing and state.name.folded == name.folded
        ]
        return min(mine, key=lambda state: state.age, default=None)

    def has_dead(self, name: ModelName) -> bool:
        """Whether a pull of this name ended, by a crash or otherwise, before it was through with all its steps."""
        return any(not layout.is_passing_lease(id_) for id_ in self._dead(name))

    def drop_dead(self, name: ModelName) -> None:
        """Remove what crashed pulls of this name left: it has been published, or removed."""
        for id_ in self._dead(name):
            self._folder.unlink(id_, missing_ok=True)

    def _dead(self, name: ModelName) -> Iterator[str]:
        for id_, state in self._scan(self._clock()):
            if state is not None and not state.live and state.name.folded == name.folded:
                yield id_

    def drop_expired(self, now: float) -> int:
        """Remove the leases that keep nothing any more, and the ones nobody can read; how many that were."""
        dropped = 0
        for id_, state in self._scan(now):
            if state is None:
                found = self._folder.stat(id_)
                expired = found is not None and now - found.st_mtime >= self.lifetime
            else:
                expired = not state.keeps
            if expired:
                self._folder.unlink(id_, missing_ok=True)
                dropped += 1
        return dropped

    def _scan(self, now: float) -> Iterator[tuple[str, LeaseState | None]]:
        for entry in self._folder.list():
            fd = self._folder.open_file(entry.name)
            if fd is None:
                continue  # released since it was listed
            try:
                yield entry.name, self._state(fd, entry.name, now)
            finally:
                os.close(fd)

    def _state(self, fd: int, id_: str, now: float) -> LeaseState | None:
        """None for a lease that a power cut left unreadable: nobody has used it since."""
        path = self._folder.path / id_
        # Shared, so that two who look at a dead lease do not take each other for its holder.
        with translated(path):
            live = not try_lock(fd, shared=True)
            modified = os.fstat(fd).st_mtime
        try:
            content = msgspec.json.decode(read_all(fd, _MAX_BYTES, path), type=_Content)
            name, manifest = ModelName(*content.name), Manifest.parse(content.manifest)
        except (msgspec.MsgspecError, InvalidNameError, InvalidManifestError):
            return None
        passing = layout.is_passing_lease(id_)
        return LeaseState(id_, name, manifest, live, max(0.0, now - modified), self.lifetime, passing)


def _lock_new(fd: int, path: Path) -> None:
    with translated(path):
        locked = try_lock(fd, shared=False)
    if not locked:
        raise StoreError(f"{path}: somebody else holds a lock on a file made just now")
