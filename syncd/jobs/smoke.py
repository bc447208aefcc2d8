"""Asking servers at a steady rate, and counting what comes back. Nothing is tried again: what fails is the result.

The loop is open: a request is sent when it is due, whatever became of those before it. A slow server thus does not
lower the rate. Where too many requests are under way on it, one that is due waits for its turn for a moment; then it
is not sent, and counted.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from syncd.instances.ollama import ProbeError, Reason
from syncd.jobs.latency import Latencies
from syncd.oci.name import ModelName

TURN = 1.0  # seconds: longer than this process is ever held up, shorter than what a rate hides behind

Clock = Callable[[], float]


class Way(StrEnum):
    """How a model is asked."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"


@dataclass(frozen=True, slots=True)
class Target:
    """A model on a server, and the ways in which it is asked, in turns."""

    instance: str
    model: ModelName
    ways: tuple[Way, ...]


Ask = Callable[[Target, Way], Awaitable[None]]  # raises ProbeError


@dataclass(frozen=True, slots=True)
class Schedule:
    """``rate`` requests a second over all targets, for ``seconds``; more than 0, both."""

    rate: float
    seconds: float

    @property
    def count(self) -> int:
        """How many requests that makes: at least one."""
        # A float's last digit must not add one: 0.1 s at 30 a second are three requests.
        return max(1, math.ceil(self.seconds * self.rate - 1e-6))

    def due(self, number: int) -> float:
        """Seconds after the start at which request ``number`` (from 0) is sent."""
        return number / self.rate


def choice(targets: Sequence[Target], number: int) -> tuple[Target, Way]:
    """Whom request ``number`` asks, and how: one target after another, each in all its ways."""
    turn, place = divmod(number, len(targets))
    target = targets[place]
    return target, target.ways[turn % len(target.ways)]


@dataclass(frozen=True, slots=True)
class Failure:
    """A kind of failure. ``status``: of the answer, where there was one."""

    reason: Reason
    status: int | None = None


class Tally:
    """What became of the requests to one target. ``examples``: what the first failure of a kind said.

    Latencies are of good answers, and of requests that had no answer in time: without those, a server that hangs would
    look fast; with failures that come at once, a broken one would. ``since_due`` counts from when a request was due,
    and so holds what it waited for its turn; ``since_sent`` from when it was sent.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.sent = 0
        self.not_sent = 0
        self.succeeded = 0
        self.failures: Counter[Failure] = Counter()
        self.examples: dict[Failure, str] = {}
        self.since_due = Latencies()
        self.since_sent = Latencies()

    @property
    def failed(self) -> int:
        """Requests that failed, for whatever reason."""
        return self.failures.total()

    @property
    def under_way(self) -> int:
        """Requests that were sent, and of which the end is not known."""
        return self.sent - self.succeeded - self.failed

    def succeed(self, due: float, sent: float, now: float) -> None:
        """A good answer. Times by one clock."""
        self.succeeded += 1
        self._took(due, sent, now)

    def fail(self, error: ProbeError, due: float, sent: float, now: float) -> None:
        """No good answer."""
        kind = Failure(error.reason, error.status)
        self.failures[kind] += 1
        self.examples.setdefault(kind, error.message)
        if error.reason is Reason.TIMEOUT:
            self._took(due, sent, now)

    def _took(self, due: float, sent: float, now: float) -> None:
        self.since_due.add(now - due)
        self.since_sent.add(now - sent)


class Smoke:
    """One run. ``concurrency``: requests under way at once on each server, so that one that hangs starves no other."""

    def __init__(
        self,
        targets: Sequence[Target],
        schedule: Schedule,
        *,
        concurrency: int,
        ask: Ask,
        clock: Clock,
        turn: float = TURN,
    ) -> None:
        """``targets``: at least one. ``clock``: monotonic seconds. ``turn``: seconds to wait for one."""
        self.schedule = schedule
        self.tallies = tuple(Tally(target) for target in targets)
        self._by_target = dict(zip(targets, self.tallies, strict=True))
        self._targets = targets
        self._slots = {target.instance: asyncio.Semaphore(concurrency) for target in targets}
        self._ask = ask
        self._clock = clock
        self._turn = turn
        self._begun: float | None = None
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """For how long it has been running, or ran."""
        if self._begun is None:
            return 0.0
        return (self._clock() if self._ended is None else self._ended) - self._begun

    async def run(self) -> None:
        """Send all that is due, when it is due, and wait for the last answer; cancelled, wait for none."""
        self._begun = begun = self._clock()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self.schedule.count):
                    due = begun + self.schedule.due(number)
                    await asyncio.sleep(max(0.0, due - self._clock()))
                    target, way = choice(self._targets, number)
                    group.create_task(self._one(target, way, due), name=f"{target.instance}: {way} {target.model}")
        finally:
            self._ended = self._clock()

    async def _one(self, target: Target, way: Way, due: float) -> None:
        tally, slots = self._by_target[target], self._slots[target.instance]
        try:
            async with asyncio.timeout(self._turn):
                await slots.acquire()
        except TimeoutError:
            tally.not_sent += 1
            return
        try:
            await self._asked(tally, way, due)
        finally:
            slots.release()

    async def _asked(self, tally: Tally, way: Way, due: float) -> None:
        tally.sent += 1
        sent = self._clock()
        try:
            await self._ask(tally.target, way)
        except ProbeError as error:
            tally.fail(error, due, sent, self._clock())
        else:
            tally.succeed(due, sent, self._clock())
