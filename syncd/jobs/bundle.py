"""Bundles as they are read: an archive that lies somewhere, a folder, or a stream that comes by once.

What is in them is looked up by digest, and hashed before anything of it is believed.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from syncd.errors import InvalidManifestError, NotAuthorisedError, NotFoundError
from syncd.oci import image_layout
from syncd.oci.digest import Digest
from syncd.oci.image_layout import (
    ALGORITHM,
    BLOBS,
    INDEX,
    MARKER,
    MAX_INDEX_BYTES,
    MAX_MANIFESTS_BYTES,
    MAX_MARKER_BYTES,
)
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Manifest
from syncd.oci.name import ModelName
from syncd.store.archive import ArchiveError, Member, members
from syncd.store.copying import read_exactly
from syncd.store.descriptors import read_all
from syncd.store.files import Folder
from syncd.store.os_errors import error_of, translated
from syncd.store.reading import FileCursor

STDIN = Path("standard input")
"""How what comes in at stdin is called."""

_FIXED = {MARKER: MAX_MARKER_BYTES, INDEX: MAX_INDEX_BYTES}
_FEWER = "put fewer models into a bundle"
_NONE_HINT = "'syncd export' makes one that can be imported, and so does 'skopeo copy … oci-archive:FILE'"


class Shelved(Protocol):
    """The parts of a bundle that are there to be looked at, by their names or digests."""

    def fixed(self, name: str) -> bytes | None:
        """The content of ``oci-layout`` or ``index.json``; None: it has none."""

    def size_of(self, digest: Digest) -> int | None:
        """Bytes of a blob; None: it has none of this digest."""

    def small(self, digest: Digest) -> bytes | None:
        """The content of a blob of at most 4 MiB, whatever it hashes to; None: it has none of this digest."""


class Located(Shelved, Protocol):
    """A bundle that lies somewhere: every blob can be read at any time."""

    def open_blob(self, digest: Digest) -> tuple[int, int]:
        """A descriptor, which the caller closes, and where in that file the blob begins. Raise ``SyncdError``."""


def named_member(member: Member, seen: set[str]) -> str:
    """Its name without the ``./`` that some put before it. Raise ``ArchiveError`` if it was there before."""
    name = member.name.removeprefix("./")
    if name in _FIXED or image_layout.digest_of_member(name) is not None:
        if name in seen:
            raise ArchiveError(f"it has {name[:100]!r} twice")
        seen.add(name)
    limit = _FIXED.get(name)
    if limit is not None and member.size > limit:
        raise ArchiveError(f"{name!r} has {member.size} bytes, more than {limit}")
    return name


class FileBundle:
    """Implements ``Located``: an archive in a regular file. Scanned once, when it is made; raise ``ArchiveError``."""

    def __init__(self, fd: int, origin: Path) -> None:
        self._fd = fd
        self._origin = origin
        self._fixed: dict[str, bytes] = {}
        self._blobs: dict[Digest, Member] = {}
        seen: set[str] = set()
        cursor = FileCursor(fd, origin)
        for member in members(cursor):
            name = named_member(member, seen)
            if name in _FIXED:
                self._fixed[name] = cursor.read(member.size)
            elif (digest := image_layout.digest_of_member(name)) is not None:
                self._blobs[digest] = member

    def fixed(self, name: str) -> bytes | None:
        """As ``Shelved`` has it."""
        return self._fixed.get(name)

    def size_of(self, digest: Digest) -> int | None:
        """As ``Shelved`` has it."""
        return self._blobs[digest].size if digest in self._blobs else None

    def small(self, digest: Digest) -> bytes | None:
        """As ``Shelved`` has it."""
        member = self._blobs.get(digest)
        if member is None or member.size > MAX_MANIFEST_BYTES:
            return None
        content = bytearray(member.size)
        read_exactly(self._fd, memoryview(content), member.offset, self._origin)
        return bytes(content)

    def open_blob(self, digest: Digest) -> tuple[int, int]:
        """As ``Located`` has it."""
        return os.dup(self._fd), self._blobs[digest].offset


class FolderBundle:
    """Implements ``Located``: a layout as it lies in a folder. No link in it is followed. ``stack`` closes it."""

    def __init__(self, root: Folder, stack: ExitStack) -> None:
        self._root = root
        blobs = root.sub(BLOBS)
        below = None if blobs is None else stack.enter_context(blobs).sub(ALGORITHM)
        self._blobs = None if below is None else stack.enter_context(below)

    def fixed(self, name: str) -> bytes | None:
        """As ``Shelved`` has it."""
        return self._root.read_file(name, _FIXED[name])

    def size_of(self, digest: Digest) -> int | None:
        """As ``Shelved`` has it."""
        with self._readable():
            found = None if self._blobs is None else self._blobs.stat(digest.hex)
        return None if found is None else found.st_size

    def small(self, digest: Digest) -> bytes | None:
        """As ``Shelved`` has it."""
        if self._blobs is None or (fd := self._blobs.open_file(digest.hex)) is None:
            return None
        try:
            return read_all(fd, MAX_MANIFEST_BYTES, self._blobs.path / digest.hex)
        finally:
            os.close(fd)

    def open_blob(self, digest: Digest) -> tuple[int, int]:
        """As ``Located`` has it."""
        with self._readable():
            fd = None if self._blobs is None else self._blobs.open_file(digest.hex)
        if fd is None:
            raise NotFoundError(f"{self._root.path}: {digest} is not there any more")
        return fd, 0

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Say what helps where root has opened the folder and the store's owner may not read what is in it."""
        try:
            yield
        except NotAuthorisedError as error:
            raise NotAuthorisedError(
                error.message,
                hint=f"the store's owner must be able to read it: 'tar -C {self._root.path} -c . | syncd import -'",
            ) from error


def offered(shelved: Shelved) -> tuple[tuple[str | None, Manifest], ...]:
    """What the bundle holds: each manifest with its reference name. Raise ``InvalidManifestError``.

    A list of manifests counts as the one that it lists, if that is one. ``ArchiveError`` for what is missing.
    """
    marker, index = shelved.fixed(MARKER), shelved.fixed(INDEX)
    if marker is None or index is None:
        what = MARKER if marker is None else INDEX
        raise ArchiveError(f"it is no OCI image layout: it has no {what!r}", hint=_NONE_HINT)
    image_layout.check_marker(marker)
    images = image_layout.Index.parse(index).images
    if not images:
        raise ArchiveError("its index names no image")
    parsed: dict[tuple[Digest, int, bool], Manifest] = {}
    held = 0
    for image in images:
        # An index may name one manifest by 40,000 names: it is read, hashed and held once.
        key = image.digest, image.size, image.is_list
        if key not in parsed:
            parsed[key] = _manifest(shelved, image, nested=False)
            held += len(parsed[key].raw)
            if held > MAX_MANIFESTS_BYTES:
                raise ArchiveError(f"its manifests have more than {MAX_MANIFESTS_BYTES} bytes together", hint=_FEWER)
    return tuple((image.ref, parsed[image.digest, image.size, image.is_list]) for image in images)


def _manifest(shelved: Shelved, image: image_layout.Image, *, nested: bool) -> Manifest:
    raw = shelved.small(image.digest)
    if raw is None:
        raise ArchiveError(f"its index names the manifest {image.digest}, which it does not hold, or not as one")
    if len(raw) != image.size or Digest.of(raw) != image.digest:
        raise ArchiveError(f"what it holds as manifest {image.digest} is something else: {Digest.of(raw)}")
    if not image.is_list:
        return Manifest.parse(raw)
    images = image_layout.Index.parse(raw).images
    if len(images) != 1 or nested:
        raise InvalidManifestError(
            f"{image.digest} is a list of {len(images)} manifests (an image index), not one model",
            hint="a model is a single manifest: copy that one alone into a bundle",
        )
    return _manifest(shelved, images[0], nested=True)


def chosen(images: tuple[tuple[str | None, Manifest], ...], name: ModelName | None) -> dict[ModelName, Manifest]:
    """Which models are to be taken, by their names in the store. ``name``: that one alone, or the only one as that.

    Raise ``InvalidManifestError``, ``NotFoundError`` with what there is instead.
    """
    found: dict[ModelName, Manifest] = {}
    nameless: list[str | None] = []
    for ref, manifest in images:
        if (its := image_layout.full_name(ref)) is None:
            nameless.append(ref)
        elif found.setdefault(its, manifest).digest != manifest.digest:
            raise InvalidManifestError(f"its index has two manifests of the name {its.qualified}")
    if name is None:
        if nameless:
            shown = ", ".join("without a name" if ref is None else repr(ref[:100]) for ref in nameless[:3])
            raise InvalidManifestError(
                f"not every image in it has a model's full name ({shown})",
                hint="'syncd import --name NAME FILE' names the only image of a bundle",
            )
        return found
    if name in found:
        return {name: found[name]}
    if len({manifest.digest for _, manifest in images}) == 1:
        return {name: images[0][1]}
    names = ", ".join(str(one) for one in sorted(found)[:10]) or "no names"
    raise NotFoundError(f"{name} is not in the bundle, which holds more than one model", hint=f"it holds {names}")


def read_at(located: Located, digest: Digest, origin: Path) -> "Excerpt":
    """A blob, open to be read."""
    fd, base = located.open_blob(digest)
    return Excerpt(fd, base, origin)


class Excerpt:
    """A blob as it lies somewhere in an open file, which it owns."""

    def __init__(self, fd: int, base: int, origin: Path) -> None:
        self._fd = fd
        self._base = base
        self._origin = origin

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill it with what lies from ``offset`` on. Raise ``SpoiltError``."""
        read_exactly(self._fd, buffer, self._base + offset, self._origin)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Stream:
    """What can only be read once, from its beginning to its end."""

    fd: int


def opened(path: Path | None, stack: ExitStack) -> Located | Stream:
    """The bundle at ``path``; None: what comes in at stdin. ``stack`` closes it. Blocks; raise ``SyncdError``."""
    if path is not None and path.is_dir():
        return FolderBundle(stack.enter_context(Folder.open(Path(os.path.realpath(path)))), stack)
    origin = path or STDIN
    try:
        fd = os.dup(0) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no {origin}") from error
    except PermissionError as error:
        raise NotAuthorisedError(f"{origin}: this user may not read it", hint="run it with sudo") from error
    except OSError as error:
        raise error_of(error, origin) from error
    stack.callback(os.close, fd)
    with translated(origin):
        if stat.S_ISREG(os.fstat(fd).st_mode) and os.lseek(fd, 0, os.SEEK_CUR) == 0:
            return FileBundle(fd, origin)
    return Stream(fd)
