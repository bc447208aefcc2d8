"""The book of scrubs: how far they have come, on disk and for whoever asks now, and which blobs are damaged."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog
from msgspec.structs import replace as changed

from syncd.aio import in_thread
from syncd.errors import InvalidNameError, SyncdError
from syncd.jobs.damage import Damage, DamageKind, users_now
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store import scrubs
from syncd.store.blobs import BlobStatus
from syncd.store.os_errors import NotAFileError
from syncd.store.root import Store
from syncd.store.scrubs import Finished, FoundDamage, ScrubState, Underway

log = structlog.get_logger()

UNNAMED = "application/octet-stream"
"""The media type of a blob that no model is asked about."""

_SAVE_EVERY = 5.0  # seconds: what a killed scrub reads again


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """``done`` of ``total`` bytes are read, in ``blobs_done`` of ``blobs`` blobs; ``damaged`` of them are.

    ``buffered``: blobs that were read through the page cache, since their file system knows no O_DIRECT.
    """

    done: int
    total: int
    blobs_done: int
    blobs: int
    damaged: int
    buffered: int


class ScrubBook:
    """Of one store. One scrub at a time writes in it; ``state`` and ``now`` are for everybody, on the loop.

    ``read``: bytes so far in this process, ``faults``: by kind, likewise.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """``clock``: seconds since the epoch. Blocks for a moment."""
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._saved = monotonic()
        self._seen = monotonic()
        self.state: ScrubState = scrubs.load(store.state)
        self.now: ScrubProgress | None = None
        self.read = 0
        self.faults: Counter[DamageKind] = Counter()

    # One scrub

    async def begin(self, names: Sequence[ModelName] | None, *, anew: bool) -> Underway:
        """The scrub of these models that was interrupted, unless it is to begin ``anew``, or a new one."""
        self.state = await in_thread(scrubs.load, self._store.state)
        wanted = None if names is None else tuple(sorted(name.qualified for name in names))
        found = self.state.whole if wanted is None else self.state.part
        if anew or found is None or found.names != wanted:
            found = Underway(names=wanted, begun=self._clock())
        self._seen = self._saved = self._monotonic()
        self._put(found)
        return found

    async def go_on(self, underway: Underway, *, at_once: bool = False) -> Underway:
        """It has come this far; on disk every few seconds, or ``at_once``."""
        now = self._monotonic()
        underway = changed(underway, seconds=underway.seconds + now - self._seen)
        self._seen = now
        self._put(underway)
        if at_once or now - self._saved >= _SAVE_EVERY:
            self._saved = now
            await self.save()
        return underway

    def count(self, size: int) -> None:
        """So many bytes more were read."""
        self.read += size

    def damage(self, found: Damage) -> None:
        """A damaged blob."""
        self.faults[found.kind] += 1
        self._drop({str(found.blob.digest)}, found.blob.size)
        self._change(damaged=(*self.state.damaged, _noted(found, self._clock())))

    def right(self, blob: Descriptor) -> None:
        """A blob that was read and is right, or that was mended."""
        self._drop({str(blob.digest)}, blob.size)

    async def finish(self, underway: Underway, *, models: int, progress: ScrubProgress) -> Finished:
        """It has come to its end. One of everything counts as the last one, whoever wanted it: the next is not due."""
        ended = Finished(
            begun=underway.begun,
            ended=self._clock(),
            seconds=underway.seconds,
            models=models,
            blobs=progress.blobs,
            size=progress.total,
            buffered=progress.buffered,
            damaged=progress.damaged,
        )
        self.now = None  # at once, and not when it is on disk: nobody sees it both ended and running
        if underway.names is None:
            self._change(whole=None, last=ended, due=None, failure=None)
        else:
            self._change(part=None)
        await self.save()
        return ended

    # What others note

    async def schedule(self, due: float | None) -> None:
        """When the next one is due (epoch); None: nobody has one in mind."""
        if due != self.state.due:
            self._change(due=due)
            await self.save()

    async def failed(self, why: str | None) -> None:
        """What a scheduled one failed with; None: it did not."""
        if why != self.state.failure:
            self._change(failure=why)
            await self.save()

    async def reread(self) -> None:
        """Take over what a process of its own has finished meanwhile, such as a scrub that met a daemon's start."""
        found = await in_thread(scrubs.load, self._store.state)
        if self.now is None and found.last is not None and _later(found.last, self.state.last):
            self.state = found  # unless a scrub has begun here: it has read the same

    async def review(self) -> None:
        """Forget damages that are none any more: a pull or a repair has mended the blob, or no model names it."""
        before = self.state
        found = await in_thread(reviewed, self._store, before)
        gone = [one for one in before.damaged if one not in found.damaged]
        for one in gone:
            self._drop({one.digest}, one.size)
        if gone:
            await self.save()

    async def save(self) -> None:
        """Now. A disk that is full, or read-only, keeps nobody from reading on."""
        try:
            await in_thread(scrubs.save, self._store.state, self.state)
        except SyncdError as error:
            log.warning("scrub.not_noted", error=error.message)

    def _put(self, underway: Underway) -> None:
        self._change(**{"whole" if underway.names is None else "part": underway})

    def _drop(self, digests: set[str], size: int) -> None:
        kept = tuple(one for one in self.state.damaged if one.digest not in digests or one.size != size)
        if len(kept) != len(self.state.damaged):
            self._change(damaged=kept)

    def _change(self, **fields: object) -> None:
        self.state = changed(self.state, **fields)


def _later(one: Finished, other: Finished | None) -> bool:
    return other is None or one.ended > other.ended


def damage_of(found: FoundDamage) -> Damage:
    """A damage as it was noted."""
    return Damage(
        Descriptor(found.media_type, Digest.parse(found.digest), found.size),
        DamageKind(found.kind),
        found.chunks,
        tuple(_names(found.models)),
        found.detail,
    )


def _names(texts: Sequence[str]) -> list[ModelName]:
    names = []
    for text in texts:
        try:
            names.append(ModelName.parse(text))
        except InvalidNameError:
            log.warning("scrub.not_a_name", name=text)
    return names


def _noted(found: Damage, now: float) -> FoundDamage:
    return FoundDamage(
        digest=str(found.blob.digest),
        size=found.blob.size,
        media_type=found.blob.media_type,
        kind=found.kind.value,
        chunks=found.chunks,
        models=tuple(name.qualified for name in found.models),
        detail=found.detail,
        found=now,
    )


def reviewed(store: Store, state: ScrubState) -> ScrubState:
    """``state`` without damages that are none any more. Blocks; raise ``SyncdError``."""
    return changed(state, damaged=tuple(one for one in state.damaged if still_damaged(store, one)))


def still_damaged(store: Store, found: FoundDamage) -> bool:
    """Whether a model still names the blob, and it does not count as stored. Blocks."""
    damage = damage_of(found)
    try:
        status, in_place = store.blobs.look(damage.blob)
    except NotAFileError:
        return True  # a link or the like lies where the blob should
    if status is BlobStatus.STORED and in_place:
        return False
    return bool(users_now(store, damage.blob, damage.models))


def count_mended(store: Store, found: Iterable[Digest], damages: Iterable[Damage]) -> int:
    """How many that were ``found`` damaged, and are not among ``damages``, are in place and right now. Blocks.

    The rest are not damages only because no model names them any more.
    """
    damaged = {damage.blob.digest for damage in damages}
    return sum(_is_right(store, digest) for digest in found if digest not in damaged)


def _is_right(store: Store, digest: Digest) -> bool:
    record = store.records.get(digest)
    if record is None:
        return False
    try:
        status, in_place = store.blobs.look(Descriptor(UNNAMED, digest, record.chunks.size))
    except NotAFileError:
        return False
    return status is BlobStatus.STORED and in_place
