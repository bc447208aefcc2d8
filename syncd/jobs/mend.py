"""Mending, to its end: a damaged blob is repaired, or what names it is withdrawn, or left, as the settings say."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from syncd.aio import in_thread
from syncd.errors import SyncdError
from syncd.jobs.damage import Damage
from syncd.jobs.progress import BlobProgress
from syncd.jobs.pull import PullMeans
from syncd.jobs.repair import Repaired, UnmendableError, repair
from syncd.jobs.withdraw import Withdrawn, withdraw
from syncd.store.root import Store

log = structlog.get_logger()


class Fate(StrEnum):
    """What became of a damaged blob."""

    MENDED = "mended"
    QUARANTINED = "quarantined"  # nobody has its bytes: its models are out of sight
    KEPT = "kept"  # likewise, but the settings leave it as it is
    LATER = "later"  # a registry was out of reach, or the like: worth another try, and as it was but for ``withdrawn``


@dataclass(frozen=True, slots=True)
class Mending:
    """How it ended. ``repaired``: with MENDED; ``error``: why, with all the others.

    ``withdrawn``: with QUARANTINED, and with LATER where a withdrawal went half the way.
    """

    damage: Damage
    fate: Fate
    repaired: Repaired | None = None
    withdrawn: Withdrawn | None = None
    error: SyncdError | None = None

    @property
    def reason(self) -> str | None:
        """Why it is not whole, for people; and what is out of sight by now, where that is not all of it."""
        if self.error is None or self.withdrawn is None or self.withdrawn.stopped is None:
            return self.error.message if self.error else None
        gone = ", ".join(str(name) for name in self.withdrawn.models)
        return f"{gone} went to .syncd/quarantine already, the rest did not: {self.error.message}"


async def mend(
    store: Store,
    means: PullMeans,
    damage: Damage,
    *,
    keep: bool,
    report: Callable[[BlobProgress], None],
    ended: Callable[[Mending], None] = lambda _: None,
) -> Mending:
    """Repair it if anybody has its bytes. ``keep``: otherwise its models stay published. Raises no ``SyncdError``.

    ``ended`` hears how it ended, once, and of a withdrawal also if this is cancelled over it: others have to know.
    """
    how = await _mend(store, means, damage, keep=keep, report=report, withdrawn=ended)
    if how.withdrawn is None:
        ended(how)
    return how


async def _mend(
    store: Store,
    means: PullMeans,
    damage: Damage,
    *,
    keep: bool,
    report: Callable[[BlobProgress], None],
    withdrawn: Callable[[Mending], None],
) -> Mending:
    try:
        return Mending(damage, Fate.MENDED, repaired=await repair(store, means, damage, report))
    except UnmendableError as error:
        log.error(  # noqa: TRY400 - expected: no traceback
            "blob.unmendable",
            digest=str(damage.blob.digest),
            models=[str(name) for name in damage.models],
            error=error.message,
        )
        return await _give_up(store, damage, error, withdrawn, keep=keep)
    except SyncdError as error:
        log.warning("blob.not_mended", digest=str(damage.blob.digest), error=error.message)
        return Mending(damage, Fate.LATER, error=error)


async def _give_up(
    store: Store, damage: Damage, error: SyncdError, ended: Callable[[Mending], None], *, keep: bool
) -> Mending:
    heard: list[Mending] = []

    def taken(what: Withdrawn) -> None:
        if what.models or what.blob:
            fate = Fate.LATER if what.stopped else Fate.QUARANTINED
            heard.append(Mending(damage, fate, withdrawn=what, error=what.stopped or error))
            ended(heard[0])

    try:
        if keep:
            await in_thread(_discard, store, damage)
            return Mending(damage, Fate.KEPT, error=error)
        await withdraw(store, damage, taken)
    except SyncdError as failure:
        return heard[0] if heard else Mending(damage, Fate.LATER, error=failure)
    return heard[0] if heard else Mending(damage, Fate.MENDED, repaired=Repaired(damage.blob, (), 0, replaced=False))


def _discard(store: Store, damage: Damage) -> None:
    """Give back what a new file has taken: it is not to be.

    What is right is copied again at the next try, in a day: kept until then it would take the blob's size twice.
    """
    lock = store.locks.try_digest(damage.blob.digest)
    if lock is not None:
        with lock:
            store.blobs.partials.discard(damage.blob.digest)
