"""What servers should serve: the published models, and the weights behind every manifest that was ever published."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from syncd.aio import in_thread
from syncd.errors import SyncdError
from syncd.instances.probe import Published, Weights, folded, weights
from syncd.oci.name import ModelName
from syncd.store.models import StoredModel
from syncd.store.root import Store

log = structlog.get_logger()


class Shelf:
    """The newest look at the store. For one event loop."""

    def __init__(self, store: Store, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._turn = asyncio.Lock()
        self._published: dict[str, Published] = {}
        self._weights: dict[str, Weights | None] = {}

    def models(self) -> tuple[Published, ...]:
        """Every published model."""
        return tuple(self._published.values())

    def find(self, name: ModelName) -> Published | None:
        """The model that Ollama takes for ``name``."""
        return self._published.get(name.folded)

    def weights_of(self, digest: str) -> Weights | None:
        """The weights behind a manifest's hex digest, if it was published once and somebody asked ``learn``."""
        return self._weights.get(digest)

    async def refresh(self) -> None:
        """Look at the store. Where it cannot be read, the last look stands."""
        async with self._turn:
            try:
                found = await in_thread(self._store.models.list)
            except SyncdError as error:
                log.warning("shelf.not_read", error=error.message)
                return
            now = self._monotonic()
        before, self._published = self._published, {}
        for one in found:
            if isinstance(one, StoredModel):
                fresh = Published(one.name, one.manifest.digest.hex, weights(one.manifest), now)
                old = before.get(one.name.folded)
                self._published[one.name.folded] = old if old and old.digest == fresh.digest else fresh
                self._weights[fresh.digest] = fresh.weights

    async def learn(self, runners: Iterable[tuple[str, str]]) -> None:
        """Find out about digests that nobody knows yet, in the history of the names under which they are loaded."""
        strange = {digest: name for name, digest in runners if digest not in self._weights}
        for digest, name in strange.items():
            model = self._published.get(folded(name))
            if model is None:
                continue
            self._weights.setdefault(digest, None)  # once: a server that invents digests costs nothing more
            try:
                history = await in_thread(self._store.models.history, model.name)
            except SyncdError as error:
                log.warning("history.not_read", name=str(model.name), error=error.message)
                continue
            self._weights |= {one.manifest.digest.hex: weights(one.manifest) for one in history}
