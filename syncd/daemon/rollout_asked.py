"""What an operator asks of the servers: models loaded anew or proved, or halted rollouts gone on with."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from syncd.api import v1
from syncd.api.catalogue import rfc3339
from syncd.daemon.rollout_memory import RolloutBook
from syncd.errors import NotFoundError, SyncdError, UsageError
from syncd.instances.model import Instance
from syncd.jobs.reload import Change
from syncd.jobs.reload_server import Servers, Verdict
from syncd.jobs.rollout import Rollout, State
from syncd.oci.name import ModelName
from syncd.store.models import StoredModel
from syncd.store.root import Store
from syncd.text import printable


@dataclass(slots=True, eq=False)
class Asked:
    """One wish, and what came of it so far. ``resume``: ``rollouts`` are such as have halted.

    It is done whether anybody follows it or not.
    """

    rollouts: tuple[Rollout, ...]
    instances: tuple[Instance, ...]
    prove: bool = False
    resume: bool = False
    _lines: list[v1.ReloadTried | v1.ReloadEnded] = field(default_factory=list)
    _error: SyncdError | None = None
    _ended: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def tried(self, name: ModelName, instance: str, verdict: Verdict) -> None:
        """A model was tried on a server."""
        self._lines.append(line_of(name, instance, verdict))
        self._news.set()

    def end(self, how: Sequence[Rollout] | SyncdError) -> None:
        """It has come to its end, or to nothing."""
        if isinstance(how, SyncdError):
            self._error = how
        else:
            self._lines.append(v1.ReloadEnded(tuple(announced(one) for one in how)))
        self._ended = True
        self._news.set()

    async def follow(self) -> AsyncIterator[v1.ReloadTried | v1.ReloadEnded]:
        """All that came of it, from the beginning, as it comes. Raise ``SyncdError`` where it came to nothing."""
        told = 0
        while True:
            self._news.clear()
            while told < len(self._lines):
                told += 1
                yield self._lines[told - 1]
            if self._ended:
                break
            await self._news.wait()
        if self._error is not None:
            raise self._error


def wish(asked: v1.ReloadRequest, *, store: Store, servers: Servers, book: RolloutBook, now: float) -> Asked:
    """What is meant by ``asked``. ``now``: seconds since the epoch. Blocks. Raise ``SyncdError`` for what cannot be."""
    if asked.resume and (asked.prove or asked.instances is not None):
        raise UsageError("what has halted is gone on with as it began: on all servers, with all its steps")
    instances = _instances(asked.instances, servers.instances())
    names = None if asked.models is None else list(dict.fromkeys(_stored(text, store) for text in asked.models))
    if asked.resume:
        wanted = None if names is None else {name.folded for name in names}
        halted = tuple(
            one for one in book.all() if one.state is State.HALTED and (wanted is None or one.name.folded in wanted)
        )
        if not halted:
            raise NotFoundError("no rollout has halted", hint="'syncd status' shows how servers stand")
        return Asked(halted, instances, resume=True)
    rollouts = tuple(
        Rollout(name=name, digest=manifest.digest, change=Change.ASKED, previous=None, at=now, insisted=True)
        for name in (names if names is not None else _all(store))
        if (manifest := store.models.read(name)) is not None
    )
    if not rollouts:
        raise NotFoundError("no model is published", hint="'syncd pull NAME' brings one")
    return Asked(rollouts, instances, prove=asked.prove)


def _instances(texts: Sequence[str] | None, there: Sequence[Instance]) -> tuple[Instance, ...]:
    if not there:
        raise NotFoundError("there are no servers", hint="name them in the settings: [[instances]]")
    unknown = next((text for text in texts or () if text not in {one.name for one in there}), None)
    if unknown is not None:
        raise NotFoundError(
            f"there is no server {unknown[:100]!r}", hint=f"there are {', '.join(one.name for one in there)}"
        )
    return tuple(one for one in there if texts is None or one.name in texts)


def _stored(text: str, store: Store) -> ModelName:
    name = ModelName.parse(text)
    found = store.models.find(name)
    if found is None:
        raise NotFoundError(f"{name} is not published", hint="'syncd list' shows what is")
    return found


def _all(store: Store) -> list[ModelName]:
    """Those with weights: a mere stub is served elsewhere."""
    return [one.name for one in store.models.list() if isinstance(one, StoredModel) and one.manifest.weights]


def announced(rollout: Rollout) -> v1.RolloutInfo:
    """A rollout as others see it."""
    return v1.RolloutInfo(
        name=str(rollout.name),
        digest=str(rollout.digest),
        previous=None if rollout.previous is None else str(rollout.previous),
        change=rollout.change.value,
        state=rollout.state.value,
        since=rfc3339(rollout.at),
        done=tuple(rollout.passed),
        failed=tuple(rollout.failed),
        waiting=rollout.waiting,
        reason=None if rollout.reason is None else printable(rollout.reason),
    )


def line_of(name: ModelName, instance: str, verdict: Verdict) -> v1.ReloadTried:
    """How a model stands on a server that was tried."""
    until = verdict.stale_until
    return v1.ReloadTried(
        instance=instance,
        model=str(name),
        result=verdict.result.value,
        reason=None if verdict.reason is None else printable(verdict.reason),
        stale=until is not None,
        stale_until=None if until is None or until == float("inf") else rfc3339(until),
    )
