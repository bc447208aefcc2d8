"""What a pull needs of a registry, given by another store of this host: manifests, and files as they are taken."""

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path

import structlog

from syncd.aio import in_thread, in_thread_stoppable
from syncd.download.counters import Counters, Step
from syncd.download.journal import claimed_bytes
from syncd.errors import IntegrityError, NoSpaceError, NotAuthorisedError, SyncdError
from syncd.jobs.adoption import BlobPlan, Candidate, Find
from syncd.jobs.policy import NO_POLICY, Policy
from syncd.oci.chunks import ChunkMap
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor, Manifest
from syncd.oci.name import ModelName, Reference
from syncd.registry.found import FetchedManifest
from syncd.store.blobs import BlobStore, VerificationStoppedError
from syncd.store.hands import SourceDesk
from syncd.store.hashing import HashingStoppedError
from syncd.store.intake import Intake, SpoiltError, Way, check_source
from syncd.store.partial import Partial
from syncd.store.root import Store
from syncd.store.source_scan import Scan
from syncd.text import size

log = structlog.get_logger()


class KeptError(SyncdError):
    """Another version is published under the name, and stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptMeans:
    """What adopting works with. ``floor``: bytes of free space that are left to others. ``delete``: the sources go.

    ``policy``: which models may come in.
    """

    store: Store
    desk: SourceDesk
    floor: int
    delete: bool
    policy: Policy = NO_POLICY


class Shelf:
    """Implements ``ManifestSource``: one manifest, under one name, unless the store has another one there."""

    def __init__(self, store: Store, name: ModelName, manifest: Manifest, origin: str) -> None:
        self._store = store
        self._name = name
        self._found = FetchedManifest(manifest, origin)

    async def manifest(self, reference: Reference) -> FetchedManifest:
        """The source's manifest. Raise ``KeptError``. The pull publishes only over what lay there before it asked."""
        there = await in_thread(self._store.models.tag_digest, reference.name)
        if there not in {None, self._found.manifest.digest}:
            raise KeptError(
                f"{self._name}: the store has another version, {there}, and keeps it",
                hint=f"'syncd rm {self._name}' first, if the one to adopt is the one you want",
            )
        return self._found


class ForeignSupply:
    """Implements ``Supply``: the sources' files."""

    def __init__(
        self,
        blobs: Iterable[BlobPlan],
        scans: tuple[Scan, ...],
        means: AdoptMeans,
        spoilt: set[Candidate],
        counted: dict[Way, int],
    ) -> None:
        self._blobs = {blob.blob.digest: blob for blob in blobs}
        self._scans = scans
        self.means = means
        self._spoilt = spoilt
        self._counted = counted
        # Each hashes with two threads, and a disk that turns is best read one file after another.
        self._room = asyncio.Semaphore(max(1, min(4, len(os.sched_getaffinity(0)) // 2)))

    def is_lost(self, planned: BlobPlan) -> bool:
        """Whether every file that was to give this blob turned out wrong."""
        return planned.find is not Find.STORED and bool(planned.candidates) and self._candidate(planned) is None

    def needs_room(self, blob: Descriptor) -> bool:
        """Whether it will be copied; a link or a reflink takes no space."""
        candidate = self._candidate(self._blobs[blob.digest])
        return candidate is None or candidate.way is Way.COPY

    def stage(self, blobs: BlobStore, blob: Descriptor) -> Partial:
        """Open the partial. Raise ``SyncdError`` if no source has the bytes."""
        candidate = self._candidate(self._blobs[blob.digest])
        if candidate is None:
            raise IntegrityError(
                f"{blob.digest} is in no source as it should be",
                hint="the model's other blobs are in: 'syncd pull' fetches this one",
            )
        origin = self._scans[candidate.source].path / "blobs" / candidate.file
        try:
            return self._stage(blobs, blob, candidate, origin)
        except SpoiltError:
            self._spoilt.add(candidate)
            raise

    def blob(self, name: ModelName, partial: Partial) -> "_Taking":  # noqa: ARG002 - the protocol's
        """What takes it."""
        if not isinstance(partial, Intake):
            raise TypeError("a partial that was not opened here")
        return _Taking(partial, self._wrong, self._counted, self._room)

    def _candidate(self, planned: BlobPlan) -> Candidate | None:
        return next((one for one in planned.candidates if one not in self._spoilt), None)

    def _wrong(self, digest: Digest) -> None:
        candidate = self._candidate(self._blobs[digest])
        if candidate is not None:
            self._spoilt.add(candidate)

    def _stage(self, blobs: BlobStore, blob: Descriptor, candidate: Candidate, origin: Path) -> Intake:
        source = self._open(candidate, origin)
        try:
            _require_size(source, blob, origin)
            if claimed_bytes(blobs.partials.read_journal(blob.digest) or b"", blob):
                # An unfinished pull has fetched some of it: that is not given up for a file that may be wrong.
                check_source(blob, source, origin, on_bytes=_unseen, cancelled=_never)
            if candidate.way is Way.LINK:
                linked = self._linked(blob, source, candidate, origin)
                if linked is not None:
                    return linked
            self._refuse_if_full(blob, candidate)
            return self.means.store.intakes.copy(blob, source, origin, reflink=candidate.way is not Way.COPY)
        except BaseException:
            os.close(source)
            raise

    def _open(self, candidate: Candidate, origin: Path) -> int:
        try:
            return self.means.desk.open_blob(candidate.source, candidate.file)
        except NotAuthorisedError as error:
            raise NotAuthorisedError(f"{origin}: this user may not read it", hint="run it with sudo") from error
        except SyncdError as error:
            raise SpoiltError(f"{origin}: {error.message}") from error

    def _linked(self, blob: Descriptor, source: int, candidate: Candidate, origin: Path) -> Intake | None:
        desk, found = self.means.desk, os.fstat(source)
        inode = (found.st_dev, found.st_ino)
        try:
            before = desk.hand_over(candidate.source, candidate.file, inode)
        except SyncdError as error:
            log.info("adopt.not_linked", origin=str(origin), error=error.message)
            return None
        undo = bound(desk.give_back, candidate.source, candidate.file, inode, before)
        linked = None
        try:
            linked = self.means.store.intakes.link(blob, source, origin, undo)
        finally:
            if linked is None:
                undo()
        return linked

    def _refuse_if_full(self, blob: Descriptor, candidate: Candidate) -> None:
        """For a file that was to be linked, so that no room was asked for it before."""
        if candidate.way is Way.LINK and blob.size + self.means.floor > self.means.store.free_bytes():
            raise NoSpaceError(
                f"{blob.digest} cannot be linked, and to copy it {size(blob.size)} are needed",
                hint="run 'syncd gc --dry-run', or move the store",
            )


class _Taking:
    """Implements ``Bringing``."""

    def __init__(
        self, partial: Intake, wrong: Callable[[Digest], None], counted: dict[Way, int], room: asyncio.Semaphore
    ) -> None:
        self._room = room
        self._partial = partial
        self._wrong = wrong
        self._counted = counted
        self.counters = Counters()
        self.step = Step.FETCHING
        self.done = 0
        self.found = 0

    async def run(self) -> ChunkMap:
        """Take it, hash it, give its map. Raise ``SpoiltError`` where it is another's; nothing of it stays then."""
        digest = self._partial.blob.digest
        try:
            async with self._room:
                return await in_thread_stoppable(self._take)
        except SpoiltError:
            self._wrong(digest)
            if self._partial.way is not Way.LINK:
                await in_thread(self._partial.discard)
            raise

    def _take(self, cancelled: Callable[[], bool]) -> ChunkMap:
        try:
            hashed = self._partial.take(on_bytes=self._advance, cancelled=cancelled)
        except HashingStoppedError as error:
            raise VerificationStoppedError(f"taking {self._partial.blob.digest} was stopped") from error
        self.counters.received = self._partial.blob.size
        way = self._partial.way
        self._counted[way] = self._counted.get(way, 0) + self._partial.blob.size
        return hashed.chunks

    def _advance(self, count: int) -> None:
        self.done += count
        self.counters.received = self.done


def _require_size(source: int, blob: Descriptor, origin: Path) -> None:
    found = os.fstat(source).st_size
    if found != blob.size:
        raise SpoiltError(f"{origin} has {found} bytes, not {blob.size}")


def _unseen(_count: int) -> None:
    """Rarely needed, and soon done."""


def _never() -> bool:
    return False
