"""A bundle that comes by once, from a pipe: its blobs are taken in as they come, in whatever order that is.

Where the index and the manifests come first, as ``syncd export`` writes them, only what is needed is kept. Others
(skopeo) write the index last: then everything is kept until that is known. Small blobs are kept in memory, up to a
bound, and the rest in files without a name, of which a kill leaves nothing.
"""

from collections.abc import Callable
from pathlib import Path

from syncd.errors import NoSpaceError, SyncdError
from syncd.jobs.bundle import Stream, chosen, named_member, offered
from syncd.jobs.policy import Policy, refuse
from syncd.oci import image_layout
from syncd.oci.digest import Digest
from syncd.oci.image_layout import INDEX, MARKER
from syncd.oci.manifest import MAX_BLOB_BYTES, MAX_MANIFEST_BYTES, Descriptor, Manifest
from syncd.oci.name import ModelName
from syncd.store.archive import ArchiveError, Member, members
from syncd.store.blobs import BlobStatus, VerificationStoppedError
from syncd.store.copying import read_exactly
from syncd.store.hashing import HashingStoppedError
from syncd.store.reading import StoppedError, StreamCursor
from syncd.store.root import Store
from syncd.store.spool import Spooled
from syncd.text import size as in_units

_MAX_MEMORY = 32 * 1024 * 1024  # bytes of small blobs
_MAX_SPOOLED = 512  # each takes a descriptor
_UNKNOWN = "application/octet-stream"


class Received:
    """Implements ``Shelved``: what came. ``close`` lets go of what nobody took. ``name``: see ``bundle.chosen``."""

    def __init__(self, store: Store, name: ModelName | None, policy: Policy, floor: int) -> None:
        self._store = store
        self._name = name
        self._policy = policy
        self._floor = floor
        self._fixed: dict[str, bytes] = {}
        self._memory: dict[Digest, bytes] = {}
        self._spooled: dict[Digest, Spooled] = {}
        self._wanted: dict[Digest, Descriptor] | None = None  # None: not known yet
        self._held = 0  # bytes in memory
        self._listed: list[image_layout.Image] | None = None  # that are not known to be here; None: no index yet
        self._opened: set[Digest] = set()  # lists whose entries are among those, or were

    # Shelved

    def fixed(self, name: str) -> bytes | None:
        """As ``Shelved`` has it."""
        return self._fixed.get(name)

    def size_of(self, digest: Digest) -> int | None:
        """As ``Shelved`` has it."""
        if digest in self._memory:
            return len(self._memory[digest])
        return self._spooled[digest].chunks.size if digest in self._spooled else None

    def small(self, digest: Digest) -> bytes | None:
        """As ``Shelved`` has it."""
        if digest in self._memory:
            return self._memory[digest]
        spooled = self._spooled.get(digest)
        if spooled is None or spooled.chunks.size > MAX_MANIFEST_BYTES:
            return None
        content = bytearray(spooled.chunks.size)
        read_exactly(spooled.fd, memoryview(content), 0, self._store.path)
        return bytes(content)

    def spooled(self, digest: Digest) -> Spooled | None:
        """The file that holds it; None: it is in memory, or did not come."""
        return self._spooled.get(digest)

    # Taking in

    def take(
        self, stream: Stream, origin: Path, *, on_bytes: Callable[[int], object], cancelled: Callable[[], bool]
    ) -> None:
        """Read the stream to its end. Blocks.

        Raise ``SyncdError``, and ``VerificationStoppedError`` soon after ``cancelled`` says so.
        """
        cursor = StreamCursor(stream.fd, origin, on_bytes=on_bytes, cancelled=cancelled)
        seen: set[str] = set()
        try:
            for member in members(cursor):
                self._member(named_member(member, seen), member, cursor, cancelled)
            cursor.finish()
        except (StoppedError, HashingStoppedError) as error:
            raise VerificationStoppedError(f"reading {origin} was stopped") from error

    def _member(self, name: str, member: Member, cursor: StreamCursor, cancelled: Callable[[], bool]) -> None:
        digest = image_layout.digest_of_member(name)
        if name in {MARKER, INDEX}:
            self._fixed[name] = cursor.read(member.size)
        elif digest is None or not self._needs(digest, member.size):
            return
        elif member.size <= MAX_MANIFEST_BYTES and self._held + member.size <= _MAX_MEMORY:
            self._remember(digest, cursor.read(member.size))
        else:
            self._spool(digest, member.size, cursor, cancelled)
            return
        if self._wanted is None:
            self._wanted = self._plan()

    def _remember(self, digest: Digest, content: bytes) -> None:
        _check(digest, Digest.of(content))
        self._memory[digest] = content
        self._held += len(content)

    def _spool(self, digest: Digest, size: int, cursor: StreamCursor, cancelled: Callable[[], bool]) -> None:
        if size > MAX_BLOB_BYTES:
            raise ArchiveError(f"{digest} has an impossible size: {size}")
        if len(self._spooled) >= _MAX_SPOOLED:
            raise ArchiveError(
                f"more than {_MAX_SPOOLED} of its blobs are too large for memory, and from a pipe all of them are held",
                hint="save it as a file, and import that",
            )
        self._require_room(size, f"{digest} needs")
        spooled = self._store.spool.receive(size, cursor.read_into, on_bytes=_unseen, cancelled=cancelled)
        if spooled.digest != digest:
            spooled.close()
            _check(digest, spooled.digest)
        self._spooled[digest] = spooled

    def _require_room(self, size: int, what: str) -> None:
        free = self._store.free_bytes()
        if size and size + self._floor > free:
            raise NoSpaceError(
                f"{what} {in_units(size)}, {in_units(free)} are free on {self._store.path},"
                f" of which {in_units(self._floor)} are to stay free",
                hint="run 'syncd gc --dry-run', or move the store",
            )

    def _needs(self, digest: Digest, size: int) -> bool:
        """Whether it has to be kept, as far as that is known yet."""
        blob = Descriptor(_UNKNOWN, digest, size)
        if self._wanted is not None:
            if digest not in self._wanted:
                return False
            if size != self._wanted[digest].size:
                raise ArchiveError(f"{digest} has {size} bytes, and the manifest says {self._wanted[digest].size}")
        elif size <= MAX_MANIFEST_BYTES:
            return True  # it may be a manifest
        if self._store.blobs.status(blob) is not BlobStatus.STORED:
            return True
        self._store.blobs.refresh_freed((blob,))  # nothing names it, perhaps: it has its hour from now on
        return False

    def _plan(self) -> dict[Digest, Descriptor] | None:
        """What is needed; None, while the index or a manifest is still to come."""
        if any(name not in self._fixed for name in (MARKER, INDEX)):
            return None
        if self._awaits_manifests():
            return None
        wanted = {
            blob.digest: blob
            for name, manifest in self.chosen().items()
            if self._may_come(name, manifest)
            for blob in manifest.blobs
        }
        still_to_come = (blob for digest, blob in wanted.items() if self.size_of(digest) is None)
        absent = (blob.size for blob in still_to_come if self._store.blobs.status(blob) is not BlobStatus.STORED)
        self._require_room(sum(absent), "what is still to come needs")
        return wanted

    def _awaits_manifests(self) -> bool:
        """Whether one of the index, or of a list in it, is still to come.

        Asked for every member until none is: of 40,000 manifests each is looked for once after it came.
        """
        if self._listed is None:
            self._listed = list(image_layout.Index.parse(self._fixed[INDEX]).images)
        while self._listed:
            image = self._listed[-1]
            if image.digest not in self._memory:
                return True
            self._listed.pop()
            if image.is_list and image.digest not in self._opened:
                self._opened.add(image.digest)
                self._listed += image_layout.Index.parse(self._memory[image.digest]).images
        return False

    def chosen(self) -> dict[ModelName, Manifest]:
        """The models that are to be taken. Raise ``SyncdError``."""
        return chosen(offered(self), self._name)

    def _may_come(self, name: ModelName, manifest: Manifest) -> bool:
        try:
            refuse(self._policy, name, manifest.size)
        except SyncdError:
            return False  # its import says so
        return True

    def close(self) -> None:
        """Let go of every file; those that got a name are the store's."""
        for spooled in self._spooled.values():
            spooled.close()
        self._spooled.clear()


def _check(digest: Digest, found: Digest) -> None:
    if found != digest:
        raise ArchiveError(
            f"{digest} is damaged: its bytes hash to {found}", hint="copy the bundle, or make it, once more"
        )


def _unseen(_count: int) -> None:
    """The cursor tells of what it reads."""
