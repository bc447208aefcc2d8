"""What lies in Ollama's two trees and should not, or not like that; and how it is put right without losing anything.

Nothing is opened by a path: each folder is entered by descriptor, no link is followed, and what is changed is the very
file that was seen.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum

from syncd.errors import InvalidDigestError, InvalidManifestError, InvalidNameError, NotAuthorisedError, SyncdError
from syncd.oci.digest import Digest
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Descriptor, Manifest, is_list
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.check import BlobCheck
from syncd.store.files import Folder, new_token
from syncd.store.os_errors import translated

_DEPTH = 4  # host, namespace, model, tag
_WRITABLE_BY_OTHERS = 0o022
_READ_BY_ALL = 0o444
_ENTER_BY_ALL = 0o555
_MAX_NAME = 200  # bytes of a name that are kept in quarantine, as everything there has them
_OLLAMAS_PARTIAL = "-partial"  # ollama server/download.go: "sha256-HEX-partial", and "-partial-N" for its parts
_OCTETS = "application/octet-stream"


class Oddity(StrEnum):
    """What is odd about a spot."""

    STRAY_FILE = "stray file"
    STRAY_FOLDER = "stray folder"
    EMPTY_FOLDER = "empty folder"
    UNFINISHED = "unfinished"  # what an Ollama makes while it pulls or imports
    LINK = "link"
    SPECIAL = "special"  # a FIFO, a device, a socket
    COLON = "colon"  # sha256:HEX
    EMPTY_MANIFEST = "empty manifest"
    BROKEN_MANIFEST = "broken manifest"
    MANIFEST_LIST = "manifest list"
    CLOSED = "closed"  # others cannot read it
    OPEN = "open"  # others can write to it
    FOREIGN = "foreign"  # another user's


@dataclass(frozen=True, slots=True)
class Spot:
    """A place below ``manifests`` or ``blobs`` (``tree``), or one of these.

    ``detail``: for people; it may come from outside. ``inode``: device and number; ``mode``: the permission bits;
    ``right_mode``: what they should be; ``modified``: seconds since the epoch, of what is unfinished that of the file
    written to last of all that belong together. ``leads``: of a link, whether there is anything at its end.
    """

    tree: str
    path: tuple[str, ...]
    oddity: Oddity
    inode: tuple[int, int]
    mode: int
    right_mode: int
    uid: int
    modified: float
    detail: str = ""
    leads: bool = False

    @property
    def place(self) -> str:
        """Below the store."""
        return "/".join((self.tree, *self.path))

    @property
    def name(self) -> ModelName | None:
        """Of the model whose manifest would lie there; None: of none."""
        if self.tree != layout.MANIFESTS or len(self.path) != _DEPTH:
            return None
        try:
            return ModelName(*self.path)
        except InvalidNameError:
            return None

    @property
    def digest(self) -> Digest | None:
        """Of the blob that would lie there, also of ``sha256:HEX``; None: of none."""
        if self.tree != layout.BLOBS or len(self.path) != 1:
            return None
        try:
            return Digest.parse(self.path[0].replace("sha256-", "sha256:", 1))
        except InvalidDigestError:
            return None


class Trees:
    """``manifests/`` and ``blobs/``. Methods block; raise ``SyncdError``."""

    def __init__(self, manifests: Folder, blobs: Folder, quarantine: Folder) -> None:
        self._folders = {layout.MANIFESTS: manifests, layout.BLOBS: blobs}
        self._quarantine = quarantine

    def odd(self, owner: int) -> tuple[Spot, ...]:
        """Every spot that is odd in a store of the user ``owner``, in order of its path."""
        found = [spot for tree, folder in self._folders.items() for spot in _open_to_others(tree, folder)]
        found += self._manifests(self._folders[layout.MANIFESTS], (), owner)
        found += self._blobs(self._folders[layout.BLOBS], owner)
        return tuple(sorted(found, key=lambda one: (one.tree, one.path, one.oddity)))

    def take(self, spot: Spot) -> bool:
        """Move it to quarantine, whatever it is; False if something else lies there, or somebody is at it by now.

        Under the references lock.
        """
        with ExitStack() as stack:
            parent = self._parent(stack, spot)
            if parent is None or not _is(parent, spot):
                return False
            if spot.oddity is Oddity.UNFINISHED and _last_written(parent, spot.path[-1]) > spot.modified:
                return False
            kept = os.fsdecode(os.fsencode("+".join(spot.path))[:_MAX_NAME])
            parent.rename(spot.path[-1], self._quarantine, f"{kept}.{new_token()}")
            parent.fsync()
            self._quarantine.fsync()
        return True

    def set_mode(self, spot: Spot) -> bool:
        """Give it its right mode; False if something else lies there."""
        if not spot.path:
            self._folders[spot.tree].chmod(spot.right_mode)
            return True
        with ExitStack() as stack:
            parent = self._parent(stack, spot)
            return parent is not None and parent.set_mode(spot.path[-1], spot.inode, spot.right_mode)

    def open_check(self, spot: Spot) -> BlobCheck | None:
        """A pass over a file of ``blobs/`` as the blob that its name means; None if it is not there."""
        digest = spot.digest
        folder = self._folders[layout.BLOBS]
        fd = None if digest is None else folder.open_file(spot.path[0])
        if fd is None or digest is None:
            return None
        try:
            blob = Descriptor(_OCTETS, digest, os.fstat(fd).st_size)
            return BlobCheck(blob, fd, folder.path / spot.path[0])
        except BaseException:
            os.close(fd)
            raise

    def name_right(self, spot: Spot) -> bool:
        """Give ``sha256:HEX`` the name ``sha256-HEX``; False if that is taken, or the file another one.

        The caller holds the digest's lock and has seen that the bytes are right.
        """
        digest, folder = spot.digest, self._folders[layout.BLOBS]
        if digest is None or not _is(folder, spot) or folder.stat(layout.blob_file(digest)) is not None:
            return False
        fd = folder.open_file(spot.path[0])
        if fd is None:
            return False
        try:
            with translated(folder.path / spot.path[0]):
                os.fchmod(fd, layout.BLOB_MODE)
                os.utime(fd)  # nobody may have had it for an hour: a collection must not take it right away
                os.fsync(fd)
        finally:
            os.close(fd)
        folder.rename(spot.path[0], folder, layout.blob_file(digest))
        folder.fsync()
        return True

    # Steps of the above

    def _parent(self, stack: ExitStack, spot: Spot) -> Folder | None:
        folder = self._folders[spot.tree]
        for part in spot.path[:-1]:
            below = folder.sub(part)
            if below is None:
                return None
            folder = stack.enter_context(below)
        return folder

    def _manifests(self, folder: Folder, path: tuple[str, ...], owner: int) -> Iterator[Spot]:
        entries = folder.list()
        for entry in entries:
            here = (*path, entry.name)
            found = folder.stat(entry.name)
            if found is None:
                continue
            if not stat.S_ISDIR(found.st_mode):
                yield from self._in_manifests(folder, here, found, owner)
                continue
            yield from _rights(layout.MANIFESTS, here, found, owner)
            if len(here) >= _DEPTH:
                yield _spot(layout.MANIFESTS, here, found, Oddity.STRAY_FOLDER)
                continue
            try:
                below = folder.sub(entry.name)
                if below is not None:
                    with below:
                        if not below.list():
                            yield _spot(layout.MANIFESTS, here, found, Oddity.EMPTY_FOLDER)
                        yield from self._manifests(below, here, owner)
            except NotAuthorisedError:
                continue  # its mode was told of; what is in there shows once that is right

    def _in_manifests(self, folder: Folder, path: tuple[str, ...], found: os.stat_result, owner: int) -> Iterator[Spot]:
        if not stat.S_ISREG(found.st_mode):
            yield _irregular(layout.MANIFESTS, folder, path, found)
            return
        spot = _spot(layout.MANIFESTS, path, found, Oddity.STRAY_FILE)
        if len(path) != _DEPTH or spot.name is None:
            yield spot
            return
        yield from _rights(layout.MANIFESTS, path, found, owner)
        if found.st_size == 0:
            yield _spot(layout.MANIFESTS, path, found, Oddity.EMPTY_MANIFEST)
            return
        try:
            raw = folder.read_file(path[-1], MAX_MANIFEST_BYTES)
        except NotAuthorisedError:
            return  # its rights have been told of
        except SyncdError as error:
            what = f"it cannot be read: {error.message}"
            yield _spot(layout.MANIFESTS, path, found, Oddity.BROKEN_MANIFEST, what)
            return
        try:
            Manifest.parse(raw or b"")
        except InvalidManifestError as error:
            if raw is not None:  # else it has gone since
                oddity = Oddity.MANIFEST_LIST if is_list(raw) else Oddity.BROKEN_MANIFEST
                yield _spot(layout.MANIFESTS, path, found, oddity, error.message)

    def _blobs(self, folder: Folder, owner: int) -> Iterator[Spot]:
        unfinished: list[Spot] = []
        for entry in folder.list():
            path, found = (entry.name,), folder.stat(entry.name)
            if found is None:
                continue
            if stat.S_ISDIR(found.st_mode):
                yield _spot(layout.BLOBS, path, found, Oddity.STRAY_FOLDER)
            elif not stat.S_ISREG(found.st_mode):
                yield _irregular(layout.BLOBS, folder, path, found)
            elif layout.digest_of_file(entry.name) is not None:
                yield from _rights(layout.BLOBS, path, found, owner)
            else:
                spot = _spot(layout.BLOBS, path, found, _misnamed(entry.name))
                if spot.oddity is Oddity.UNFINISHED:
                    unfinished.append(spot)
                else:
                    yield spot
        newest: dict[str, float] = {}
        for spot in unfinished:
            whole = _download(spot.path[0])
            newest[whole] = max(spot.modified, newest.get(whole, spot.modified))
        for spot in unfinished:
            yield replace(spot, modified=newest[_download(spot.path[0])])


def _open_to_others(tree: str, folder: Folder) -> Iterator[Spot]:
    """The tree itself. That others cannot read it was put right when it was opened."""
    with translated(folder.path):
        found = os.fstat(folder.fd)
    if found.st_mode & _WRITABLE_BY_OTHERS:
        yield _spot(tree, (), found, Oddity.OPEN)


def _download(name: str) -> str:
    """What the files of one download of an Ollama have in common: a part's is written to when it is through only.

    A part that was through hours ago is needed still: without it the pull fails at its end (ollama server/download.go,
    ``run``).
    """
    blob, partial, _ = name.partition(_OLLAMAS_PARTIAL)
    return blob + partial


def _last_written(blobs: Folder, name: str) -> float:
    """When any file of that download was, in seconds since the epoch."""
    files = [name]
    if _OLLAMAS_PARTIAL in name:
        files = [entry.name for entry in blobs.list() if _download(entry.name) == _download(name)]
    return max((found.st_mtime for file in files if (found := blobs.stat(file)) is not None), default=0.0)


def _misnamed(name: str) -> Oddity:
    """What a file of ``blobs/`` is that bears no blob's name."""
    if layout.digest_of_file(name.replace("sha256:", "sha256-", 1)) is not None:
        return Oddity.COLON
    # ollama server/download.go: "sha256-HEX-partial", "-partial-N"; server/create.go, types.CreateTemp: "sha256-N".
    return Oddity.UNFINISHED if name.startswith("sha256-") else Oddity.STRAY_FILE


def _irregular(tree: str, folder: Folder, path: tuple[str, ...], found: os.stat_result) -> Spot:
    if not stat.S_ISLNK(found.st_mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
        return _spot(tree, path, found, Oddity.SPECIAL, kinds.get(stat.S_IFMT(found.st_mode), "no regular file"))
    try:
        target = os.readlink(path[-1], dir_fd=folder.fd)
        os.stat(path[-1], dir_fd=folder.fd)  # looked at, never opened: whether a server gets anywhere by it
    except PermissionError:
        return _spot(tree, path, found, Oddity.LINK, "it leads to where this user may not look", leads=True)
    except OSError:
        return _spot(tree, path, found, Oddity.LINK, "it leads nowhere")
    return _spot(tree, path, found, Oddity.LINK, f"it leads to {target}", leads=True)


def _rights(tree: str, path: tuple[str, ...], found: os.stat_result, owner: int) -> Iterator[Spot]:
    needed = _ENTER_BY_ALL if stat.S_ISDIR(found.st_mode) else _READ_BY_ALL
    if found.st_mode & needed != needed:
        yield _spot(tree, path, found, Oddity.CLOSED)
    elif found.st_mode & _WRITABLE_BY_OTHERS:
        yield _spot(tree, path, found, Oddity.OPEN)
    if found.st_uid != owner:
        yield _spot(tree, path, found, Oddity.FOREIGN)


def _spot(
    tree: str, path: tuple[str, ...], found: os.stat_result, oddity: Oddity, detail: str = "", *, leads: bool = False
) -> Spot:
    if stat.S_ISDIR(found.st_mode):
        right = layout.SHARED_FOLDER_MODE
    else:
        right = layout.MANIFEST_MODE if tree == layout.MANIFESTS else layout.BLOB_MODE
    return Spot(
        tree=tree,
        path=path,
        oddity=oddity,
        inode=(found.st_dev, found.st_ino),
        mode=stat.S_IMODE(found.st_mode),
        right_mode=right,
        uid=found.st_uid,
        modified=found.st_mtime,
        detail=detail,
        leads=leads,
    )


def _is(parent: Folder, spot: Spot) -> bool:
    found = parent.stat(spot.path[-1])
    return found is not None and (found.st_dev, found.st_ino) == spot.inode
