"""What a stand-in is told to do wrong, and the record of what it was asked."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.support.standin.names import InvalidName, Name

INFERENCE = ("/api/generate", "/api/chat", "/api/embed")


class What(StrEnum):
    """What goes wrong."""

    HANG = "hang"  # the request is read and never answered
    DROP = "drop"  # the connection is broken
    STATUS = "status"  # another status, with an error
    NOT_FOUND = "not_found"  # 404 in Ollama's words
    EMPTY = "empty"  # 200 with no token and no vector
    SLOW = "slow"  # answered after ``seconds``
    SLOW_LOAD = "slow_load"  # a load takes ``seconds``
    FAIL_LOAD = "fail_load"  # a load fails as it does when memory is short
    DIE = "die"  # the server is gone, this request unanswered


@dataclass(frozen=True, slots=True)
class Order:
    """``paths`` of the API, ``model`` by name, ``times`` that it is carried out; without: all, any, always."""

    what: What
    paths: tuple[str, ...] = ()
    model: str | None = None
    times: int | None = None
    status: int = 500
    seconds: float = 0.0
    error: str = "told to fail"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Order":
        """An order as the control endpoint takes it. Raise ``TypeError`` or ``ValueError``."""
        fields = dict(value)
        return cls(What(fields.pop("what")), tuple(fields.pop("paths", ())), **fields)

    def concerns(self, path: str, model: str | None) -> bool:
        if self.paths and path not in self.paths:
            return False
        return self.model is None or (model is not None and _folded(self.model) == _folded(model))


@dataclass(slots=True)
class Asked:
    """One request. ``status`` 0: not answered yet, or never. Times are monotonic seconds."""

    number: int
    path: str
    model: str | None
    body: Mapping[str, Any]
    began: float
    ended: float | None = None
    status: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """A runner that was started, or failed to. ``weights``: name of the blob; ``digest``: the manifest's, bare hex."""

    model: str
    digest: str
    weights: str
    num_ctx: int
    failed: bool = False


@dataclass(slots=True)
class _Standing:
    order: Order
    fired: int = 0

    def is_spent(self) -> bool:
        return self.order.times is not None and self.fired >= self.order.times


@dataclass(slots=True)
class Ledger:
    """Orders and records; written by the server's thread and by tests, so under one lock."""

    requests: list[Asked] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    _orders: list[_Standing] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    # Orders

    def give(self, order: Order) -> None:
        with self._changed:
            self._orders.append(_Standing(order))

    def withdraw(self) -> None:
        with self._changed:
            self._orders.clear()

    def take(self, kinds: frozenset[What], path: str, model: str | None) -> Order | None:
        """The first order of these kinds that concerns the request and is not spent; it counts as carried out."""
        with self._changed:
            for standing in self._orders:
                fits = standing.order.what in kinds and standing.order.concerns(path, model)
                if fits and not standing.is_spent():
                    standing.fired += 1
                    self._changed.notify_all()
                    return standing.order
        return None

    # Records

    def began(self, path: str, model: str | None, body: Mapping[str, Any]) -> Asked:
        with self._changed:
            asked = Asked(len(self.requests), path, model, body, time.monotonic())
            self.requests.append(asked)
            self._changed.notify_all()
            return asked

    def ended(self, asked: Asked, status: int) -> None:
        with self._changed:
            asked.status, asked.ended = status, time.monotonic()
            self._changed.notify_all()

    def loaded(self, load: Load) -> None:
        with self._changed:
            self.loads.append(load)
            self._changed.notify_all()

    def unloaded(self, weights: str) -> None:
        with self._changed:
            self.unloads.append(weights)
            self._changed.notify_all()

    def forget(self) -> None:
        """Records only; orders stand."""
        with self._changed:
            self.requests.clear()
            self.loads.clear()
            self.unloads.clear()

    def matching(self, path: str | None, model: str | None) -> list[Asked]:
        """Requests of a path (none: all) for a model (none: whatever)."""
        with self._changed:
            return [
                asked
                for asked in self.requests
                if path in (None, asked.path)
                and (model is None or (asked.model is not None and _folded(asked.model) == _folded(model)))
            ]

    def wait_until(self, is_so: Callable[[], bool], seconds: float) -> None:
        """Return when it is so; look again at each record. Raise ``TimeoutError``."""
        with self._changed:
            if not self._changed.wait_for(is_so, seconds):
                raise TimeoutError(f"not so within {seconds} s; asked so far: {[each.path for each in self.requests]}")

    def counts(self) -> dict[str, Any]:
        """For the control endpoint."""
        with self._changed:
            paths = [asked.path for asked in self.requests]
            return {
                "requests": {path: paths.count(path) for path in sorted(set(paths))},
                "unanswered": sum(asked.ended is None for asked in self.requests),
                "failed": sum(asked.status >= 400 for asked in self.requests),
                "loads": [
                    {"model": load.model, "digest": load.digest, "weights": load.weights, "num_ctx": load.num_ctx}
                    for load in self.loads
                    if not load.failed
                ],
                "unloads": list(self.unloads),
                "fired": [standing.fired for standing in self._orders],
            }


def _folded(text: str) -> str:
    try:
        return Name.parse(text).folded
    except InvalidName:
        return text
