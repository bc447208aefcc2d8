"""Runners: what is loaded, under which options, and until when (``server/sched.go``)."""

import asyncio
import contextlib
import dataclasses
import hashlib
import math
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support.standin.described import Model, moment
from tests.support.standin.gguf_header import BadGguf, read_whole_header
from tests.support.standin.orders import Ledger, Load, What
from tests.support.standin.settings import Settings

_PIECE = 1 << 20
_NS = 1_000_000_000
_FOR_EVER = ((1 << 63) - 1) // _NS  # seconds: Go's longest duration
_LEAST_CONTEXT, _LEAST_VISION_CONTEXT = 4, 2048
_RUNNER_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
_LOADING = frozenset({What.SLOW_LOAD, What.FAIL_LOAD})


class LoadError(Exception):
    """The runner did not start."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a request wants of its runner. ``is_auto``: nobody named a context length."""

    num_ctx: int
    is_auto: bool
    others: Mapping[str, Any]


@dataclass(slots=True)
class Runner:
    """A loaded model. It holds its weights' file open, so that bytes of an unlinked blob stay as they were.

    ``session``: seconds that it stays after its last request; ``contents``: SHA-256 of the weights as they were read.
    """

    model: Model
    weights: Path
    asking: Asking
    session: float
    descriptor: int
    contents: str
    size: int
    users: int = 0
    expires: float | None = None  # seconds since the epoch
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None

    def take(self) -> Self:
        """One more request uses it."""
        self.users += 1
        self.idle.clear()
        self.stop_timer()
        return self

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Scheduler:
    """All runners of one server, keyed by the path of their weights."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._runners: dict[Path, Runner] = {}
        self._queue = asyncio.Lock()

    def asking(self, model: Model, options: Mapping[str, Any]) -> Asking:
        """The model's own options and the request's on top, bounded as the server bounds them."""
        merged = {**model.options, **options}
        num_ctx = max(int(merged.get("num_ctx") or self._settings.num_ctx), _LEAST_CONTEXT)
        if "vision" in model.capabilities:
            num_ctx = max(num_ctx, _LEAST_VISION_CONTEXT)
        if model.train_context:
            num_ctx = min(num_ctx, model.train_context)
        others = {key: merged[key] for key in _RUNNER_OPTIONS if key in merged}
        return Asking(num_ctx, "num_ctx" not in merged, others)

    @contextlib.asynccontextmanager
    async def runner(self, model: Model, options: Mapping[str, Any], keep_alive: float | None) -> AsyncIterator[Runner]:
        """The model's runner, held while it is used; loaded or reloaded if need be.

        ``keep_alive`` in seconds replaces the runner's own. Raise ``LoadError``, or ``OSError`` if a file is not there.
        """
        if model.weights is None:
            raise FileNotFoundError(2, "no such file or directory", "")
        asking = self.asking(model, options)
        runner = self._usable(model, model.weights, asking, keep_alive)
        if runner is None:
            # One after another: who waits for a load, or for a runner to become idle, keeps all that wait behind it.
            async with self._queue:
                runner = self._usable(model, model.weights, asking, keep_alive)
                if runner is None:
                    runner = await self._made(model, model.weights, asking, keep_alive)
        try:
            yield runner
        finally:
            self._release(runner)

    def _usable(self, model: Model, weights: Path, asking: Asking, keep_alive: float | None) -> Runner | None:
        """The loaded runner, taken, if it will do."""
        runner = self._runners.get(weights)
        if runner is None or _needs_reload(runner, model, asking):
            return None
        if keep_alive is not None:
            runner.session = keep_alive
        return runner.take()

    async def _made(self, model: Model, weights: Path, asking: Asking, keep_alive: float | None) -> Runner:
        if (outdated := self._runners.get(weights)) is not None:
            await self._unload_when_idle(outdated)
        await self._make_room()
        session = self._settings.keep_alive if keep_alive is None else keep_alive
        runner = await self._load(model, weights, asking, session)
        return runner.take()

    def expire(self, model: Model) -> None:
        """Unload the runner of the weights that the name stands for *now*; requests in flight end first."""
        runner = self._runners.get(model.weights) if model.weights is not None else None
        if runner is not None:
            runner.stop_timer()
            runner.session = 0.0
            runner.expires = time.time()
            if runner.users == 0:
                self._unload(runner)

    def unload_all(self) -> None:
        for runner in list(self._runners.values()):
            self._unload(runner)

    def listing(self) -> list[dict[str, Any]]:
        """``/api/ps``: the longest to stay first, each under the name and digest that it was loaded by."""
        now = time.time()
        rows = [(_expiry(runner, now), runner) for runner in self._runners.values()]
        rows.sort(key=lambda row: -int(row[0]))
        return [
            {
                "name": runner.model.shortest,
                "model": runner.model.shortest,
                "size": runner.size,
                "digest": runner.model.manifest.digest,
                "details": runner.model.details,
                "expires_at": moment(int(expiry * _NS)),
                "size_vram": runner.size,
                "context_length": runner.asking.num_ctx,
            }
            for expiry, runner in rows
        ]

    async def _load(self, model: Model, weights: Path, asking: Asking, session: float) -> Runner:
        order = self._ledger.take(_LOADING, "load", model.shortest)
        slow = order.seconds if order is not None and order.what is What.SLOW_LOAD else self._settings.slow_load
        record = Load(model.shortest, model.manifest.digest, weights.name, asking.num_ctx)
        await asyncio.sleep(slow)
        try:
            if order is not None and order.what is What.FAIL_LOAD:
                raise LoadError(order.error)  # noqa: TRY301 - recorded as every failure is
            descriptor, contents = await _mapped(weights)
            size = sum(path.stat().st_size for path in (weights, *model.projectors))
        except (OSError, BadGguf, LoadError) as error:
            self._ledger.loaded(dataclasses.replace(record, failed=True))
            if isinstance(error, BadGguf):
                raise LoadError(f"llama runner process has terminated: error loading model: {error}") from error
            raise
        runner = Runner(model, weights, asking, session, descriptor, contents, size)
        self._runners[weights] = runner
        self._ledger.loaded(record)
        return runner

    async def _make_room(self) -> None:
        while 0 < self._settings.max_loaded <= len(self._runners):
            # Idle ones first, of these the one that would go next (findRunnerToUnload).
            runners = sorted(self._runners.values(), key=lambda each: (each.users > 0, each.session))
            await self._unload_when_idle(runners[0])

    async def _unload_when_idle(self, runner: Runner) -> None:
        runner.stop_timer()
        runner.session = 0.0
        if runner.users > 0:
            await runner.idle.wait()
        self._unload(runner)

    def _release(self, runner: Runner) -> None:
        runner.users -= 1
        if runner.users > 0:
            return
        runner.idle.set()
        if runner.session <= 0:
            self._unload(runner)
            return
        runner.expires = time.time() + min(runner.session, _FOR_EVER)
        if runner.session != math.inf:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.session, self._unload, runner)

    def _unload(self, runner: Runner) -> None:
        runner.stop_timer()
        if self._runners.get(runner.weights) is runner:
            del self._runners[runner.weights]
            os.close(runner.descriptor)
            self._ledger.unloaded(runner.weights.name)


def _needs_reload(runner: Runner, model: Model, asking: Asking) -> bool:
    same_context = asking.num_ctx == runner.asking.num_ctx or (asking.is_auto and runner.asking.is_auto)
    return not same_context or asking.others != runner.asking.others or model.projectors != runner.model.projectors


def _expiry(runner: Runner, now: float) -> float:
    return runner.expires if runner.expires is not None else now + min(runner.session, _FOR_EVER)


async def _mapped(path: Path) -> tuple[int, str]:
    """A descriptor of the weights and their SHA-256. Raise ``BadGguf`` or ``OSError``."""
    reading = asyncio.ensure_future(asyncio.to_thread(_read_whole, path))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        # The thread goes on reading; its file is closed when it is done.
        reading.add_done_callback(_close_mapped)
        raise


def _close_mapped(reading: asyncio.Future[tuple[int, str]]) -> None:
    if not reading.cancelled() and reading.exception() is None:
        os.close(reading.result()[0])


def _read_whole(path: Path) -> tuple[int, str]:
    read_whole_header(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return descriptor, _checked(path.name, descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _checked(name: str, descriptor: int) -> str:
    """SHA-256 of the weights, all of which are read, as by a load.

    llama.cpp takes the tensors' bytes unseen; here bytes that are not what the blob's name says are an error, so that a
    corrupt blob shows.
    """
    contents = _sha256(descriptor)
    if name != f"sha256-{contents}":
        raise BadGguf("tensor data is not what it was")
    return contents


def _sha256(descriptor: int) -> str:
    hasher = hashlib.sha256()
    offset = 0
    while piece := os.pread(descriptor, _PIECE, offset):
        hasher.update(piece)
        offset += len(piece)
    return hasher.hexdigest()
