"""Another program's model store, read: what an Ollama left in a folder or a Docker volume, and how that goes away.

It may be hostile. No link in it is followed, nothing in it is waited for, nothing in it counts before it was hashed.
Nothing here writes, but for the three that ``adopt --delete-source`` needs: ``hand_over``, ``give_back``, ``forget``.
"""

import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from syncd.errors import NotAuthorisedError, NotFoundError, SyncdError, UsageError
from syncd.oci.digest import Digest
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.files import Folder, same_file, translated

_MAX_CONFIG = 1024 * 1024  # bytes of a config that is looked into
_HOMES = ((), ("models",), (".ollama", "models"))  # where a volume, or a home, has its models folder
_PARTIAL = "-partial"  # Ollama's: ``sha256-<hex>-partial``, and one ``-partial-<n>`` for the state of each range


@dataclass(frozen=True, slots=True)
class SourceManifest:
    """A file where Ollama looks for a manifest. ``path``: below ``manifests/``; ``problem``: why it is none, if so.

    ``hosted``: a stub for a model that runs elsewhere (its config names a remote host).
    """

    path: str
    name: ModelName | None
    manifest: Manifest | None
    problem: str | None = None
    hosted: bool = False


@dataclass(frozen=True, slots=True)
class SourceBlob:
    """A regular file that bears a blob's name. ``alone``: it has no other name."""

    file: str
    size: int
    alone: bool


@dataclass(frozen=True, slots=True)
class Stray:
    """What lies among the blobs and is none: a partial download, a temporary file, a link. ``size``: bytes."""

    file: str
    size: int
    what: str


@dataclass(frozen=True, slots=True)
class Scan:
    """All that a source has, its blobs unread. ``mount``: what it lies on (``mount_of``)."""

    path: Path
    mount: tuple[int, int]
    manifests: tuple[SourceManifest, ...]
    blobs: Mapping[Digest, SourceBlob]
    partial: frozenset[Digest]
    strays: tuple[Stray, ...]


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

    def __init__(self, stack: ExitStack, path: Path, manifests: Folder | None, blobs: Folder) -> None:
        self.path = path
        self._stack = stack
        self._manifests = manifests
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
                root = _below(stack, given, home)
                if root is None:
                    continue
                manifests, blobs = root.sub(layout.MANIFESTS), root.sub(layout.BLOBS)
                for folder in (manifests, blobs):
                    if folder is not None:
                        stack.enter_context(folder)
                if blobs is not None:
                    source = cls(stack, root.path, manifests, blobs)
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
        for folder in (self._manifests, self._blobs):
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
            digest = _digest_of(entry.name)
            if digest is not None and entry.is_file:
                blobs.setdefault(digest, SourceBlob(entry.name, found.st_size, found.st_nlink == 1))
                continue
            if (of := _digest_of(entry.name.partition(_PARTIAL)[0])) is not None and _PARTIAL in entry.name:
                partial.add(of)
            strays.append(Stray(entry.name, found.st_blocks * 512, _what(found.st_mode, entry.name)))
        return Scan(
            self.path,
            mount_of(self._blobs.fd),
            tuple(self._described(path) for path in sorted(self._manifest_paths())),
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

    def is_file(self, path: str) -> bool:
        """Whether a regular file lies at ``path`` below ``manifests/``; False where it leads through links."""
        parts = tuple(path.split("/"))
        with ExitStack() as stack:
            try:
                folder = self._manifests and _below(stack, self._manifests, parts[:-1])
                found = folder.stat(parts[-1]) if folder else None
            except SyncdError:
                return False
        return found is not None and stat.S_ISREG(found.st_mode)

    def _load(self, path: tuple[str, ...]) -> SourceManifest:
        below = "/".join(path)
        name: ModelName | None = None
        try:
            if len(path) != 4:  # noqa: PLR2004 - host, namespace, model, tag
                return SourceManifest(below, None, None, "no folder, but a link or a file")
            name = ModelName(*path)
            raw = self._read(path)
            manifest = Manifest.parse(raw) if raw is not None else None
        except SyncdError as error:
            return SourceManifest(below, name, None, error.message)
        if manifest is None:
            return SourceManifest(below, name, None, "it was removed while it was being read")
        return SourceManifest(below, name, manifest)

    def _described(self, path: tuple[str, ...]) -> SourceManifest:
        found = self._load(path)
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

    def _manifest_paths(self) -> Iterator[tuple[str, ...]]:
        """Below ``manifests/``: every tag, and every link or broken folder above the tags."""
        if self._manifests is not None:
            yield from _walk(self._manifests, ())

    def _read(self, path: tuple[str, ...]) -> bytes | None:
        with ExitStack() as stack:
            folder = self._manifests and _below(stack, self._manifests, path[:-1])
            return folder.read_file(path[-1], MAX_MANIFEST_BYTES) if folder else None

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
            raw = self._read(name.parts)
            if raw is not None and Digest.of(raw) != digest:
                return Forgotten(0, f"{name} has been changed since it was read")
            if raw is not None and self._manifests is not None:
                _unlink(self._manifests, name.parts)
        named: set[Digest] = set()
        for path in self._manifest_paths():
            found = self._load(path)
            if found.manifest is None:
                return Forgotten(0, f"manifests/{found.path} cannot be read, so all blobs stay: {found.problem}")
            named.update(blob.digest for blob in found.manifest.blobs)
        return Forgotten(self._unlink_blobs({digest for digest in blobs if digest not in named}))

    def _unlink_blobs(self, digests: Collection[Digest]) -> int:
        size = 0
        for entry in self._blobs.list():
            if entry.is_file and _digest_of(entry.name) in digests:
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


def mount_of(fd: int) -> tuple[int, int]:
    """The device and the mount that an open file lies on: link(2) works within one mount only (proc(5), fdinfo).

    The mount is -1 where the kernel does not say.
    """
    device, mount = os.fstat(fd).st_dev, -1
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="utf-8").splitlines():
            if line.startswith("mnt_id:"):
                mount = int(line.partition(":")[2])
    return device, mount


def _below(stack: ExitStack, folder: Folder, path: tuple[str, ...]) -> Folder | None:
    for part in path:
        below = folder.sub(part)
        if below is None:
            return None
        folder = stack.enter_context(below)
    return folder


def _walk(folder: Folder, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for entry in folder.list():
        here = (*path, entry.name)
        if len(here) == 4:  # noqa: PLR2004 - host, namespace, model, tag
            if not entry.is_folder:
                yield here
        elif entry.is_folder:
            try:
                below = folder.sub(entry.name)
            except SyncdError:
                yield here
                continue
            if below is not None:
                with below:
                    yield from _walk(below, here)
        elif not entry.is_file:
            yield here  # Ollama follows links here, and finds models behind them


def _unlink(manifests: Folder, path: tuple[str, ...]) -> None:
    """Remove a tag, and the folders that it leaves empty."""
    with ExitStack() as stack:
        folders = [manifests]
        for part in path[:-1]:
            below = folders[-1].sub(part)
            if below is None:
                return
            folders.append(stack.enter_context(below))
        folders[-1].unlink(path[-1], missing_ok=True)
        folders[-1].fsync()
        while len(folders) > 1:
            name = folders.pop().path.name
            if not folders[-1].rmdir(name):
                return
            folders[-1].fsync()


def _digest_of(file: str) -> Digest | None:
    """Old releases of Ollama named blobs with a colon (``server/fixblobs.go``)."""
    return layout.digest_of_file(file.replace("sha256:", "sha256-", 1))


def _what(mode: int, file: str) -> str:
    if stat.S_ISLNK(mode):
        return "symbolic link"
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        return "no regular file"
    return "partial download" if _PARTIAL in file else "no blob"


def _not_readable(path: Path) -> NotAuthorisedError:
    return NotAuthorisedError(f"{path}: this user may not read it", hint="run it with sudo: root reads every store")
