"""The ground that a store stands on: what its file system can do, tried in ``staging/``; whose it is; what is shared.

For a store that cannot be opened as well: here nothing is refused, everything is noted.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from syncd.errors import SyncdError
from syncd.store import layout
from syncd.store.allocate import allocate
from syncd.store.descriptors import write_all
from syncd.store.files import Folder, new_token
from syncd.store.locks import try_lock
from syncd.store.mounts import file_system_of, is_network

_PARTS = (layout.MANIFESTS, layout.BLOBS, layout.OWN)
_RENAMED = (layout.KEEP, layout.RECORDS, layout.TRASH, layout.QUARANTINE)  # of ours, what staging is renamed into
_SIZE = 4096  # bytes


class Ability(StrEnum):
    """What publishing needs of a file system."""

    CREATE = "create files"
    WRITE = "write and fsync files"
    MODES = "keep modes"
    LINK = "link"
    RENAME = "rename over a file"
    FOLDER_FSYNC = "fsync folders"
    PREALLOCATE = "reserve space"
    LOCK = "lock"
    EXCLUDE = "locks that exclude"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """``kind``: of the file system, if it is known; ``free``: bytes that this user can still write.

    ``lacking``: what it cannot do, and why. ``tried``: False where there is no ``staging/`` that could be entered.
    ``elsewhere``: parts of the store on another mount than ``staging/``. ``owners``: uids by part, ``.`` being the
    store's folder, whose mode is ``mode``.
    """

    path: Path
    kind: str | None = None
    network: bool = False
    free: int = 0
    tried: bool = False
    lacking: tuple[tuple[Ability, str], ...] = ()
    elsewhere: tuple[str, ...] = ()
    owners: dict[str, int] = field(default_factory=dict)
    mode: int = layout.SHARED_FOLDER_MODE


def look(path: Path) -> Ground | None:
    """The ground of the store at ``path``; None if there is no such folder. Blocks; raise ``SyncdError``."""
    path = Path(os.path.realpath(path))
    if not path.is_dir():
        return None
    with ExitStack() as stack:
        root = stack.enter_context(Folder.open(path))
        owners = {".": os.fstat(root.fd).st_uid}
        owners |= {name: found.st_uid for name in _PARTS if (found := root.stat(name)) is not None}
        space = os.fstatvfs(root.fd)
        kind = _kind(path)
        staging = _staging(stack, root)
        return Ground(
            path=path,
            kind=kind,
            network=kind is not None and is_network(kind),
            free=space.f_bavail * space.f_frsize,
            tried=staging is not None,
            lacking=() if staging is None else tuple(_lacking(staging)),
            elsewhere=() if staging is None else tuple(_elsewhere(stack, root, staging)),
            owners=owners,
            mode=stat.S_IMODE(os.fstat(root.fd).st_mode),
        )


def _kind(path: Path) -> str | None:
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None  # no /proc here: nobody knows
    return file_system_of(path, mountinfo.splitlines())


def _staging(stack: ExitStack, root: Folder) -> Folder | None:
    try:
        own = root.sub(layout.OWN)
        staging = None if own is None else stack.enter_context(own).sub(layout.STAGING)
    except SyncdError:
        return None  # another user's, or a link
    return None if staging is None else stack.enter_context(staging)


def _elsewhere(stack: ExitStack, root: Folder, staging: Folder) -> Iterator[str]:
    """rename(2) refuses another mount, even of one file system, before it looks for the file."""
    own = stack.enter_context(root.sub(layout.OWN) or Folder.open(root.path))
    parts = [(root, name, name) for name in (layout.MANIFESTS, layout.BLOBS)]
    parts += [(own, name, f"{layout.OWN}/{name}") for name in _RENAMED]
    nothing = layout.temporary_file(new_token())
    for parent, name, shown in parts:
        try:
            folder = parent.sub(name)
        except SyncdError:
            continue  # a link, or not to be entered: told of elsewhere
        if folder is None:
            continue
        with folder:
            try:
                if os.fstat(folder.fd).st_dev != os.fstat(staging.fd).st_dev:
                    yield shown
                    continue
                os.rename(nothing, nothing, src_dir_fd=staging.fd, dst_dir_fd=folder.fd)
            except OSError as error:
                if error.errno == errno.EXDEV:
                    yield shown


def _lacking(staging: Folder) -> Iterator[tuple[Ability, str]]:
    """What fails, tried with two files that are gone afterwards."""
    one, other = (layout.temporary_file(new_token()) for _ in range(2))
    try:
        fd = staging.create_file(one)
    except SyncdError as error:
        yield Ability.CREATE, error.message
        return
    try:
        path = staging.path / one
        trials: tuple[tuple[Ability, Callable[[], str | None]], ...] = (
            (Ability.WRITE, lambda: _write(fd, path)),
            (Ability.PREALLOCATE, lambda: None if allocate(fd, _SIZE, path) else "there is no fallocate"),
            (Ability.LOCK, lambda: None if try_lock(fd, shared=False) else "a new file is locked already"),
            (Ability.EXCLUDE, lambda: _second_lock(staging, one)),
            (Ability.MODES, lambda: _mode(fd)),
            (Ability.LINK, lambda: staging.link(one, staging, other, through=staging)),
            (Ability.RENAME, lambda: _rename(staging, one)),
            (Ability.FOLDER_FSYNC, staging.fsync),
        )
        failed: set[Ability] = set()
        for ability, trial in trials:
            if ability is Ability.EXCLUDE and Ability.LOCK in failed:
                continue
            try:
                why = trial()
            except SyncdError as error:
                why = error.message
            except OSError as error:
                why = os.strerror(error.errno) if error.errno else str(error)
            if why is not None:
                failed.add(ability)
                yield ability, why
    finally:
        os.close(fd)
        for name in (one, other):
            with suppress(SyncdError):
                staging.unlink(name, missing_ok=True)


def _write(fd: int, path: Path) -> None:
    write_all(fd, (bytes(_SIZE),), 0, path)
    os.fsync(fd)


def _mode(fd: int) -> str | None:
    os.fchmod(fd, layout.BLOB_MODE)
    found = stat.S_IMODE(os.fstat(fd).st_mode)
    return None if found == layout.BLOB_MODE else f"set to {layout.BLOB_MODE:o}, it is {found:o}"


def _second_lock(staging: Folder, name: str) -> str | None:
    """Whether another opening of a locked file gets the lock as well."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging.fd)
    try:
        return "one lock was granted to two holders at once" if try_lock(fd, shared=False) else None
    finally:
        os.close(fd)


def _rename(staging: Folder, name: str) -> None:
    """Over another file, as a publication does."""
    target = layout.temporary_file(new_token())
    os.close(staging.create_file(target))
    try:
        staging.rename(name, staging, target)
        staging.rename(target, staging, name)
    finally:
        staging.unlink(target, missing_ok=True)
