"""Rollouts in the daemon: what pulls publish is brought to the servers, one after another.

One task takes rollouts and an operator's reloads in turn, so that never more servers are at it than the settings allow.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

import structlog

from syncd.aio import in_thread
from syncd.api import v1
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.prewarm import Prewarm
from syncd.daemon.reconcile import InForce
from syncd.daemon.rollout_asked import Asked, announced, wish
from syncd.daemon.rollout_hands import Hands
from syncd.daemon.rollout_memory import RolloutBook
from syncd.daemon.settings import Settings
from syncd.daemon.telemetry_rollout import RolloutTelemetry
from syncd.errors import NotFoundError, SyncdError
from syncd.instances.model import Instance
from syncd.jobs.board import JobState, JobView
from syncd.jobs.reload import Change, change_of, holds, to_unload
from syncd.jobs.reload_revert import let_go
from syncd.jobs.reload_server import Engine, Reloader, Servers, Verdict
from syncd.jobs.rollout import Rollout, State, Tried, halt
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.root import Store

log = structlog.get_logger()


class Rollouts:
    """A service. The pulls' ``before_publish``, the board's ``job_changed``, and what an operator asks for end here."""

    def __init__(
        self,
        *,
        store: Store,
        servers: Servers,
        engine: Callable[[], Engine | None],
        settings: InForce,
        chronicle: Chronicle,
        telemetry: RolloutTelemetry,
        clock: Callable[[], float],
    ) -> None:
        """``clock``: seconds since the epoch. Blocks for a moment: what the last life left is read."""
        self._store = store
        self._servers = servers
        self._settings = settings
        self._chronicle = chronicle
        self._clock = clock
        self._reloader = Reloader(
            servers,
            engine,
            patience=lambda: self._now.probes.proof_timeout,
            count=telemetry.stepped,
        )
        self._prewarm = Prewarm(store, servers, self._reloader, settings=lambda: self._now, chronicle=chronicle)
        self.book = RolloutBook(store.state)
        self._hands = Hands(
            store=store, servers=servers, reloader=self._reloader, book=self.book, settings=lambda: self._now
        )
        self._due = {one.name.folded: one.name for one in self.book.unfinished()}
        self._asked: deque[Asked] = deque()
        self._doing = False
        self._stirred = asyncio.Event()
        telemetry.watch(self.book.all)

    @property
    def _now(self) -> Settings:
        return self._settings.current.settings

    # What others tell and ask

    def refused(self, name: ModelName, digest: Digest) -> str | None:
        """Why this version is not to be published again by itself; None: it may be."""
        one = self.book.of(name)
        if one is None or one.state not in _TAKEN_BACK or one.digest != digest:
            return None
        return f"taken back: {one.reason}; 'syncd pull {name}' insists on it"

    def held(self, instance: str, name: ModelName) -> bool:
        """Whether this server is to be left alone with this model until its turn in a rollout comes."""
        one = self.book.of(name)
        return one is not None and one.state in _OPEN and instance not in one.passed

    async def before_publish(self, name: ModelName, old: Manifest | None, new: Manifest) -> None:
        """Have the servers let go of old weights while their name still means them; remember who had them loaded."""
        instances = self._servers.instances()
        if not instances or (old is not None and old.digest == new.digest):
            return
        change = change_of(old, new)
        warm = frozenset[str]() if old is None else await self._warm(instances, name)
        rollout = Rollout(
            name=name,
            digest=new.digest,
            change=change,
            previous=None if old is None else old.digest,
            at=self._clock(),
            state=State.ANNOUNCED,
            warm=warm,
            insisted=await in_thread(self._is_held, name, new.digest) or self._is_insisted_on(name, new.digest),
        )
        await self.book.begin(rollout)
        await let_go(self._reloader, (one for one in to_unload(instances, change) if one.name in warm), name)

    def under_way(self) -> tuple[str, ...]:
        """What brings models to servers right now, or is about to, in words."""
        rolled = tuple(f"{one.name} is being brought to the servers" for one in self.book.unfinished())
        return (*rolled, *(("servers are being reloaded",) if self._asked or self._doing else ()))

    def job_changed(self, view: JobView) -> None:
        """A pull has ended: well or not, it may have published something."""
        if view.state is not JobState.RUNNING:
            self.published(view.reference.name)

    def published(self, name: ModelName) -> None:
        """Whoever prepared a publication of this name is through with it, well or not."""
        one = self.book.of(name)
        if one is not None and one.state is State.ANNOUNCED:
            self._due[name.folded] = name
            self._stirred.set()

    def server_started(self, instance: Instance) -> None:
        """It is up, or up again: what is to be kept warm is to be loaded there."""
        self._prewarm.started(instance.name)

    def status(self) -> tuple[v1.RolloutInfo, ...]:
        """The latest rollout of each model."""
        return tuple(announced(one) for one in self.book.all())

    async def ask(self, asked: v1.ReloadRequest, *, by: str) -> AsyncIterator[v1.ReloadTried | v1.ReloadEnded]:
        """Do what an operator wants, after what is under way; what comes of it, whether anybody follows that or not.

        Raise ``SyncdError`` for what cannot be done.
        """
        wanted = await in_thread(
            partial(wish, asked, store=self._store, servers=self._servers, book=self.book, now=self._clock())
        )
        log.info("reload.asked", by=by, models=len(wanted.rollouts), servers=len(wanted.instances), prove=asked.prove)
        self._asked.append(wanted)
        self._stirred.set()
        return wanted.follow()

    async def renew(self, name: ModelName, failing: Collection[str]) -> None:
        """Have the servers that hold this model load it anew: its file is another one, under the same digest.

        ``failing``: servers that could not serve it from the old one, which they may remember. It returns when all have
        been tried, and says nothing of those that the settings let nobody reload.
        """
        manifest = await in_thread(self._store.models.read, name)
        instances = self._servers.instances()
        holding = await self._warm(instances, name) | frozenset(failing)
        if manifest is None or not holding:
            return
        rollout = Rollout(
            name=name,
            digest=manifest.digest,
            change=Change.ASKED,
            previous=None,
            at=self._clock(),
            warm=holding,
            insisted=True,
        )
        asked = Asked((rollout,), tuple(one for one in instances if one.name in holding))
        log.info("reload.after_repair", name=str(name), servers=sorted(holding))
        self._asked.append(asked)
        self._stirred.set()
        async for line in asked.follow():
            if isinstance(line, v1.ReloadTried):
                self._chronicle.tell("repair.reloaded", name=line.model, detail=f"{line.instance}: {line.result}")

    # The service

    async def run(self) -> None:
        """It ends by cancellation; the next life goes on with what is under way."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._prewarm.run(), name="prewarm")
                group.create_task(self._follow_settings(), name="prewarm by new settings")
                while True:
                    await self._something_to_do()
                    if self._asked:
                        self._doing = True
                        await self._do(self._asked.popleft())
                        self._doing = False
                    else:
                        await self._roll_out()
        finally:
            for asked in self._asked:
                asked.end(_STOPPING)

    async def _follow_settings(self) -> None:
        revision = self._settings.revision
        while True:
            revision = await self._settings.changed(revision)
            for instance in self._servers.instances():
                self._prewarm.started(instance.name)

    async def _something_to_do(self) -> None:
        """An operator's wish counts at once, updates when no more of them are waited for."""
        settled: float | None = None
        loop = asyncio.get_running_loop()
        while not self._asked:
            if settled is None and self._due:
                settled = loop.time() + self._now.reload.settle
            self._stirred.clear()
            try:
                async with asyncio.timeout_at(settled):
                    await self._stirred.wait()
            except TimeoutError:
                return

    async def _roll_out(self) -> None:
        due, self._due = self._due, {}
        published = []
        for name in due.values():
            if (one := self.book.of(name)) is None:
                continue
            if await self._is_published(one):
                published.append(one)
            elif one.state is State.REVERTING:  # an earlier life died right after it had taken it back
                await self.book.note(replace(one, state=State.REVERTED))
            else:
                await self.book.forget(one)
        if not published:
            return
        try:
            await self._begin(published, self._tried)
        except SyncdError as error:
            await self._give_up(published, error)
        except Exception as error:  # a bug ends its rollout and no other: design, "Concurrency"
            log.exception("rollout.crashed", models=[str(one.name) for one in published])
            await self._give_up(published, _unexpected(error))

    async def _give_up(self, rollouts: Sequence[Rollout], error: SyncdError) -> None:
        for begun in rollouts:
            now = self.book.of(begun.name)
            if now is not None and not self.book.overtaken(begun) and now.state in _OPEN:
                await self.book.note(halt(now, error.message))
                self._chronicle.tell("rollout.halted", name=str(now.name), detail=error.message)

    async def _do(self, asked: Asked) -> None:
        try:
            if asked.resume:
                ended = await self._resume(asked)
            else:
                ended = await self._hands.roller(asked.instances, asked.tried, asked=asked).run(asked.rollouts)
        except SyncdError as error:
            await self._give_up(asked.rollouts if asked.resume else (), error)
            asked.end(error)
        except Exception as error:  # a bug, as above
            log.exception("reload.crashed")
            await self._give_up(asked.rollouts if asked.resume else (), _unexpected(error))
            asked.end(_unexpected(error))
        except BaseException:
            asked.end(_STOPPING)
            raise
        else:
            asked.end(ended)

    async def _resume(self, asked: Asked) -> tuple[Rollout, ...]:
        halted = [one for one in asked.rollouts if await self._is_published(one)]
        if not halted:
            raise NotFoundError("what had halted is not published any more")

        def tried(name: ModelName, instance: str, verdict: Verdict) -> None:
            asked.tried(name, instance, verdict)
            self._tried(name, instance, verdict)

        return await self._begin(halted, tried)

    async def _begin(self, rollouts: Sequence[Rollout], tried: Tried) -> tuple[Rollout, ...]:
        """Go on with what pulls have published; all is noted, and told."""
        running = [replace(one, state=State.RUNNING, reason=None) for one in rollouts]
        instances = self._servers.instances()
        log.info("rollout.started", models=[str(one.name) for one in running], servers=len(instances))
        for one in running:
            self._chronicle.tell("rollout.started", name=str(one.name), detail=str(one.digest))
        ended = await self._hands.roller(instances, tried).run(running)
        for one in ended:
            log.info("rollout.ended", name=str(one.name), state=one.state.value, reason=one.reason)
            self._chronicle.tell(f"rollout.{one.state}", name=str(one.name), detail=one.reason)
        return ended

    # Steps of the above

    def _tried(self, name: ModelName, instance: str, verdict: Verdict) -> None:
        log.info("rollout.tried", name=str(name), instance=instance, result=verdict.result, reason=verdict.reason)
        self._chronicle.tell("rollout.tried", name=str(name), detail=f"{instance}: {verdict.reason or verdict.result}")

    async def _is_published(self, rollout: Rollout) -> bool:
        try:
            return await in_thread(self._store.models.tag_digest, rollout.name) == rollout.digest
        except SyncdError as error:
            log.warning("rollout.model_unreadable", name=str(rollout.name), error=error.message)
            return False

    async def _warm(self, instances: Sequence[Instance], name: ModelName) -> frozenset[str]:
        async def one(instance: Instance) -> bool:
            try:
                return holds(name, await self._reloader.loaded(instance))
            except SyncdError:
                return False  # as far as anybody knows; what ails it, the looks at it tell

        async with asyncio.TaskGroup() as group:
            looks = {each.name: group.create_task(one(each), name=f"ps {each.name}") for each in instances}
        return frozenset(instance for instance, warm in looks.items() if warm.result())

    def _is_held(self, name: ModelName, digest: Digest) -> bool:
        """A rollback asked for this very version."""
        hold = self._store.holds.of(name)
        return hold is not None and hold.manifest.digest == digest

    def _is_insisted_on(self, name: ModelName, digest: Digest) -> bool:
        """A pin says so, or a pull by hand: the reconcile publishes nothing that is refused."""
        pinned = any(one.name.digest == digest for one in self._now.models if one.name.name.folded == name.folded)
        return pinned or self.refused(name, digest) is not None


_OPEN = (State.ANNOUNCED, State.RUNNING, State.REVERTING, State.HALTED)
_TAKEN_BACK = (State.REVERTING, State.REVERTED)
_STOPPING = SyncdError("the daemon is stopping", hint="try again when it has started")


def _unexpected(error: Exception) -> SyncdError:
    what = f"unexpected {type(error).__name__}: {error}"
    return SyncdError(what, hint="this is a bug in syncd: the daemon's log shows where")
