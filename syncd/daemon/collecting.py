"""The schedule of collections, and what is known of them; a service."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from syncd.aio import in_thread
from syncd.api.catalogue import rfc3339
from syncd.api.collected import CollectionInfo
from syncd.api.operation import ServersDesk
from syncd.daemon.reconcile import InForce
from syncd.daemon.rules import rules_of
from syncd.errors import SyncdError
from syncd.jobs.collect import collect, plan
from syncd.jobs.collection import CollectRules, Memories
from syncd.store import collected
from syncd.store.collected import CollectionNote
from syncd.store.root import Store

log = structlog.get_logger()

_LOOK_AT_LEAST_EVERY = 600.0  # seconds: what changed unnoticed
_LOOK_AT_MOST_EVERY = 5.0  # seconds
_TRY_AGAIN = 60.0  # seconds until a collection that was put off is tried again


@dataclass(frozen=True, slots=True)
class Known:
    """As of the last look. ``quarantine``: bytes there; ``reclaimable``: bytes that a collection would take."""

    note: CollectionNote = CollectionNote()  # noqa: RUF009 - frozen
    quarantine: int = 0
    reclaimable: int | None = None


class Collecting:
    """``run`` collects when it is time and no server is in the way; ``poke`` says that something has changed."""

    def __init__(
        self,
        store: Store,
        settings: InForce,
        servers: ServersDesk,
        *,
        clock: Callable[[], float],
        try_again: float = _TRY_AGAIN,
    ) -> None:
        """``clock``: seconds since the epoch. ``try_again``: seconds until another try, after one that was put off."""
        self._store = store
        self._settings = settings
        self._servers = servers
        self._clock = clock
        self._try_again = try_again
        self._woken = asyncio.Event()
        self._not_before = 0.0
        self._waiting: tuple[str, ...] = ()
        self.known = Known()

    def poke(self) -> None:
        """Look again soon."""
        self._woken.set()

    def info(self) -> CollectionInfo:
        """For whoever asks how things are."""
        note, every = self.known.note, self._settings.current.settings.collect.every
        return CollectionInfo(
            every=None if every is None else float(every),  # of float itself: JSON is made of no other
            last=rfc3339(note.completed) if note.completed else None,
            freed=note.freed,
            quarantine=self.known.quarantine,
            reclaimable=self.known.reclaimable,
            waiting=self._waiting,
        )

    async def run(self) -> None:
        """It ends by cancellation."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_settings(), name="schedule of collections")
            while True:
                self._woken.clear()
                await self._look()
                if self._is_due():
                    await self._collect()
                    await self._look()
                await asyncio.sleep(min(_LOOK_AT_MOST_EVERY, self._try_again))
                try:
                    async with asyncio.timeout(self._pause()):
                        await self._woken.wait()
                except TimeoutError:
                    pass

    async def _follow_settings(self) -> None:
        revision = self._settings.revision
        while True:
            revision = await self._settings.changed(revision)
            self.poke()

    def _due(self) -> float | None:
        every = self._settings.current.settings.collect.every
        if every is None:
            return None
        # Where the clock was set back, what was noted by it counts for nothing: it may be years ahead.
        now, last, put_off = self._clock(), self.known.note.completed, self._not_before
        return max(last + every if last <= now else 0.0, put_off if put_off <= now + self._try_again else 0.0)

    def _is_due(self) -> bool:
        due = self._due()
        if due is None:
            self._waiting = ()
        return due is not None and due <= self._clock()

    def _pause(self) -> float:
        due = self._due()
        rest = _LOOK_AT_LEAST_EVERY if due is None else max(due - self._clock(), 0.0)
        return min(rest, _LOOK_AT_LEAST_EVERY)

    @property
    def _rules(self) -> CollectRules:
        return rules_of(self._settings.current).collect

    def _memories(self) -> Memories:
        return Memories(loaded=self._servers.loaded(), doubts=self._servers.busy())

    async def _collect(self) -> None:
        """Unless a server is in the way: then it is tried again soon."""
        if doubts := self._servers.busy():
            self._put_off(doubts)
            return
        try:
            taken = await collect(self._store, now=self._clock(), rules=self._rules, memories=self._memories)
        except SyncdError as error:
            self._put_off((error.message,))
            return
        if taken.broken:
            self._put_off((f"manifests/{taken.broken[0].path} cannot be read: {taken.broken[0].problem}",))
        elif taken.doubts:
            self._put_off(taken.doubts)
        else:
            self._waiting = ()
        log.info("store.collected", by="the schedule", blobs=len(taken.blobs), bytes=taken.freed, doubts=taken.doubts)

    def _put_off(self, why: tuple[str, ...]) -> None:
        if why != self._waiting:
            log.info("collection.put_off", why=why)
        self._waiting = why
        self._not_before = self._clock() + self._try_again

    async def _look(self) -> None:
        try:
            self.known = await in_thread(self._seen, self._rules, self._memories())
        except SyncdError as error:
            log.warning("collection.not_looked", error=error.message)

    def _seen(self, rules: CollectRules, memories: Memories) -> Known:
        planned = plan(self._store, self._clock(), rules=rules, memories=memories)
        return Known(
            note=collected.read(self._store.state),
            quarantine=sum(one.size for one in self._store.sweep.quarantined()),
            reclaimable=None if planned.broken else planned.freed + planned.freed_later,
        )
