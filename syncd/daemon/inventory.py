"""What the store holds, counted now and then, so that status and metrics cost nothing when they are asked for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from syncd.aio import in_thread
from syncd.errors import SyncdError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store.models import BrokenModel, StoredModel
from syncd.store.root import Store

log = structlog.get_logger()

_AT_MOST_EVERY = 1.0  # seconds between two counts, however much changes
_AT_LEAST_EVERY = 600.0  # seconds: what changed unnoticed


@dataclass(frozen=True, slots=True)
class Held:
    """A published model. ``size``: bytes of its blobs, each once."""

    name: ModelName
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Count:
    """One count; sizes in bytes. ``size``: of all blobs that models name, each once.

    ``saved``: what copies of its own for every model would add. ``taken``: when, in seconds since the epoch.
    """

    models: tuple[Held, ...] = ()
    blobs: int = 0
    size: int = 0
    saved: int = 0
    free: int = 0
    broken: int = 0
    taken: float = 0.0


def count(found: list[StoredModel | BrokenModel], *, free: int, now: float) -> Count:
    """The sums over a listing."""
    whole = [one for one in found if isinstance(one, StoredModel)]
    sizes = {blob.digest: blob.size for one in whole for blob in one.manifest.blobs}
    models = tuple(Held(one.name, one.manifest.digest, one.manifest.size) for one in whole)
    size = sum(sizes.values())
    return Count(
        models=models,
        blobs=len(sizes),
        size=size,
        saved=sum(one.size for one in models) - size,
        free=free,
        broken=len(found) - len(whole),
        taken=now,
    )


class Inventory:
    """The newest count. ``run`` keeps it up to date, ``poke`` says that something has changed."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        """``clock``: seconds since the epoch."""
        self._store = store
        self._clock = clock
        self._stale = asyncio.Event()
        self.now = Count()

    def poke(self) -> None:
        """Count again soon."""
        self._stale.set()

    async def refresh(self) -> None:
        """Count now; where the store cannot be read, the last count stands."""
        self._stale.clear()
        try:
            self.now = await in_thread(self._count)
        except SyncdError as error:
            log.warning("inventory.failed", error=error.message)

    async def run(self) -> None:
        """A service: it ends by cancellation."""
        while True:
            try:
                async with asyncio.timeout(_AT_LEAST_EVERY):
                    await self._stale.wait()
            except TimeoutError:
                pass
            await self.refresh()
            await asyncio.sleep(_AT_MOST_EVERY)

    def _count(self) -> Count:
        return count(self._store.models.list(), free=self._store.free_bytes(), now=self._clock())
