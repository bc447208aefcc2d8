"""Importing: a model of a bundle becomes one of the store's, by a pull whose registry is that bundle.

The same locks, lease, room, policy, order of publishing and history as any pull's. What is taken is hashed from what
the store has of it by then.
"""

from collections.abc import Callable
from pathlib import Path

from syncd.aio import in_thread, in_thread_stoppable
from syncd.download.counters import Counters, Step
from syncd.download.journal import claimed_bytes
from syncd.errors import IntegrityError
from syncd.jobs.adopt import give_room_back
from syncd.jobs.blobs import Bringing, Supply
from syncd.jobs.bundle import Excerpt, Located, read_at
from syncd.jobs.policy import Policy
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.jobs.pull import PullMeans, pull
from syncd.jobs.received import Received
from syncd.oci.chunks import ChunkMap
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName, Reference
from syncd.registry.found import FetchedManifest
from syncd.store.blobs import BlobStore, VerificationStoppedError
from syncd.store.copying import SpoiltError
from syncd.store.hashing import Hashed, HashingStoppedError, hash_file
from syncd.store.partial import Partial
from syncd.store.root import Store

_HINT = "the bundle is damaged: copy it, or make it, once more"


async def take_in(
    name: ModelName,
    manifest: Manifest,
    supply: Supply,
    store: Store,
    report: Callable[[PullProgress], None],
    *,
    origin: str,
    floor: int,
    policy: Policy,
) -> PullOutcome:
    """Make it a whole, visible model of the store. ``origin``: what its history says of where it came from.

    Raise ``SyncdError``; the store then shows what it showed before.
    """
    means = PullMeans(
        store=store, registry=_Shelf(FetchedManifest(manifest, origin)), fetcher=supply, floor=floor, policy=policy
    )
    try:
        # By its digest: this very version is asked for, whatever a registry's tag holds.
        return await pull(Reference(name, manifest.digest), means, report)
    except BaseException:
        give_room_back(store, manifest)
        raise


class _Shelf:
    """Implements ``ManifestSource``: one manifest."""

    def __init__(self, found: FetchedManifest) -> None:
        self._found = found

    async def manifest(self, reference: Reference) -> FetchedManifest:  # noqa: ARG002 - the protocol's
        """The bundle's."""
        return self._found


class LocatedSupply:
    """Implements ``Supply``: the blobs of a bundle that lies somewhere."""

    def __init__(self, bundle: Located, origin: Path) -> None:
        self._bundle = bundle
        self._origin = origin

    def needs_room(self, blob: Descriptor) -> bool:  # noqa: ARG002 - the protocol's
        """They are all copied."""
        return True

    def stage(self, blobs: BlobStore, blob: Descriptor) -> Partial:
        """Open the partial. Raise ``SyncdError`` for a blob that the bundle does not hold."""
        require(blob, self._bundle.size_of(blob.digest), self._origin)
        if claimed_bytes(blobs.partials.read_journal(blob.digest) or b"", blob):
            # An unfinished pull has fetched some of it: that is not given up for bytes that may be wrong.
            excerpt = read_at(self._bundle, blob.digest, self._origin)
            try:
                check(blob, hash_file(excerpt.read, blob.size, on_bytes=_unseen, cancelled=_never), self._origin)
            finally:
                excerpt.close()
        return blobs.partials.stage(blob)

    def blob(self, name: ModelName, partial: Partial) -> Bringing:  # noqa: ARG002 - the protocol's
        """What takes it."""
        return _Taking(partial, lambda: read_at(self._bundle, partial.blob.digest, self._origin), self._origin)


class ReceivedSupply:
    """Implements ``Supply``: the blobs that came in by a stream. Each has its room already, or takes next to none."""

    def __init__(self, received: Received, store: Store, origin: Path) -> None:
        self._received = received
        self._store = store
        self._origin = origin

    def needs_room(self, blob: Descriptor) -> bool:
        """Whether it is not in a file yet."""
        return self._received.spooled(blob.digest) is None

    def stage(self, blobs: BlobStore, blob: Descriptor) -> Partial:
        """Open the partial. Raise ``SyncdError`` for a blob that did not come."""
        require(blob, self._received.size_of(blob.digest), self._origin)
        spooled = self._received.spooled(blob.digest)
        return blobs.partials.stage(blob) if spooled is None else self._store.spool.partial(blob, spooled)

    def blob(self, name: ModelName, partial: Partial) -> Bringing:  # noqa: ARG002 - the protocol's
        """What takes it."""
        digest = partial.blob.digest
        spooled = self._received.spooled(digest)
        if spooled is not None:
            return _There(spooled.chunks)
        return _Taking(partial, lambda: _Kept(self._received.small(digest) or b""), self._origin)


def require(blob: Descriptor, size: int | None, origin: Path) -> None:
    """Raise ``IntegrityError`` unless a blob of this size is there."""
    if size is None:
        raise IntegrityError(f"{origin} does not hold {blob.digest}, and the store does not have it", hint=_HINT)
    if size != blob.size:
        raise IntegrityError(f"{origin}: {blob.digest} has {size} bytes, and the manifest says {blob.size}", hint=_HINT)


def check(blob: Descriptor, hashed: Hashed, origin: Path) -> None:
    """Raise ``SpoiltError`` for other bytes than the blob's."""
    if hashed.digest != blob.digest:
        raise SpoiltError(f"{origin}: {blob.digest} is damaged: its bytes hash to {hashed.digest}", hint=_HINT)


class _Kept:
    """A small blob, in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fill it."""
        buffer[:] = self._content[offset : offset + len(buffer)]

    def close(self) -> None:
        """Nothing."""


class _There:
    """Implements ``Bringing``: a blob that was hashed when it came, in the very file that is its partial now."""

    def __init__(self, chunks: ChunkMap) -> None:
        self.counters = Counters()
        self.step = Step.FETCHING
        self.done = chunks.size
        self.found = 0
        self.counters.received = chunks.size
        self._chunks = chunks

    async def run(self) -> ChunkMap:
        """Its map."""
        return self._chunks


class _Taking:
    """Implements ``Bringing``: copies, and hashes what the partial holds then."""

    def __init__(self, partial: Partial, source: Callable[[], Excerpt | _Kept], origin: Path) -> None:
        self._partial = partial
        self._source = source
        self._origin = origin
        self.counters = Counters()
        self.step = Step.FETCHING
        self.done = 0
        self.found = 0

    async def run(self) -> ChunkMap:
        """Take it, hash it, give its map. Raise ``SpoiltError`` for other bytes; nothing of it stays then."""
        try:
            hashed = await in_thread_stoppable(self._take)
            check(self._partial.blob, hashed, self._origin)
        except SpoiltError:
            await in_thread(self._partial.discard)
            raise
        return hashed.chunks

    def _take(self, cancelled: Callable[[], bool]) -> Hashed:
        source = self._source()

        def read(buffer: memoryview, offset: int) -> None:
            source.read(buffer, offset)
            self._partial.write((buffer,), offset)
            if self._partial.read_into(buffer, offset) != len(buffer):
                raise SpoiltError(f"{self._partial.path} was cut while it was written")

        try:
            return hash_file(read, self._partial.blob.size, on_bytes=self._advance, cancelled=cancelled)
        except HashingStoppedError as error:
            raise VerificationStoppedError(f"taking {self._partial.blob.digest} was stopped") from error
        finally:
            source.close()

    def _advance(self, count: int) -> None:
        self.done += count
        self.counters.received = self.done


def _unseen(_count: int) -> None:
    """Rarely needed, and soon done."""


def _never() -> bool:
    return False
