"""Scrub: read every blob over, from the disk itself, slowly enough, and find what has rotted.

A size and an mtime prove nothing here: a file whose identity is that of its record is read all the same.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace

import structlog
from msgspec.structs import replace as changed

from syncd.aio import entered, in_thread, in_thread_stoppable
from syncd.download.pace import RateLimit
from syncd.errors import BusyError, SyncdError
from syncd.jobs.damage import Damage, DamageKind, users_now
from syncd.jobs.scrub_book import UNNAMED, ScrubBook, ScrubProgress, damage_of
from syncd.jobs.verdicts import blob_lock, conclude, detail_of
from syncd.jobs.verify import named, users_of
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.check import Verdict
from syncd.store.direct import BLOCK_BYTES, DirectReader
from syncd.store.layout import BLOBS, blob_file, digest_of_file
from syncd.store.models import StoredModel
from syncd.store.os_errors import NotAFileError
from syncd.store.root import Store
from syncd.store.scrutiny import Scrutiny

log = structlog.get_logger()

_STEP_BYTES = 4 * BLOCK_BYTES  # a cancellation waits for one block of it
_STEP_SECONDS = 0.25  # of a given rate: what is read at once is not much more than what may be read
_ATTEMPTS = 3
_KINDS = {
    Verdict.WRONG_SIZE: DamageKind.WRONG_SIZE,
    Verdict.WRONG_BYTES: DamageKind.WRONG_BYTES,
    Verdict.UNREADABLE: DamageKind.UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class ScrubWish:
    """``names``: None means all. ``rate``: bytes a second; None: as fast as the disk. ``anew``: from the beginning."""

    names: Sequence[ModelName] | None
    rate: float | None
    anew: bool = False


@dataclass(frozen=True, slots=True)
class ScrubEars:
    """Who hears of it, on the loop."""

    progress: Callable[[ScrubProgress], None]
    damage: Callable[[Damage], None]


@dataclass(frozen=True, slots=True)
class ScrubResult:
    """What was read (``size`` in bytes), by all lives of this scrub. ``found``: the blobs that it found damaged.

    ``damages``: those that are so yet, and hit a model. ``resumed``: it went on where another was interrupted.
    ``buffered``: blobs that were read through the page cache.
    """

    models: int
    blobs: int
    size: int
    buffered: int
    resumed: bool
    found: tuple[Digest, ...]
    damages: tuple[Damage, ...]

    @property
    def damaged(self) -> int:
        """How many it found damaged."""
        return len(self.found)

    @property
    def direct(self) -> bool:
        """Whether everything was read from the disk itself."""
        return self.buffered == 0


async def scrub(
    store: Store, wish: ScrubWish, book: ScrubBook, ears: ScrubEars, *, monotonic: Callable[[], float]
) -> ScrubResult:
    """Read every blob of the models over. Raise ``BusyError`` while another does, ``NotFoundError`` for no model.

    What is damaged counts as stored no longer. Cancelled or killed, the next one of the same models goes on there.
    """
    lock = store.locks.try_scrub()
    if lock is None:
        raise BusyError("a scrub is running already", hint="'syncd status' shows how far it is")
    with lock, DirectReader() as reader:
        run = _Run(store, wish, book, ears, reader, RateLimit(wish.rate, monotonic))
        try:
            return await run.all()
        finally:
            book.now = None


class _Run:
    """One life of a scrub."""

    def __init__(
        self, store: Store, wish: ScrubWish, book: ScrubBook, ears: ScrubEars, reader: DirectReader, limit: RateLimit
    ) -> None:
        self._store = store
        self._wish = wish
        self._book = book
        self._ears = ears
        self._reader = reader
        self._limit = limit
        self._buffered = False  # of the blob at hand
        self._step = _STEP_BYTES
        if wish.rate is not None:
            self._step = int(min(_STEP_BYTES, max(BLOCK_BYTES, wish.rate * _STEP_SECONDS)))

    async def all(self) -> ScrubResult:
        models = await in_thread(named, self._store, self._wish.names)
        users = users_of(models)
        if self._wish.names is None:
            users |= await in_thread(_kept, self._store, {blob.digest for blob in users})
        blobs = sorted(users, key=_place)
        self._underway = await self._book.begin(self._wish.names, anew=self._wish.anew)
        place = (self._underway.digest, self._underway.size)
        done = [blob for blob in blobs if _place(blob) < place]
        resumed = bool(self._underway.digest)
        self._progress = ScrubProgress(
            done=sum(blob.size for blob in done),
            total=sum(blob.size for blob in blobs),
            blobs_done=len(done),
            blobs=len(blobs),
            damaged=len(self._underway.damaged),
            buffered=self._underway.buffered,
        )
        self._show()
        try:
            for blob in blobs[len(done) :]:
                await self._blob(blob, users[blob])
        except BaseException:
            await self._book.go_on(self._underway, at_once=True)
            raise
        await self._book.review()
        await self._book.finish(self._underway, models=len(models), progress=self._progress)
        damages = tuple(damage_of(one) for one in self._book.state.damaged if one.digest in self._underway.damaged)
        return ScrubResult(
            models=len(models),
            blobs=len(blobs),
            size=self._progress.total,
            buffered=self._progress.buffered,
            resumed=resumed,
            found=tuple(map(Digest.parse, self._underway.damaged)),
            damages=damages,
        )

    async def _blob(self, blob: Descriptor, users: Sequence[StoredModel]) -> None:
        before = self._progress
        if _place(blob) != (self._underway.digest, self._underway.size):
            self._underway = changed(self._underway, digest=blob.digest.hex, size=blob.size, chunk=0, identity=None)
        self._buffered = False
        damage = await self._judge(blob, tuple(model.name for model in users))
        if self._buffered:
            self._note_way()
        if damage is None:
            self._book.right(blob)
        else:
            self._found(damage)
        # The place after it: nothing lies between a blob and the same digest with one byte more.
        self._underway = await self._book.go_on(
            changed(self._underway, size=blob.size + 1, chunk=0, identity=None, buffered=self._progress.buffered)
        )
        self._progress = replace(self._progress, done=before.done + blob.size, blobs_done=before.blobs_done + 1)
        self._show()

    def _found(self, damage: Damage) -> None:
        self._book.damage(damage)
        self._underway = changed(self._underway, damaged=(*self._underway.damaged, str(damage.blob.digest)))
        self._progress = replace(self._progress, damaged=len(self._underway.damaged))
        self._ears.damage(damage)

    async def _judge(self, blob: Descriptor, users: tuple[ModelName, ...]) -> Damage | None:
        """What is wrong with what lies in ``blobs/``, if anything, and with what only ``keep/`` has of no model's."""
        found = await self._look(blob)
        if found is None:
            return None
        kind, chunks, detail = found
        hit = await in_thread(users_now, self._store, blob, users)
        return Damage(blob, kind, chunks, hit, detail) if hit else None

    async def _look(self, blob: Descriptor) -> tuple[DamageKind, tuple[int, ...] | None, str] | None:
        where = self._store.path / BLOBS / blob_file(blob.digest)
        attempts, whole = 0, False
        try:
            while attempts < _ATTEMPTS:
                async with self._opening(blob, whole) as check:
                    if check is None:
                        return DamageKind.MISSING, None, f"{where} is not there"
                    await self._read(check)
                    if check.suspect:
                        whole = True  # the map and the disk disagree: SHA-256 decides
                        continue
                    verdict = await self._concluded(check)
                    self._buffered = bool(check.done) and not check.direct
                if verdict is Verdict.RIGHT or (verdict is Verdict.CHANGED and check.right):
                    return None
                if verdict is not Verdict.CHANGED:
                    return _KINDS[verdict], check.damaged(), f"{where}: {detail_of(verdict, check)}"
                attempts += 1
        except NotAFileError as error:
            return DamageKind.MISSING, None, error.message
        except SyncdError as error:
            return DamageKind.UNREADABLE, None, error.message
        return DamageKind.WRONG_BYTES, None, f"{where} is being written to by somebody else"

    async def _concluded(self, check: Scrutiny) -> Verdict:
        if check.by_map and check.right:
            return Verdict.RIGHT  # what is known of it is still so
        with await blob_lock(self._store, check.blob.digest) or nullcontext() as lock:
            return await in_thread(_concluded, self._store, check, locked=lock is not None)

    @asynccontextmanager
    async def _opening(self, blob: Descriptor, whole: bool) -> AsyncIterator[Scrutiny | None]:
        async with entered(self._opened, blob, whole) as check:
            try:
                yield check
            finally:
                if check is not None:
                    await in_thread(check.close)  # waits for the reads under way, on a bad disk for long

    def _opened(self, blob: Descriptor, whole: bool) -> AbstractContextManager[Scrutiny | None]:
        nobodys = blob.media_type == UNNAMED
        check = self._store.blobs.open_scrutiny(blob, self._reader, whole=whole, kept=nobodys)
        if check is not None and check.by_map and self._underway.identity == check.before:
            check.skip_to(self._underway.chunk)
        return check or nullcontext()

    async def _read(self, check: Scrutiny) -> None:
        """To its end, or until it is suspect; the place is noted on the way."""
        before = self._progress
        while count := await in_thread_stoppable(lambda stopped: check.step(self._step, stopped)):
            self._book.count(count)
            self._progress = replace(before, done=before.done + check.done)
            self._show()
            if check.by_map and not check.suspect:
                self._underway = changed(self._underway, chunk=check.done // CHUNK_SIZE, identity=check.before)
            self._underway = await self._book.go_on(changed(self._underway, read=self._underway.read + count))
            await self._limit.spend(count)
        self._progress = before

    def _note_way(self) -> None:
        if not self._progress.buffered:
            log.warning("scrub.buffered", store=str(self._store.path), why="no O_DIRECT on this file system")
        self._progress = replace(self._progress, buffered=self._progress.buffered + 1)

    def _show(self) -> None:
        self._book.now = self._progress
        self._ears.progress(self._progress)


def _kept(store: Store, named: set[Digest]) -> dict[Descriptor, list[StoredModel]]:
    """Blobs that no model names now, and that count as stored: a rollback or a pull would take them as they are."""
    found: dict[Descriptor, list[StoredModel]] = {}
    names = store.sweep.names()
    for file in names.all - names.unrecorded:
        digest = digest_of_file(file)
        record = None if digest is None or digest in named else store.records.get(digest)
        if digest is not None and record is not None:
            found[Descriptor(UNNAMED, digest, record.chunks.size)] = []
    return found


def _place(blob: Descriptor) -> tuple[str, int]:
    return blob.digest.hex, blob.size


def _concluded(store: Store, check: Scrutiny, *, locked: bool) -> Verdict:
    if not store.blobs.in_place(check):
        return Verdict.CHANGED  # another file has its name by now: a pull, a repair, an outside Ollama
    return conclude(store, check, locked=locked)
