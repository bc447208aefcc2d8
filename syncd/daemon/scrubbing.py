"""The schedule of scrubs; a service. One that a daemon's end interrupts goes on in the next life."""

import asyncio
from collections.abc import Callable

import structlog

from syncd.api.scrub import scrub_info
from syncd.api.scrubbed import ScrubInfo
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.followed import Times
from syncd.daemon.integrity_settings import ScrubSettings
from syncd.daemon.reconcile import InForce
from syncd.errors import BusyError, SyncdError
from syncd.jobs.damage import Damage
from syncd.jobs.scrub import ScrubEars, ScrubWish, scrub
from syncd.jobs.scrub_book import ScrubBook
from syncd.oci.name import ModelName
from syncd.store.root import Store

log = structlog.get_logger()

_LOOK_EVERY = 60.0  # seconds: whether what was damaged still is
_AGAIN = 3600.0  # seconds until another try, after one that failed
_BUSY = 10.0  # seconds until another try, while somebody's own scrub runs
_FIRST = 600.0  # seconds within which the first one of a store begins
_JITTER = 0.1  # of the interval: hosts that began together do not read together for ever


def next_due(settings: ScrubSettings, last: float | None, now: float, chance: float) -> float | None:
    """When the next one is due (epoch). ``last``: when one ended; None: never. ``chance``: from 0 up to 1."""
    if settings.every is None:
        return None
    if last is None:
        return now + chance * min(_FIRST, settings.every)
    return min(last, now) + settings.every * (1 - _JITTER * chance)


class Scrubbing:
    """``run`` scrubs when it is time, at the rate that the settings say. ``book``: what all scrubs write in."""

    def __init__(
        self,
        store: Store,
        settings: InForce,
        book: ScrubBook,
        chronicle: Chronicle,
        *,
        times: Times,
        on_damage: Callable[[tuple[ModelName, ...]], None],
    ) -> None:
        """``on_damage``: hears which models are hit."""
        self._store = store
        self._settings = settings
        self._chronicle = chronicle
        self._times = times
        self._on_damage = on_damage
        self._woken = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self.book = book

    @property
    def _wished(self) -> ScrubSettings:
        return self._settings.current.settings.scrub

    def info(self) -> ScrubInfo:
        """For whoever asks how things are."""
        return scrub_info(self.book.state, every=self._wished.every, now=self.book.now)

    def poke(self) -> None:
        """Something has changed: look whether what was damaged still is."""
        self._woken.set()

    async def run(self) -> None:
        """It ends by cancellation, within a moment."""
        await self._plan(anew=False)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_settings(), name="settings of scrubs")
            while True:
                self._woken.clear()
                await self.book.reread()
                if self.book.state.due is None and self._wished.every is not None:
                    await self._plan(anew=True)  # somebody has scrubbed everything
                if self.book.state.damaged:
                    await self._review()
                due = self.book.state.due
                if due is not None and due <= self._times.wall():
                    await self._scrub()
                    continue
                rest = _LOOK_EVERY if due is None else due - self._times.wall()
                try:
                    async with asyncio.timeout(min(max(rest, 0.0), _LOOK_EVERY)):
                        await self._woken.wait()
                except TimeoutError:
                    continue

    async def _follow_settings(self) -> None:
        revision, known = self._settings.revision, self._wished
        while True:
            revision = await self._settings.changed(revision)
            if self._wished != known:
                if self._work is not None:
                    self._work.cancel()  # it goes on where it was, in the new way
                await self._plan(anew=self._wished.every != known.every)
                known = self._wished
                self.poke()

    async def _review(self) -> None:
        try:
            await self.book.review()
        except SyncdError as error:
            log.warning("scrub.not_reviewed", error=error.message)

    async def _plan(self, *, anew: bool) -> None:
        """When the next one is. What an earlier life had in mind stays, unless the settings or the clock moved."""
        wished, state, now = self._wished, self.book.state, self._times.wall()
        last = state.last.ended if state.last else None
        due = next_due(wished, last, now, self._times.random())
        if not anew and due is not None and state.due is not None and wished.every is not None:
            due = min(state.due, now + wished.every)
        await self.book.schedule(due)

    async def _scrub(self) -> None:
        """One scrub, or as much of it as there is time for until the settings change."""
        async with asyncio.TaskGroup() as group:
            self._work = group.create_task(self._whole(self._wished), name="scheduled scrub")
        self._work = None

    async def _whole(self, wished: ScrubSettings) -> None:
        log.info("scrub.begun", by="the schedule", goes_on=self.book.state.whole is not None)
        wish = ScrubWish(None, wished.max_rate)
        try:
            result = await scrub(self._store, wish, self.book, self._ears(), monotonic=self._times.monotonic)
        except BusyError:
            await self.book.schedule(self._times.wall() + _BUSY)
            return
        except SyncdError as error:
            log.error("scrub.failed", error=error.message, hint=error.hint)  # noqa: TRY400 - expected: no traceback
            await self._put_off(wished, error.message)
            return
        except Exception as error:  # a bug ends this scrub and not the daemon, which would meet it again at its start
            log.exception("scrub.crashed")
            await self._put_off(wished, f"unexpected {type(error).__name__}: {error}")
            return
        log.info(
            "store.scrubbed",
            by="the schedule",
            blobs=result.blobs,
            bytes=result.size,
            damaged=result.damaged,
            direct=result.direct,
        )
        self._chronicle.tell("scrub.ended", detail=f"{result.blobs} blobs, {result.damaged} damaged")
        await self.book.failed(None)
        await self._plan(anew=True)

    async def _put_off(self, wished: ScrubSettings, why: str) -> None:
        self._chronicle.tell("scrub.failed", detail=why)
        await self.book.failed(why)
        await self.book.schedule(self._times.wall() + min(_AGAIN, wished.every or _AGAIN))

    def _ears(self) -> ScrubEars:
        def found(damage: Damage) -> None:
            log.error(
                "scrub.damage",
                blob=str(damage.blob.digest),
                kind=damage.kind.value,
                models=[str(name) for name in damage.models],
                detail=damage.detail,
            )
            for name in damage.models:
                detail = f"{damage.kind.value}: {damage.blob.digest}"
                self._chronicle.tell("scrub.damage", name=str(name), detail=detail)
            self._on_damage(damage.models)

        return ScrubEars(
            progress=lambda _now: None,
            damage=found,
        )
