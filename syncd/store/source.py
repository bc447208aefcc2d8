"""Another program's model store, read: what an Ollama left in a folder or a Docker volume, and how that goes away.

It may be hostile. No link in it is followed, nothing in it is waited for, nothing in it counts before it was hashed.
Nothing here writes, but for the three that ``adopt --delete-source`` needs: ``hand_over``, ``give_back``, ``forget``.
"""

import json
import os
import stat
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from syncd.errors import NotAuthorisedError, NotFoundError, SyncdError, UsageError
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.descriptors import same_file
from syncd.store.files import Folder
from syncd.store.mounts import mount_of
from syncd.store.os_errors import translated
from syncd.store.source_manifests import SourceManifests, open_below
from syncd.store.source_scan import PARTIAL, Scan, SourceBlob, SourceManifest, Stray, digest_of, kind_of

_MAX_CONFIG = 1024 * 1024  # bytes of a config that is looked into
_HOMES = ((), ("models",), (".ollama", "models"))  # where a volume, or a home, has its models folder


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whom a file belonged to, and its mode."""

    uid: int
    gid: int
    mode: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was taken away from a source. ``size``: bytes of its blobs; ``problem``: why not all of it was."""

    size: int
    problem: str | None = None


class SourceStore:
    """An opened source; a context manager that gives its descriptors back. Whoever opened it may read all of it."""

    def __init__(self, stack: ExitStack, path: Path, manifests: SourceManifests, blobs: Folder) -> None:
        self.path = path
        self._stack = stack
        self.manifests = manifests
        self._blobs = blobs

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the models folder at ``path``, or the one in the home that lies there. Raise ``NotFoundError``."""
        with ExitStack() as stack:
            try:
                given = stack.enter_context(Folder.open(Path(os.path.realpath(path))))
            except NotAuthorisedError as error:
                raise _not_readable(path) from error
            except SyncdError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise NotFoundError(f"{path}: there is no such folder") from error
                raise
            for home in _HOMES:
                root = open_below(stack, given, home)
                if root is None:
                    continue
                manifests = open_below(stack, root, (layout.MANIFESTS,))
                blobs = open_below(stack, root, (layout.BLOBS,))
                if blobs is not None:
                    source = cls(stack, root.path, SourceManifests(manifests), blobs)
                    source._stack = stack.pop_all()
                    return source
        raise NotFoundError(
            f"{path}: there is no Ollama store in it",
            hint="an Ollama store has the folders manifests/ and blobs/, in models/ or directly",
        )

    def refuse_if_same(self, blobs: os.stat_result) -> None:
        """Raise ``UsageError`` if this is the store itself, whose ``blobs`` folder was stat'ed."""
        if same_file(os.fstat(self._blobs.fd), blobs):
            raise UsageError(
                f"{self.path} is the store itself", hint="its models are there already: 'syncd verify' checks them"
            )

    def is_same(self, other: "SourceStore") -> bool:
        """Whether both are one folder."""
        return same_file(os.fstat(self._blobs.fd), os.fstat(other._blobs.fd))  # noqa: SLF001 - of the same class

    def refuse_unless_writable(self) -> None:
        """Raise ``NotAuthorisedError`` if this user could not take anything away here."""
        for folder in (self.manifests.folder, self._blobs):
            if folder is not None and not os.access(".", os.W_OK | os.X_OK, dir_fd=folder.fd, effective_ids=True):
                raise NotAuthorisedError(
                    f"{folder.path}: this user may delete nothing there",
                    hint="run it with sudo, or without --delete-source",
                )

    def close(self) -> None:
        """Give every descriptor back; calling it again does nothing."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it has

    def scan(self) -> Scan:
        """Read every manifest and list every blob."""
        blobs: dict[Digest, SourceBlob] = {}
        partial: set[Digest] = set()
        strays: list[Stray] = []
        for entry in sorted(self._blobs.list(), key=lambda entry: entry.name):
            found = self._blobs.stat(entry.name)
            if found is None:
                continue
            digest = digest_of(entry.name)
            if digest is not None and entry.is_file:
                blobs.setdefault(digest, SourceBlob(entry.name, found.st_size, found.st_nlink == 1))
                continue
            if (of := digest_of(entry.name.partition(PARTIAL)[0])) is not None and PARTIAL in entry.name:
                partial.add(of)
            strays.append(Stray(entry.name, found.st_blocks * 512, kind_of(found.st_mode, entry.name)))
        return Scan(
            self.path,
            mount_of(self._blobs.fd),
            tuple(self._described(path) for path in sorted(self.manifests.paths())),
            blobs,
            frozenset(partial),
            tuple(strays),
        )

    def open_blob(self, file: str) -> int:
        """A descriptor to read a blob's file by; the caller closes it. Raise ``SyncdError``."""
        fd = self._blobs.open_file(file)
        if fd is None:
            raise NotFoundError(f"{self._blobs.path / file} was removed by somebody else")
        return fd

    def _described(self, path: tuple[str, ...]) -> SourceManifest:
        found = self.manifests.load(path)
        hosted = found.manifest is not None and self._is_hosted(found.manifest.config)
        return replace(found, hosted=hosted)

    def _is_hosted(self, config: Descriptor) -> bool:
        if config.size > _MAX_CONFIG:
            return False
        try:
            raw = self._blobs.read_file(layout.blob_file(config.digest), _MAX_CONFIG)
            content = json.loads(raw or b"null")
        except (SyncdError, ValueError, RecursionError):
            return False
        return isinstance(content, dict) and bool(content.get("remote_host"))

    # What --delete-source does to it

    def hand_over(self, file: str, inode: tuple[int, int], uid: int, gid: int) -> Ownership:
        """Let the blob's file, which is ``inode`` (device, number), belong to a store's owner, with a blob's mode.

        The file must have no other name: somebody may have linked one to here for root to give it away.
        """
        with self._opened(file, inode) as fd, translated(self._blobs.path / file):
            found = os.fstat(fd)
            if found.st_nlink != 1:
                raise NotAuthorisedError(f"{self._blobs.path / file} has another name: it can only be copied")
            if (found.st_uid, found.st_gid) != (uid, gid):
                os.fchown(fd, uid, gid)
            os.fchmod(fd, layout.BLOB_MODE)
        return Ownership(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))

    def give_back(self, file: str, inode: tuple[int, int], before: Ownership) -> None:
        """Undo ``hand_over``: the file was not taken."""
        with self._opened(file, inode) as fd, translated(self._blobs.path / file):
            found = os.fstat(fd)
            if found.st_nlink != 1:
                return  # the store has it by now
            if (found.st_uid, found.st_gid) != (before.uid, before.gid):
                os.fchown(fd, before.uid, before.gid)
            os.fchmod(fd, before.mode)

    def forget(self, name: ModelName | None, digest: Digest | None, blobs: Collection[Digest]) -> Forgotten:
        """Take away the manifest of ``name``, if it has this ``digest``, then those of ``blobs`` that nobody names.

        The caller has all of them, durably. The manifest goes first, so that no manifest here ever names a blob that is
        gone. While one cannot be read, no blob goes: it may name any (``server/images.go PruneLayers``).
        """
        if name is not None:
            raw = self.manifests.read(name.parts)
            if raw is not None and Digest.of(raw) != digest:
                return Forgotten(0, f"{name} has been changed since it was read")
            if raw is not None:
                self.manifests.remove(name.parts)
        named: set[Digest] = set()
        for path in self.manifests.paths():
            found = self.manifests.load(path)
            if found.manifest is None:
                return Forgotten(0, f"manifests/{found.path} cannot be read, so all blobs stay: {found.problem}")
            named.update(blob.digest for blob in found.manifest.blobs)
        return Forgotten(self._unlink_blobs({digest for digest in blobs if digest not in named}))

    def _unlink_blobs(self, digests: Collection[Digest]) -> int:
        size = 0
        for entry in self._blobs.list():
            if entry.is_file and digest_of(entry.name) in digests:
                found = self._blobs.stat(entry.name)
                self._blobs.unlink(entry.name, missing_ok=True)
                size += found.st_size if found else 0
        self._blobs.fsync()
        return size

    def _opened(self, file: str, inode: tuple[int, int]) -> "_Opened":
        return _Opened(self.open_blob(file), inode, self._blobs.path / file)


class _Opened:
    """A descriptor of the very file that is meant, closed at the end of its ``with``."""

    def __init__(self, fd: int, inode: tuple[int, int], path: Path) -> None:
        self._fd = fd
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != inode:
            os.close(fd)
            raise NotFoundError(f"{path} has become another file")

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _not_readable(path: Path) -> NotAuthorisedError:
    return NotAuthorisedError(f"{path}: this user may not read it", hint="run it with sudo: root reads every store")
