"""Trying again: what passes by itself, a few times, with a growing and jittered wait or the one that was asked for."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import stamina

from syncd.errors import RegistryUnavailableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and for how long in all. Times in seconds."""

    attempts: int = 5
    seconds: float = 60.0
    first_wait: float = 0.5
    longest_wait: float = 10.0

    def wait(self, failures: int, *, spent: float, asked: float | None, random: float) -> float | None:
        """How long to wait after the ``failures``-th failure, ``spent`` seconds in; None: no more.

        ``asked``: the Retry-After, if there was one; it is kept to, or, where it is past the time left, not waited for.
        ``random``: in [0, 1); the wait is between half and all of the exponential step.
        """
        step = min(self.first_wait * 2.0 ** min(failures - 1, 30), self.longest_wait)
        pause = max(asked or 0.0, step * (0.5 + random / 2))
        return None if failures >= self.attempts or spent + pause > self.seconds else pause


class Retrying:
    """Runs a request, again where it failed with ``RegistryUnavailableError`` and the policy has time left."""

    def __init__(self, policy: RetryPolicy, *, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._policy, self._clock, self._random = policy, clock, random

    async def __call__(self, call: Callable[[], Awaitable[T]], *, unless: tuple[type[Exception], ...] = ()) -> T:
        """The result of ``call``; ``unless``: errors that were already tried again further down."""
        began, failures = self._clock(), 0

        def backoff(error: Exception) -> bool | float:
            nonlocal failures
            failures += 1
            if not isinstance(error, RegistryUnavailableError) or isinstance(error, unless):
                return False
            spent = self._clock() - began
            pause = self._policy.wait(failures, spent=spent, asked=error.retry_after, random=self._random())
            return False if pause is None else pause

        # The policy ends it: stamina's own limits would sleep through a Retry-After that is longer than the time left.
        async for attempt in stamina.retry_context(on=backoff, attempts=None, timeout=None):
            with attempt:
                return await call()
        raise AssertionError("stamina ends with a result or an error")
