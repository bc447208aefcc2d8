"""What is known to be damaged, mended by the daemon itself; a service.

What a verification or a scrub found wrong is on the disk (``store.records``), so that a daemon that dies over a repair
goes on with it in its next life. A registry that is out of reach is asked again, ever more seldom.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import msgspec
import structlog

from syncd.aio import in_thread
from syncd.api.catalogue import rfc3339
from syncd.api.operation import Desk
from syncd.api.repair import mend
from syncd.api.repairs import WaitingRepair
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.desired import backoff
from syncd.daemon.followed import Times
from syncd.daemon.reconcile import InForce
from syncd.errors import SyncdError
from syncd.jobs.damage import Damage, DamageKind
from syncd.jobs.mend import Fate, Mending
from syncd.jobs.repair import survey
from syncd.oci.digest import Digest
from syncd.store.root import Store
from syncd.text import printable

log = structlog.get_logger()

_KEPT_AGAIN = 24 * 3600.0  # seconds: what nobody had yesterday somebody may have today
_LOOK_EVERY = 600.0  # seconds: what others have mended

_Key: TypeAlias = tuple[Digest, int]
"""A digest and a size. Two manifests may give one digest two sizes: one of them lies, and hides no other's damage."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A damage and what came of it. ``retry_at``: on the monotonic clock; ``epoch``: the same, for people."""

    damage: Damage
    failures: int = 0
    retry_at: float = 0.0
    epoch: float = 0.0
    reason: str | None = None


class Repairs:
    """``poke``: something was found. For one event loop."""

    def __init__(
        self,
        store: Store,
        settings: InForce,
        desk: Callable[[], Desk],
        chronicle: Chronicle,
        *,
        times: Times | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._desk = desk
        self._chronicle = chronicle
        self._times = times or Times()
        self._woken = asyncio.Event()
        self._found = False
        self._known: dict[_Key, _Known] = {}
        self.quarantined = 0
        """Blobs whose models were withdrawn in this life."""

    # What others ask and tell

    def poke(self) -> None:
        """Something was found to be damaged: look which models are hit, and mend them."""
        self._found = True
        self._woken.set()

    def ended(self, how: Mending) -> None:
        """A damaged blob was mended, or could not be, whoever wanted it."""
        blob, models = how.damage.blob, ", ".join(str(name) for name in how.damage.models)
        self._chronicle.tell(f"blob.{how.fate.value}", name=models, detail=str(blob.digest))
        self.quarantined += how.fate is Fate.QUARANTINED
        key = _key(how.damage)
        if how.fate in {Fate.MENDED, Fate.QUARANTINED}:
            self._known.pop(key, None)
            return
        moment = self._times.now()
        failures = self._known[key].failures + 1 if key in self._known else 1
        wait = _KEPT_AGAIN if how.fate is Fate.KEPT else backoff(failures, self._times.random())
        self._known[key] = _Known(how.damage, failures, moment.now + wait, moment.epoch + wait, how.reason)

    def waiting(self) -> tuple[WaitingRepair, ...]:
        """What is damaged as far as anybody knows."""
        return tuple(self._told(one) for one in self._known.values())

    # The service

    async def run(self) -> None:
        """It ends by cancellation, and the next life goes on."""
        await self._look(found_only=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_settings(), name="settings of repairs")
            while True:
                self._woken.clear()
                await self._mend_due()
                try:
                    async with asyncio.timeout(self._pause()):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                found, self._found = self._found, False
                await self._look(found_only=not found)

    async def _follow_settings(self) -> None:
        revision = self._settings.revision
        while True:
            revision = await self._settings.changed(revision)
            self._known = {key: replace(one, retry_at=0.0) for key, one in self._known.items()}
            self._woken.set()

    @property
    def _wanted(self) -> bool:
        return self._settings.current.settings.scrub.repair

    def _pause(self) -> float:
        if not self._wanted:
            return _LOOK_EVERY
        now = self._times.monotonic()
        return min((max(0.0, one.retry_at - now) for one in self._known.values()), default=_LOOK_EVERY)

    async def _look(self, *, found_only: bool) -> None:
        """What is damaged now; ``found_only``: of what is new, only what was read and found wrong.

        What is known already stays known until it is whole, however it was found.
        """
        try:
            damages = await in_thread(survey, self._store, None)
        except SyncdError as error:
            log.warning("repairs.not_looked", error=error.message)
            return
        before, self._known = self._known, {}
        for damage in damages:
            digest, key = damage.blob.digest, _key(damage)
            if key in before:
                self._known[key] = replace(before[key], damage=damage)
            elif not found_only or damage.kind is DamageKind.WRONG_BYTES:
                self._known[key] = _Known(damage)
                log.error("blob.damaged", digest=str(digest), models=[str(name) for name in damage.models])
                self._chronicle.tell("blob.damaged", name=str(damage.models[0]), detail=str(digest))

    async def _mend_due(self) -> None:
        for known in tuple(self._known.values()):
            if self._wanted and known.retry_at <= self._times.monotonic():
                await self._mend(known)

    async def _mend(self, known: _Known) -> None:
        try:
            await mend(self._desk(), (known.damage,), _unseen)
        except SyncdError as error:
            self.ended(Mending(known.damage, Fate.LATER, error=error))
        except Exception as error:  # a bug over one blob is no reason to leave the others: design, "Concurrency"
            log.exception("repair.crashed", digest=str(known.damage.blob.digest))
            what = SyncdError(f"unexpected {type(error).__name__}: {error}")
            self.ended(Mending(known.damage, Fate.LATER, error=what))

    def _told(self, known: _Known) -> WaitingRepair:
        blob = known.damage.blob
        return WaitingRepair(
            digest=str(blob.digest),
            size=blob.size,
            models=tuple(str(name) for name in known.damage.models),
            detail=printable(known.damage.detail),
            reason=None if known.reason is None else printable(known.reason),
            next_try=rfc3339(known.epoch or self._times.wall()) if self._wanted else None,
        )


def _key(damage: Damage) -> _Key:
    return damage.blob.digest, damage.blob.size


def _unseen(_line: msgspec.Struct) -> None:
    """Nobody follows what the daemon does by itself: ``Repairs.ended`` tells how it ended."""
