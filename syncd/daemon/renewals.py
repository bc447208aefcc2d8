"""Blobs that got another file under the same digest: the servers that have the old one loaded load anew; a service.

Whoever replaces the file, a repair, a pull or an update that failed before: it is noted on the disk before the rename,
and forgotten when the servers have been seen to, so that a daemon that dies in between does it in its next life.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import structlog

from syncd.aio import in_thread
from syncd.errors import InvalidDigestError, SyncdError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store.models import StoredModel
from syncd.store.root import Store

log = structlog.get_logger()

_PREFIX = "renewed-"
_LOOK_EVERY = 10.0  # seconds: what processes beside the daemon have noted
_IN_MEMORY = frozenset(
    f"application/vnd.ollama.image.{kind}" for kind in ("model", "projector", "adapter", "tensor", "draft")
)
"""Layers that a runner has in its memory; all others are read at each request (ollama ``llama.NewLlamaServer``)."""


def noting(store: Store) -> Callable[[Digest], AbstractContextManager[None]]:
    """A ``BlobStore.renewing`` for a process beside the daemon: the daemon, or its next life, sees to the servers."""

    @contextmanager
    def renewing(digest: Digest) -> Iterator[None]:
        _note(store, digest)
        try:
            yield
        finally:  # the daemon may have seen to the first one before the file was there; a failure may come after it was
            _note(store, digest)

    return renewing


def _note(store: Store, digest: Digest) -> None:
    """One that cannot be made stops no repair."""
    try:
        store.state.write(_PREFIX + digest.hex, b"")
    except SyncdError as error:
        log.warning("renewal.not_noted", digest=str(digest), error=error.message)


class Renewals:
    """``renewing`` is the store's hook (``BlobStore.renewing``). For one event loop, which must run by then."""

    def __init__(
        self,
        store: Store,
        replaced: Callable[[Iterable[ModelName]], Awaitable[None]],
        *,
        look_every: float = _LOOK_EVERY,
    ) -> None:
        """``replaced``: brings the servers to load these models anew. ``look_every``: seconds between two looks."""
        self._look_every = look_every
        self._store = store
        self._replaced = replaced
        self._stirred = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: set[str] = set()
        self._seen_to: dict[str, tuple[int, int]] = {}  # notes that could not be removed, and which files they are
        self.count = 0
        """Files that took the place of others in this life."""

    @contextmanager
    def renewing(self, digest: Digest) -> Iterator[None]:
        """While a new file takes its place. In a thread."""
        note = _PREFIX + digest.hex
        self._under_way.add(note)
        _note(self._store, digest)
        try:
            yield
            self.count += 1
        finally:
            self._under_way.discard(note)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stirred.set)

    async def run(self) -> None:
        """It ends by cancellation."""
        self._loop = asyncio.get_running_loop()
        self._store.blobs.renewing = self.renewing
        while True:
            try:
                await self._see_to_all()
            except SyncdError as error:
                log.warning("renewals.not_seen_to", error=error.message)
            try:
                async with asyncio.timeout(self._look_every):
                    await self._stirred.wait()
            except TimeoutError:
                continue
            self._stirred.clear()

    async def _see_to_all(self) -> None:
        names = await in_thread(self._store.state.names)
        self._seen_to = {note: mark for note, mark in self._seen_to.items() if note in names}
        for note in names:
            if note.startswith(_PREFIX) and note not in self._under_way:
                await self._see_to(note)

    async def _see_to(self, note: str) -> None:
        try:
            digest = Digest.parse(f"sha256:{note.removeprefix(_PREFIX)}")
        except InvalidDigestError:
            return  # not ours
        mark = await in_thread(self._store.state.mark, note)
        if mark is None or note in self._under_way:
            return  # asked after the mark: one that is under way by now was noted anew, and its file may not be there
        again = self._seen_to.get(note) == mark
        if not again:
            models = await in_thread(self._in_memory_of, digest)
            if models:
                await self._replaced(models)
        # Where it cannot be removed, on a disk that is read-only by now, nobody is to load the same file ever again.
        self._seen_to[note] = mark
        try:
            await self._forget(note, mark)
        except SyncdError as error:
            if not again:
                log.warning("renewal.not_forgotten", digest=str(digest), error=error.message)

    async def _forget(self, note: str, mark: tuple[int, int]) -> None:
        """Unless it was made anew meanwhile, for a file that came after the servers had loaded."""
        if note in self._under_way:
            return
        await in_thread(self._store.state.remove, note, mark)
        del self._seen_to[note]

    def _in_memory_of(self, digest: Digest) -> tuple[ModelName, ...]:
        return tuple(
            model.name
            for model in self._store.models.list()
            if isinstance(model, StoredModel)
            and any(layer.digest == digest and layer.media_type in _IN_MEMORY for layer in model.manifest.layers)
        )
