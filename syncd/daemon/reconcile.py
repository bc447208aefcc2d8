"""The reconcile: what the settings want is pulled, kept and followed. One task decides, others do.

It sleeps until the next thing is due or something happens: the store changed, settings changed, a job began or ended.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import structlog

from syncd.aio import in_thread
from syncd.api.v1 import DesiredModel
from syncd.daemon.acts import ASKED_BY, Acts
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.desired import (
    LOOK_SECONDS,
    Announce,
    Check,
    Look,
    Moment,
    Pull,
    Restore,
    Seen,
    Standing,
    Wait,
    Wish,
    interval,
)
from syncd.daemon.followed import Followed, Times, look_at, wish_of
from syncd.daemon.leavings import Leavings
from syncd.daemon.loaded import Loaded
from syncd.daemon.memory import Memory, ModelMemory, recall, recall_digest, remembered
from syncd.daemon.rules import policy_of
from syncd.daemon.watch import Touched, watch
from syncd.daemon.words import describe
from syncd.errors import SyncdError
from syncd.jobs.board import Board, JobState, JobView
from syncd.jobs.policy import refusal
from syncd.jobs.restore import Condition
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName, Reference
from syncd.registry.found import FetchedManifest
from syncd.store.holds import Hold
from syncd.store.root import Store

log = structlog.get_logger()

_BREATH = 0.02  # seconds between two passes, however much happens


class InForce(Protocol):
    """The settings, as ``AppliedSettings`` has them."""

    @property
    def current(self) -> Loaded:
        """Those in force."""

    @property
    def revision(self) -> int:
        """Grows with every change."""

    async def changed(self, after: int) -> int:
        """Wait until there is a newer revision."""


class Reconcile:
    """A service. ``first_pass_done``: every model of the settings was looked at, and what it needs has been begun."""

    def __init__(
        self,
        *,
        store: Store,
        board: Board,
        settings: InForce,
        memory: Memory,
        resolve: Callable[[Reference], Awaitable[FetchedManifest]],
        chronicle: Chronicle,
        on_touch: Callable[[], None] = lambda: None,
        times: Times | None = None,
    ) -> None:
        """``resolve``: one manifest request. ``on_touch`` hears that the store has changed."""
        self.on_restore: Callable[[], None] = lambda: None
        """Hears that something was put back."""
        self.refused: Callable[[ModelName, Digest], str | None] = lambda _name, _digest: None
        """Why an update is not to be applied by itself: servers could not serve it. None: it is."""
        self._store = store
        self._board = board
        self._settings = settings
        self._memory = memory
        self._chronicle = chronicle
        self._on_touch = on_touch
        self._times = times or Times()
        self._acts = Acts(
            store,
            board,
            chronicle,
            resolve=resolve,
            on_restore=lambda: self.on_restore(),  # noqa: PLW0108 - it is set later
            times=self._times,
        )
        self._leavings = Leavings(store, board, memory, chronicle, times=self._times)
        self._stirred = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._models: dict[str, Followed] = {}
        self._to_look: set[str] = set()
        self._next_round = 0.0
        self._revision = settings.revision
        self.holds = store.holds.all(_unreadable)
        """What rollbacks hold, as of the last round."""
        self.first_pass_done = False
        self._adopt(settings.current, first=True)

    # What others ask and tell

    def desired(self) -> tuple[DesiredModel, ...]:
        """How each model of the settings stands, in their order."""
        moment = self._times.now()
        told = []
        for model in self._models.values():
            running = self._board.running(model.wish.reference.name)
            action = model.next(moment, pulled=bool(running))
            job = running[0].view if running else None
            told.append(describe(model.wish, model.seen, model.standing, action, moment, job))
        return tuple(told)

    def guards(self, name: ModelName) -> str | None:
        """``FILE:LINE`` of the settings that want this model; None: none do."""
        return self._settings.current.where(name)

    def left_over(self, name: ModelName) -> bool:
        """Whether the reconcile once published a model that the settings do not name any more."""
        return name.folded not in self._models and self._memory.of(name).published is not None

    def poke(self) -> None:
        """Look at everything now."""
        self._next_round = 0.0
        self._stirred.set()

    def job_changed(self, view: JobView) -> None:
        """A job began or ended, whoever asked for it."""
        if view.state is not JobState.RUNNING:
            self._to_look.add(view.reference.name.folded)
            model = self._models.get(view.reference.name.folded)
            if model is not None:
                self._acts.ended(model, view)
        self._stirred.set()

    async def run(self) -> None:
        """It ends by cancellation."""
        async with asyncio.TaskGroup() as group:
            group.create_task(watch(self._store.path, self._touched), name="watch the store")
            group.create_task(self._follow_settings(), name="follow the settings")
            group.create_task(self._save(), name="save the memory")
            while True:
                self._stirred.clear()
                wake = await self._pass(group)
                self.first_pass_done = True
                await asyncio.sleep(_BREATH)
                try:
                    async with asyncio.timeout(max(0.0, wake - self._times.monotonic())):
                        await self._stirred.wait()
                except TimeoutError:
                    pass

    # One pass

    async def _pass(self, group: asyncio.TaskGroup) -> float:
        """Look, decide, begin; when to come back."""
        moment = self._times.now()
        if moment.now >= self._next_round:
            self._next_round = moment.now + LOOK_SECONDS
            self._take_in_holds(await in_thread(self._store.holds.all, _unreadable))
            self._to_look |= self._models.keys()
        await self._look()
        wake = min(self._next_round, self._begin(group), self._leavings.resume(self._models))
        if self._settings.current.settings.prune:
            await self._leavings.prune(self._models)
        self._note()
        return wake

    def _take_in_holds(self, holds: tuple[Hold, ...]) -> None:
        if holds != self.holds:
            self.holds = holds
            self._adopt(self._settings.current, first=False)

    async def _look(self) -> None:
        names, self._to_look = self._to_look, set()
        models = [model for folded in names if (model := self._models.get(folded)) is not None]
        if not models:
            return
        wanted = [(model.wish.reference.name, model.wish.pin) for model in models]
        for model, found in zip(models, await in_thread(look_at, self._store, wanted), strict=True):
            if isinstance(found, Condition):
                model.take_in(found)
            else:
                model.seen = Seen(broken=found.message)

    def _begin(self, group: asyncio.TaskGroup) -> float:
        held = self._leavings.held()
        wake = float("inf")
        for folded, model in self._models.items():
            if model.standing.held_until != (until := held.get(folded, 0.0)):
                model.standing = replace(model.standing, held_until=until)
            wake = min(wake, self._begin_one(group, folded, model))
        return wake

    def _begin_one(self, group: asyncio.TaskGroup, folded: str, model: Followed) -> float:
        action = self._acts.next(model)
        name = model.wish.reference.name
        if isinstance(action, Announce):
            log.info("model.pending", name=str(name), digest=str(action.digest))
            self._chronicle.tell("model.pending", name=str(name), detail=str(action.digest))
            model.standing = replace(model.standing, announced=action.digest)
            action = self._acts.next(model)
        match action:
            case Wait():
                return action.until
            case Look():
                self._to_look.add(folded)
                return 0.0
            case Announce():
                return 0.0
        # Beside a pull, which may take hours, something may have to be put back.
        if model.doing and (type(action) in model.doing or not isinstance(action, Restore)):
            return float("inf")
        model.doing.add(type(action))
        group.create_task(self._do(folded, model, action), name=f"{type(action).__name__.lower()} {name}")
        return float("inf")

    async def _do(self, folded: str, model: Followed, action: Check | Pull | Restore) -> None:
        try:
            await self._acts.do(model, action)
        finally:
            model.doing.discard(type(action))
            if not model.wanted:
                self._keep_only_whose(model)
            self._to_look.add(folded)
            self._stirred.set()

    def _note(self) -> None:
        moment = self._times.now()
        for model in self._models.values():
            if model.saved is not model.standing:
                model.saved = model.standing
                self._memory.put(model.wish.reference.name, remembered(model.standing, model.published, moment))
        if self._memory.changed:
            self._unsaved.set()

    async def _save(self) -> None:
        """Beside the passes: a busy disk may take seconds to make a file durable."""
        try:
            while True:
                await self._unsaved.wait()
                self._unsaved.clear()
                await self._save_once()
        finally:
            self._note()
            if self._memory.changed:
                await self._save_once()

    async def _save_once(self) -> None:
        try:
            await in_thread(self._memory.save, self._memory.snapshot())
        except SyncdError as error:
            log.warning("memory.not_saved", error=error.message)

    # What happens

    def _touched(self, where: Touched) -> None:
        self._on_touch()
        touched = {
            folded for folded, model in self._models.items() if where.concerns(model.wish.reference.name, model.blobs)
        }
        if touched:
            self._to_look |= touched
            self._stirred.set()

    async def _follow_settings(self) -> None:
        while True:
            self._revision = await self._settings.changed(self._revision)
            self._adopt(self._settings.current, first=False)
            self.poke()

    def _adopt(self, loaded: Loaded, *, first: bool) -> None:
        """Follow what these settings name; who left is left alone."""
        moment = self._times.now()
        before, self._models = self._models, {}
        holds, policy = {hold.name.folded: hold for hold in self.holds}, policy_of(loaded)
        for wanted in loaded.settings.models:
            folded = wanted.name.name.folded
            model = before.pop(folded, None)
            wish = wish_of(wanted, holds.get(folded), refusal(policy, wanted.name.name))
            self._models[folded] = self._changed(model, wish, moment) if model else self._new(wish, moment)
        for model in before.values():
            self._let_go(model)
        if first:
            for name in self._memory.names():
                if name.folded not in self._models:
                    self._memory.put(name, ModelMemory(published=self._memory.of(name).published))

    def _new(self, wish: Wish, moment: Moment) -> Followed:
        memory = self._memory.of(wish.reference.name)
        standing = recall(memory, moment, wish.every)
        name = wish.reference.name
        return Followed(wish, standing, standing, recall_digest(memory.published), lambda one: self.refused(name, one))

    def _changed(self, model: Followed, wish: Wish, moment: Moment) -> Followed:
        """The same model by the newest settings: what failed may work by them."""
        standing = model.standing
        if wish.reference != model.wish.reference:
            standing = Standing(due=moment.now)
            self._stop_pulls(model)
        elif standing.failures:
            standing = replace(standing, retry_at=0.0)
        latest = moment.now + interval(wish.every, 1.0)
        model.wish, model.standing = wish, replace(standing, due=min(standing.due, latest))
        return model

    def _let_go(self, model: Followed) -> None:
        model.wanted = False
        self._keep_only_whose(model)
        self._stop_pulls(model)

    def _stop_pulls(self, model: Followed) -> None:
        """Those that were begun for settings which are in force no more."""
        for job in self._board.running(model.wish.reference.name):
            if job.view.asked_by == ASKED_BY:
                self._board.cancel(job, by="the settings, which do not want it any more")

    def _keep_only_whose(self, model: Followed) -> None:
        """Of a model that the settings do not name, remember only whether the reconcile published it."""
        published = None if model.published is None else str(model.published)
        if model.wish.reference.name.folded not in self._models:
            self._memory.put(model.wish.reference.name, ModelMemory(published=published))


def _unreadable(error: SyncdError) -> None:
    """Of a hold: no pull of its model goes on until somebody releases it."""
    log.warning("hold.unreadable", error=error.message)
