"""What is done to a store, each act by name and with plain arguments, so that a process of its own can do it."""

import asyncio
import time
from pathlib import Path

import structlog

from syncd.errors import SyncdError
from syncd.jobs.collect import collect
from syncd.jobs.collection import CollectRules
from syncd.jobs.mend import Fate, mend
from syncd.jobs.policy import NO_POLICY
from syncd.jobs.pull import pull
from syncd.jobs.remove import remove
from syncd.jobs.repair import survey
from syncd.jobs.restore import restore
from syncd.jobs.rollback import plan, roll_back
from syncd.jobs.scrub import ScrubEars, ScrubWish, scrub
from syncd.jobs.scrub_book import ScrubBook
from syncd.oci.name import Reference
from syncd.store.root import Store
from tests.pull.world import means


async def _pull(store: Store, name: str) -> str:
    async with means(store) as everything:
        outcome = await pull(Reference.parse(name), everything, lambda _: None)
    return str(outcome.digest)


async def _remove(store: Store, name: str, now: float) -> str:
    await remove(store, Reference.parse(name).name, now=now)
    return "removed"


async def _collect(store: Store, now: float, keep_previous: int) -> str:
    await collect(store, now=now, rules=CollectRules(keep_previous=keep_previous))
    return "collected"


async def _restore(store: Store, name: str) -> str:
    return (await restore(store, Reference.parse(name).name, None)).value


async def _roll_back(store: Store, name: str) -> str:
    async with means(store) as everything:
        planned = plan(store, Reference.parse(name).name, None, NO_POLICY)
        outcome = await roll_back(planned, everything, "a test", lambda _: None)
    return str(outcome.digest)


async def _release(store: Store, name: str) -> str:
    store.holds.drop(Reference.parse(name).name)
    return "released"


async def _lease(store: Store, name: str) -> str:
    """A pull that died right after it had begun."""
    entries = store.models.history(Reference.parse(name).name)
    if not entries:
        return "nothing"
    with await store.locks.references(shared=True) as held:
        store.leases.take(Reference.parse(name).name, entries[-1].manifest, held).abandon()
    return "leased"


async def _mend(store: Store) -> str:
    """Read everything over, and mend what is found. The digests that were, and how it ended."""
    book = ScrubBook(store, clock=time.time, monotonic=time.monotonic)
    ears = ScrubEars(progress=lambda _: None, damage=lambda _: None)
    await scrub(store, ScrubWish(None, None, anew=True), book, ears, monotonic=time.monotonic)
    fates = set()
    async with means(store) as everything:
        for damage in survey(store, None):
            done = await mend(store, everything, damage, keep=False, report=lambda _: None)
            fates.add(done.fate)
    return "whole" if fates <= {Fate.MENDED} else " ".join(sorted(fates))


_ACTS = {
    "pull": _pull,
    "remove": _remove,
    "collect": _collect,
    "restore": _restore,
    "roll back": _roll_back,
    "release": _release,
    "lease": _lease,
    "mend": _mend,
}


def perform(path: Path, act: str, *arguments: object) -> str:
    """Do it, as a process of its own would. What came of it; an expected failure's class."""

    async def work() -> str:
        with Store.open(path, create=True) as store:
            try:
                return await _ACTS[act](store, *arguments)  # type: ignore[operator]  # each with its own
            except SyncdError as error:
                return type(error).__name__

    return asyncio.run(work())


def perform_quietly(path: str, act: str, arguments: list[object]) -> None:
    """For a process that will be killed."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    perform(Path(path), act, *arguments)
