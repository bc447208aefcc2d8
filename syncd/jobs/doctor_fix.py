"""What ``syncd doctor --fix`` does: a plan made of findings, and its execution. Nothing is deleted but empty folders.

What is renamed away goes under the exclusive references lock, and what has a name or a digest under that one's lock, so
no pull, publication or collection is at it. Killed in between, the next look finds what is left to do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from enum import IntEnum

import structlog

from syncd.aio import entered, in_thread
from syncd.errors import BusyError, IntegrityError, SyncdError
from syncd.jobs import doctor_kinds as kinds
from syncd.jobs.damage import Damage
from syncd.jobs.doctor_exam import Finding
from syncd.jobs.mend import Fate, Mending
from syncd.jobs.restore import Restoration, restore
from syncd.jobs.rules import Rules
from syncd.oci.name import ModelName
from syncd.store.check import BlobCheck, Verdict
from syncd.store.locks import Lock
from syncd.store.root import Store
from syncd.store.trees import Spot

log = structlog.get_logger()

_WAIT = 10.0  # seconds for the references lock, which others hold for a moment only
_SLICE_BYTES = 32 * 1024 * 1024  # that are hashed at a time: a cancellation waits for one slice


class Action(IntEnum):
    """What is done about a finding, in the order in which it is: what is closed first, then what others show."""

    SET_MODE = 0
    RESTORE = 1
    RENAME = 2
    TAKE = 3
    REMOVE = 4
    MEND = 5


_ACTIONS = {
    kinds.NOT_READABLE: Action.SET_MODE,
    kinds.WRITABLE: Action.SET_MODE,
    kinds.EMPTY_MANIFEST: Action.RESTORE,
    kinds.BROKEN_MANIFEST: Action.RESTORE,
    kinds.COLON: Action.RENAME,
    kinds.STRAY_FILE: Action.TAKE,
    kinds.STRAY_FOLDER: Action.TAKE,
    kinds.UNFINISHED: Action.TAKE,
    kinds.SPECIAL_FILE: Action.TAKE,
    kinds.DEAD_LINK: Action.TAKE,
    kinds.EMPTY_FOLDER: Action.REMOVE,
    kinds.MISSING_BLOB: Action.MEND,
    kinds.DAMAGED_BLOB: Action.MEND,
}


@dataclass(frozen=True, slots=True)
class Remedy:
    """One step of a plan."""

    action: Action
    finding: Finding

    @property
    def words(self) -> str:
        """What it does."""
        return self.finding.kind.fix or ""


@dataclass(frozen=True, slots=True)
class Treated:
    """How a step ended. ``what``: in words. ``names``: models that hold something else than before."""

    remedy: Remedy
    done: bool
    what: str
    names: tuple[ModelName, ...] = ()


def plan(findings: Iterable[Finding]) -> tuple[Remedy, ...]:
    """What can be done about these without losing anything, in that order. Pure."""
    found = (Remedy(_ACTIONS[one.kind], one) for one in findings if one.mends)
    return tuple(sorted(found, key=lambda one: (one.action, one.finding.subject)))


@dataclass(frozen=True, slots=True)
class Treatment:
    """Executes a plan. ``mend``: repairs a damaged blob, or leaves it as it is."""

    store: Store
    rules: Rules
    mend: Callable[[Damage], Awaitable[Mending]]

    async def give(self, remedy: Remedy) -> Treated:
        """One step, done as far as it can be now. Raises no ``SyncdError``: that is how the step ended."""
        try:
            treated = await self._give(remedy)
        except SyncdError as error:
            treated = Treated(remedy, done=False, what=error.message)
        log.info(
            "doctor.treated",
            finding=remedy.finding.kind.id,
            subject=remedy.finding.subject,
            done=treated.done,
            what=treated.what,
        )
        return treated

    async def _give(self, remedy: Remedy) -> Treated:
        spot, damage = remedy.finding.spot, remedy.finding.damage
        if damage is not None:
            return await self._mended(remedy, damage)
        if spot is None:
            raise ValueError(f"{remedy.finding.kind.id} says nothing of what is to be mended")
        match remedy.action:
            case Action.SET_MODE:
                done = await in_thread(self.store.trees.set_mode, spot)
                return _changed(remedy, f"its mode is {spot.right_mode:04o} now", done=done)
            case Action.RESTORE:
                return await self._restored(remedy, spot)
            case Action.RENAME:
                return await self._renamed(remedy, spot)
            case Action.REMOVE:
                with await _alone(self.store):
                    await in_thread(self.store.models.remove_empty_folders)
                return Treated(remedy, done=True, what="removed")
        return await self._taken(remedy, spot)

    async def _taken(self, remedy: Remedy, spot: Spot) -> Treated:
        """Into quarantine, whatever it is."""
        lock: Lock | None = None
        if spot.name is not None:
            lock = _got(self.store.locks.try_name(spot.name), str(spot.name))
        elif spot.digest is not None:
            lock = _got(self.store.locks.try_digest(spot.digest), str(spot.digest))
        with lock or nullcontext(), await _alone(self.store):
            done = await in_thread(self._take, spot)
        return _changed(remedy, f"moved to {self.store.quarantine.path}", done=done)

    def _take(self, spot: Spot) -> bool:
        done = self.store.trees.take(spot)
        self.store.models.remove_empty_folders()
        return done

    async def _restored(self, remedy: Remedy, spot: Spot) -> Treated:
        """The version that should lie there, or the broken one out of sight."""
        name = spot.name
        if name is None:
            return await self._taken(remedy, spot)
        held = await in_thread(self.store.holds.of, name)
        pin = self.rules.pin_of(name) or (None if held is None else held.manifest.digest)
        match await restore(self.store, name, pin):
            case Restoration.RESTORED | Restoration.INTACT:
                return Treated(remedy, done=True, what="what was published is back", names=(name,))
            case Restoration.BUSY:
                raise BusyError(f"{name} is being pulled or removed")
        lock = _got(self.store.locks.try_name(name), str(name))
        with lock, await _alone(self.store) as held_lock:
            done = await in_thread(self._set_aside, name, held_lock)
        what = f"moved to {self.store.quarantine.path}; 'syncd pull {name}' brings the model again"
        treated = _changed(remedy, what, done=done)
        return Treated(remedy, treated.done, treated.what, names=(name,))

    def _set_aside(self, name: ModelName, held: Lock) -> bool:
        try:
            self.store.models.read(name)
        except IntegrityError:
            return self.store.quarantine.take_manifest(name.parts, held=held)
        return False  # whole by now, or gone

    async def _renamed(self, remedy: Remedy, spot: Spot) -> Treated:
        """To its right name if its bytes are right and nothing has that name; else into quarantine."""
        async with entered(_opened, self.store, spot) as check:
            right = check is not None and await _is_right(check)
        if right and spot.digest is not None:
            with _got(self.store.locks.try_digest(spot.digest), str(spot.digest)), await _alone(self.store):
                if await in_thread(self.store.trees.name_right, spot):
                    return Treated(remedy, done=True, what=f"its name is {spot.path[-1].replace(':', '-')} now")
        return await self._taken(remedy, spot)

    async def _mended(self, remedy: Remedy, damage: Damage) -> Treated:
        ended = await self.mend(damage)
        if ended.fate is Fate.MENDED:
            return Treated(remedy, done=True, what="it is whole")
        return Treated(remedy, done=False, what=ended.error.message if ended.error else ended.fate.value)


async def _is_right(check: BlobCheck) -> bool:
    while await in_thread(check.step, _SLICE_BYTES):
        pass
    return await in_thread(check.verdict) is Verdict.RIGHT


def _opened(store: Store, spot: Spot) -> "BlobCheck | nullcontext[None]":
    return store.trees.open_check(spot) or nullcontext()


def _changed(remedy: Remedy, what: str, *, done: bool) -> Treated:
    return Treated(remedy, done, what if done else "something else lies there by now")


def _got(lock: Lock | None, what: str) -> Lock:
    if lock is None:
        raise BusyError(f"somebody works on {what}", hint="run it again later")
    return lock


async def _alone(store: Store) -> Lock:
    try:
        async with asyncio.timeout(_WAIT):
            return await store.locks.references(shared=False)
    except TimeoutError as error:
        raise BusyError(f"{store.path}: other processes change it without a pause", hint="run it again") from error
