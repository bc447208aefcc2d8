"""A store, opened: its owner, layout, mounts and locks are as they must be before anything in it is touched."""

import errno
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from syncd.errors import ConfigurationError, NotAuthorisedError, NotFoundError
from syncd.store import layout
from syncd.store.blobs import BlobStore
from syncd.store.descriptors import same_file, write_all
from syncd.store.files import Folder, new_token
from syncd.store.holds import Holds
from syncd.store.intake import Intakes
from syncd.store.leases import Leases
from syncd.store.locks import Locks
from syncd.store.models import ModelStore
from syncd.store.mounts import file_system_of, is_network
from syncd.store.os_errors import translated
from syncd.store.owner import name_of
from syncd.store.quarantine import Quarantine
from syncd.store.records import Records
from syncd.store.spool import Spool
from syncd.store.state import StateFiles
from syncd.store.sweep import Sweep
from syncd.store.trees import Trees

_MAX_VERSION_BYTES = 64
_READABLE_BY_ALL = 0o055


class Store:
    """An opened store; a context manager that gives its descriptors back."""

    path: Path
    notices: tuple[str, ...]

    def __init__(self, stack: ExitStack, root: Folder, own: Folder, notices: tuple[str, ...]) -> None:
        """``stack`` closes ``root`` and ``own`` and what is opened here."""
        self.path = root.path
        self.notices = notices
        self._root = root
        self._stack = stack

        def shared(name: str) -> Folder:
            return stack.enter_context(_shared_folder(root, name))

        def ours(name: str) -> Folder:
            return stack.enter_context(own.make_sub(name, layout.OWN_FOLDER_MODE))

        manifests, blobs = shared(layout.MANIFESTS), shared(layout.BLOBS)
        staging, keep = ours(layout.STAGING), ours(layout.KEEP)
        self._staging = staging
        _require_one_mount(staging, (manifests, blobs, keep))
        self._shared = {layout.MANIFESTS: manifests, layout.BLOBS: blobs}
        self.locks = Locks(ours(layout.LOCKS))
        self.locks.prove_exclusion()
        self.leases = Leases(ours(layout.LEASES), staging)
        records = ours(layout.RECORDS)
        self.records = Records(records, staging)
        self.blobs = BlobStore(blobs, keep, staging, self.records, self.locks)
        self.models = ModelStore(manifests, ours(layout.HISTORY), staging, self.blobs, self.revive)
        self.state = StateFiles(ours(layout.STATE), staging)
        self.holds = Holds(self.state)
        self.intakes = Intakes(self.blobs, staging)
        self.spool = Spool(self.blobs, staging)
        quarantine = ours(layout.QUARANTINE)
        self.quarantine = Quarantine(blobs, keep, self.records, self.models, quarantine)
        self.sweep = Sweep(blobs, keep, records, staging, ours(layout.TRASH), quarantine)
        self.trees = Trees(manifests, blobs, quarantine)

    @classmethod
    def open(cls, path: Path, *, create: bool, allow_network_filesystem: bool = False) -> Self:
        """Open the store at ``path``, which may be reached through links; inside none is followed.

        ``create``: make what is missing, taking a folder that Ollama filled as it is. Raise ``NotFoundError`` if there
        is no store, ``NotAuthorisedError`` if it is another user's, ``ConfigurationError`` if its layout is newer than
        this syncd or other hosts may share its file system.
        """
        path = Path(os.path.realpath(path))
        notices = _judge_file_system(path, allowed=allow_network_filesystem)
        with ExitStack() as stack:
            root = stack.enter_context(_open_root(path, create=create))
            own = stack.enter_context(_open_own(root, create=create))
            store = cls(stack, root, own, notices)
            store._stack = stack.pop_all()
            return store

    def revive(self) -> bool:
        """Work on the ``manifests/`` and ``blobs/`` that are there now; whether they are others than before.

        Somebody may move either away, or remove it: then it is made again. Raise ``SyncdError`` where that fails.
        """
        revived = False
        for name, folder in self._shared.items():
            if (found := self._root.stat(name)) and same_file(found, os.fstat(folder.fd)):
                continue
            with _shared_folder(self._root, name) as now:
                _require_one_mount(self._staging, (now,))
                # The descriptor keeps its number, so whoever has the folder has the new one.
                os.dup2(now.fd, folder.fd, inheritable=False)
            self._root.fsync()
            revived = True
        return revived

    def close(self) -> None:
        """Give every descriptor back; calling it again does nothing."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prove_writable(self) -> None:
        """Raise ``SyncdError`` if nothing can be written here: read-only, full, gone, no permission."""
        name = layout.temporary_file(new_token())
        fd = self._staging.create_file(name)
        try:
            write_all(fd, (b"?",), 0, self.path)
        finally:
            os.close(fd)
            self._staging.unlink(name)

    def blobs_stat(self) -> os.stat_result:
        """The folder ``blobs/``, by which this store is known again under another path."""
        with translated(self.path / layout.BLOBS):
            return os.fstat(self._shared[layout.BLOBS].fd)

    def free_bytes(self) -> int:
        """What this user can still write on the store's file system."""
        with translated(self.path):
            found = os.fstatvfs(self._root.fd)
        return found.f_bavail * found.f_frsize


def _judge_file_system(path: Path, *, allowed: bool) -> tuple[str, ...]:
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        return (f"cannot tell what file system {path} is on ({error}): if other hosts share it, locks prove nothing",)
    kind = file_system_of(path, mountinfo)
    if kind is None or not is_network(kind):
        return ()
    if not allowed:
        raise ConfigurationError(
            f"{path} is on a network file system ({kind}): locks prove nothing between hosts",
            hint="if no other host ever runs syncd or Ollama on it, allow it in the settings; else use a local disk",
        )
    return (f"on a network file system ({kind}): locks prove nothing between hosts",)


def _no_store(path: Path) -> NotFoundError:
    return NotFoundError(f"no store at {path}", hint="'syncd init' makes one, and so does the first 'syncd pull NAME'")


def _open_root(path: Path, *, create: bool) -> Folder:
    if create:
        make_folders(path)
    elif not path.exists():
        raise _no_store(path)
    return Folder.open(path)


def make_folders(path: Path) -> None:
    """``mkdir -p``, durable, with modes that other users' containers can read."""
    if path.exists():
        return
    make_folders(path.parent)
    with Folder.open(Path(os.path.realpath(path.parent))) as parent:
        parent.make_sub(path.name, layout.SHARED_FOLDER_MODE).close()
        parent.fsync()


def _open_own(root: Folder, *, create: bool) -> Folder:
    found = root.stat(layout.OWN)
    if found is not None:
        _require_mine(found.st_uid, root.path / layout.OWN)  # before it is opened, which another user may not even do
    own = root.sub(layout.OWN)
    if own is None:
        if not create:
            raise _no_store(root.path)
        for folder in (root, root.sub(layout.MANIFESTS), root.sub(layout.BLOBS)):
            if folder is not None:
                _require_mine(os.fstat(folder.fd).st_uid, folder.path)
                if folder is not root:
                    folder.close()
        own = root.make_sub(layout.OWN, layout.OWN_FOLDER_MODE)
        root.fsync()
    try:
        check_version(own, root.path, create=create)
    except BaseException:
        own.close()
        raise
    return own


def _require_mine(owner: int, path: Path) -> None:
    if (me := os.geteuid()) != owner:
        its = name_of(owner)
        as_root = f"'syncd init --owner {its}' makes a store there that is theirs"
        other = f"run it as {its} or with sudo; 'sudo syncd init --owner USER' takes a store over"
        raise NotAuthorisedError(f"{path} belongs to {its}, and this is {name_of(me)}", hint=other if me else as_root)


def check_version(own: Folder, path: Path, *, create: bool) -> None:
    """Refuse a layout newer than this code; ``create``: note this one if none is noted."""
    content = own.read_file(layout.VERSION, _MAX_VERSION_BYTES)
    if content is None:
        if not create:
            raise _no_store(path)
        with own.make_sub(layout.STAGING, layout.OWN_FOLDER_MODE) as staging:
            own.write_atomically(
                layout.VERSION, f"{layout.LAYOUT_VERSION}\n".encode(), mode=layout.OWN_FILE_MODE, staging=staging
            )
        return
    text = content.decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise ConfigurationError(f"{own.path / layout.VERSION} holds no number", hint="restore it from a backup")
    if int(text) > layout.LAYOUT_VERSION:
        raise ConfigurationError(
            f"the store at {path} has layout {text}, and this syncd knows layouts up to {layout.LAYOUT_VERSION}",
            hint="use the newer syncd that wrote it",
        )


def _shared_folder(root: Folder, name: str) -> Folder:
    try:
        folder = root.make_sub(name, layout.SHARED_FOLDER_MODE)
    except NotAuthorisedError:  # shut even to its owner
        root.set_mode(name, None, layout.SHARED_FOLDER_MODE)
        folder = root.make_sub(name, layout.SHARED_FOLDER_MODE)
    mode = os.fstat(folder.fd).st_mode
    if mode & _READABLE_BY_ALL != _READABLE_BY_ALL:
        folder.chmod(layout.SHARED_FOLDER_MODE)
    return folder


def _require_one_mount(staging: Folder, others: tuple[Folder, ...]) -> None:
    """Renames must work: rename(2) refuses another mount, even of one file system, before it looks for the file."""
    nothing = layout.temporary_file(new_token())
    for folder in others:
        with translated(folder.path), suppress(FileNotFoundError):  # as it should be: there is no such file
            if os.fstat(folder.fd).st_dev != os.fstat(staging.fd).st_dev:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            os.rename(nothing, nothing, src_dir_fd=staging.fd, dst_dir_fd=folder.fd)
