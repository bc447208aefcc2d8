"""A rollout: new versions go from server to server, and no further than where one of them fails.

A server that is well, that lists the new version and cannot serve it speaks against the version: if no server has
served it yet, the old one is brought back. Any other failure speaks against the server, and the rollout halts there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import structlog

from syncd.aio import only_error
from syncd.errors import SyncdError
from syncd.instances.model import Instance
from syncd.jobs.reload import Change, Update, in_order, waves
from syncd.jobs.reload_server import Reloader, Result, Verdict
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName

log = structlog.get_logger()


class State(StrEnum):
    """Where a rollout stands (``v1.RolloutInfo.state``)."""

    ANNOUNCED = "announced"  # about to be published
    RUNNING = "running"
    HALTED = "halted"  # a server failed
    DONE = "done"
    REVERTING = "reverting"  # the old version is about to come back
    REVERTED = "reverted"  # the old version is back, and this one is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A version on its way. ``previous``: what it replaced. ``at``: when this was so, in seconds since the epoch.

    ``passed``: servers that serve it, and how well; ``failed``: those that do not, and why; ``waiting``: the others, in
    their order. ``insisted``: an operator wants this very version, so that nobody takes it back. ``warm``: as in
    ``Update``.
    """

    name: ModelName
    digest: Digest
    change: Change
    previous: Digest | None
    at: float
    state: State = State.RUNNING
    warm: frozenset[str] = frozenset()
    passed: Mapping[str, Result] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    reason: str | None = None
    insisted: bool = False

    def among(self, instances: Sequence[str]) -> "Rollout":
        """The same for the servers that there are now: who is new waits, who has left is forgotten."""
        passed = {name: how for name, how in self.passed.items() if name in instances}
        waiting = tuple(name for name in instances if name not in passed)
        return replace(self, passed=passed, failed={}, waiting=waiting)

    def with_verdict(self, instance: str, verdict: Verdict) -> "Rollout":
        """After a server was tried.

        One that is not there cannot fail on a model that it has never had: it proves it when it comes up, as any other.
        """
        waiting = tuple(name for name in self.waiting if name != instance)
        if verdict.absent and self.change is Change.NEW:
            return replace(self, waiting=waiting)
        if verdict.good:
            return replace(self, passed={**self.passed, instance: verdict.result}, waiting=waiting)
        return replace(self, failed={**self.failed, instance: verdict.reason or "it failed"}, waiting=waiting)

    @property
    def may_be_reverted(self) -> bool:
        """Whether there is a version to go back to, nobody insists on this one, and no server has served it."""
        return self.previous is not None and not self.insisted and not self.passed


def halt(rollout: Rollout, reason: str) -> Rollout:
    """It goes no further for now."""
    return replace(rollout, state=State.HALTED, reason=reason)


def after_wave(rollouts: Sequence[Rollout], blamed: frozenset[ModelName]) -> tuple[Rollout, ...]:
    """What a wave has come to: the rollouts as they go on from here.

    ``blamed``: versions that a server spoke against. Those of which none has served them yet are reverted, and the
    others go on; any other failure halts them all, since all are on the same servers.
    """
    ended = []
    for one in rollouts:
        if one.failed and one.name in blamed and one.may_be_reverted:
            ended.append(replace(one, state=State.REVERTING, reason=_why(one)))
        else:
            ended.append(one)
    failing = [one for one in ended if one.state is State.RUNNING and one.failed]
    if not failing:
        return tuple(ended)
    why = _why(failing[0])
    return tuple(halt(one, _why(one) or why) if _open(one) else one for one in ended)


def finished(rollout: Rollout) -> Rollout:
    """Done, if there is nobody left to wait for."""
    return rollout if rollout.state is not State.RUNNING else replace(rollout, state=State.DONE, reason=None)


Note = Callable[[Rollout], Awaitable[None]]
"""Remembers how a rollout stands: durable when it returns."""

Tried = Callable[[ModelName, str, Verdict], None]
"""Hears how a model stands on a server that was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roller:
    """Takes rollouts from server to server, ``at_once`` at most.

    ``update_of``: what a rollout is to a server. ``revert`` brings back what it replaced, or says why it could not.
    ``overtaken``: whether a newer version of the same model is on its way, so that this one is left where it is.
    """

    reloader: Reloader
    instances: Sequence[Instance]
    at_once: int
    update_of: Callable[[Rollout], Awaitable[Update]]
    note: Note
    tried: Tried
    revert: Callable[[Rollout], Awaitable[Rollout]]
    overtaken: Callable[[Rollout], bool]

    async def run(self, rollouts: Sequence[Rollout]) -> tuple[Rollout, ...]:
        """Until all have ended: done, halted, or reverted. Who was overtaken is not among them."""
        now = tuple(one.among([instance.name for instance in self.instances]) for one in rollouts)
        updates = {one.name: await self.update_of(one) for one in now}
        await self._note(now)
        fit = await self.reloader.fit(self.instances, list(updates.values()))
        order = [name for name in in_order(self.instances, fit) if any(name in one.waiting for one in now)]
        canary = not all(one.passed for one in now)
        for wave in waves(order, self.at_once, canary=canary):
            now = await self._wave(self._still(now), updates, wave)
            if not any(one.state is State.RUNNING for one in now):
                break
        now = tuple(map(finished, self._still(now)))
        await self._note(now)
        return now

    def _still(self, rollouts: Sequence[Rollout]) -> tuple[Rollout, ...]:
        return tuple(one for one in rollouts if not self.overtaken(one))

    async def _wave(
        self, before: tuple[Rollout, ...], updates: Mapping[ModelName, Update], wave: tuple[str, ...]
    ) -> tuple[Rollout, ...]:
        chosen = [one for one in self.instances if one.name in wave]
        running = [one for one in before if one.state is State.RUNNING]
        verdicts = await self._all(chosen, running, updates)
        blamed = frozenset(
            name for found in verdicts.values() for name, verdict in found.items() if verdict.blames_version
        )
        now = []
        for one in before:
            tried = one
            for instance, found in verdicts.items():
                if one.name in found:
                    tried = tried.with_verdict(instance, found[one.name])
            now.append(tried)
        after = []
        was_running = {one.name for one in running}
        for one in after_wave(self._still(now), blamed):
            falls = one.name in was_running and one.state is State.REVERTING
            after.append(await self.revert(one) if falls else one)
        await self._note(after)
        return tuple(after)

    async def _all(
        self, chosen: Sequence[Instance], running: Sequence[Rollout], updates: Mapping[ModelName, Update]
    ) -> Mapping[str, Mapping[ModelName, Verdict]]:
        verdicts: dict[str, Mapping[ModelName, Verdict]] = {}

        async def one(instance: Instance) -> None:
            due = [updates[rollout.name] for rollout in running if instance.name in rollout.waiting]
            if due:
                verdicts[instance.name] = found = await self.reloader.reload(instance, due)
                for name, verdict in found.items():
                    self.tried(name, instance.name, verdict)

        try:
            async with asyncio.TaskGroup() as group:
                for instance in chosen:
                    group.create_task(one(instance), name=f"reload {instance.name}")
        except BaseExceptionGroup as errors:
            raise only_error(errors, (SyncdError,)) from errors
        return verdicts

    async def _note(self, rollouts: Sequence[Rollout]) -> None:
        for one in rollouts:
            await self.note(one)


def _open(rollout: Rollout) -> bool:
    return rollout.state is State.RUNNING and bool(rollout.failed or rollout.waiting)


def _why(rollout: Rollout) -> str:
    return "; ".join(f"{instance}: {reason}" for instance, reason in rollout.failed.items())
