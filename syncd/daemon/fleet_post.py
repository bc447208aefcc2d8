"""The post before one server: when it is asked what, and who hears of it. What came of that is in ``fleet_seen``."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from syncd.daemon.chronicle import Chronicle
from syncd.daemon.fleet_asker import Asker
from syncd.daemon.fleet_seen import Seen
from syncd.daemon.fleet_told import Told
from syncd.daemon.followed import Times
from syncd.daemon.server_settings import ProbeSettings
from syncd.daemon.shelf import Shelf
from syncd.daemon.turns import Turns
from syncd.instances.model import Instance
from syncd.instances.ollama import OllamaServer, ProbeError, Reason
from syncd.instances.plan import (
    NEVER,
    Pace,
    Permission,
    Wish,
    due_proofs,
    due_shows,
    failures_before,
    may_prove,
    next_look,
    next_show,
)
from syncd.instances.probe import Cell, Fault, Level, Look, Proof, Published, Row, Showing, holds, hosted
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName


class Heard(Protocol):
    """Who is told of every probe."""

    def __call__(self, instance: str, level: Level, seconds: float, reason: Reason | None) -> None:
        """A probe has ended. ``reason``: why it failed, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all posts share. ``distant``: a server's API for calls that may take long.

    ``on_probe`` hears of every probe, ``on_start`` of every server that is there, for the first time or anew.
    ``held``: whether a model is proved on a server only when somebody asks for that.
    """

    shelf: Shelf
    turns: Turns
    chronicle: Chronicle
    times: Times
    distant: Callable[[Instance], OllamaServer]
    on_probe: Heard
    on_start: Callable[[Instance], None]
    held: Callable[[str, ModelName], bool]


class Post:
    """Watches one server. ``instance`` and ``settings`` may be replaced at any time, but for the address."""

    def __init__(self, instance: Instance, settings: ProbeSettings, means: Means) -> None:
        self.instance = instance
        self.settings = settings
        self._means = means
        self._told = Told(instance.name, means.chronicle)
        self._asker = Asker(means.times)
        self._asker_free = asyncio.Lock()
        self._woken = asyncio.Event()
        self._seen = Seen()
        self._greeted = 0  # the life in which it was last told to be there
        self._suspects: frozenset[tuple[str, str]] = frozenset()
        self._proving = False

    # What is known

    def row(self) -> Row:
        """How every model stands on it."""
        return self._seen.row(self.instance, self._means.shelf.models(), self._means.shelf.weights_of)

    def cell(self, model: Published) -> Cell:
        """How one model stands on it."""
        return self._seen.cell(model, self._means.shelf.weights_of)

    def loaded(self) -> frozenset[Digest]:
        """The manifests under which something is in its memory, as of the last look that told."""
        return self._seen.loaded()

    def unsettled(self) -> str | None:
        """Why nobody knows what it has in its memory, or will have in a moment, in words; None: that is known."""
        return self._seen.unsettled(self.instance.name, self._means.times.monotonic())

    # What happens

    def wake(self) -> None:
        """See what there is to do now."""
        self._woken.set()

    def restarted(self) -> None:
        """Somebody knows that it started anew."""
        self._seen.outdate()
        self._seen.begin_life()
        self._began_life("told so")

    def mended(self, name: ModelName) -> None:
        """The model's bytes are others than those of which anything was seen."""
        self._seen.forget(name)
        self.wake()

    def loading(self, model: Published, *, now: bool) -> None:
        """Somebody asked it to load a model, or has its answer."""
        self._seen.load(model.name, now=now)

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._woken.clear()
                    await self._keep_up(group)
                    try:
                        async with asyncio.timeout(max(0.0, self._next() - self._means.times.monotonic())):
                            await self._woken.wait()
                    except TimeoutError:
                        pass
        finally:
            await self.close()

    async def close(self) -> None:
        """Hang up, for good."""
        await self._asker.close()

    # What is due

    def _pace(self) -> Pace:
        return Pace(self.settings.every, self.settings.deep_every)

    def _next(self) -> float:
        models, look = self._means.shelf.models(), self._seen.look
        at = next_look(models, look, self._pace())
        if look is None:
            return at
        shows = (next_show(model, look, self._seen.of(model.name), self._pace()) for model in models)
        return min(at, min(shows, default=NEVER))

    async def _keep_up(self, group: asyncio.TaskGroup) -> None:
        models, pace, now = self._means.shelf.models(), self._pace(), self._means.times.monotonic
        if next_look(models, self._seen.look, pace) <= now():
            await self.look()
        look = self._seen.look
        if look is None or look.fault is not None:
            return
        for model in due_shows(self._means.shelf.models(), look, self._seen.known, pace, now()):
            if next_look(models, look, pace) <= now():
                break  # it shows slowly; the rest comes after the look
            await self.show(model)
        model_due = self._provable(now())
        if model_due is not None and not self._proving:
            self._proving = True
            group.create_task(self._prove_when_due(model_due), name=f"prove {model_due.name}")

    def _provable(self, now: float) -> Published | None:
        """The next model that wants a proof, and may have one."""
        look = self._seen.look
        if look is None:
            return None
        for model in due_proofs(self._means.shelf.models(), look, self._seen.known, self._seen.life, now):
            if self._means.held(self.instance.name, model.name):
                continue
            if self._seen.was_tried(model, since=now - self.settings.every):
                continue  # whatever came in between then
            if self._permission(model, look, Wish.DUE).allowed:
                return model
        return None

    async def _prove_when_due(self, model: Published) -> None:
        try:
            async with self._means.turns.turn(self.instance.name):
                if not self._means.held(self.instance.name, model.name):
                    await self.prove(model, Wish.DUE)
        finally:
            self._proving = False
            self.wake()

    # Level 1

    async def look(self) -> Look:
        """What it lists and has loaded, now."""
        began = self._means.times.monotonic()
        async with self._asker_free:
            if self._seen.look is not None and self._seen.look.at >= began:
                return self._seen.look  # somebody else's, begun after we asked
            look, dropped = await self._asker.look(self.instance, self.settings.timeout)
            self._means.on_probe(self.instance.name, Level.LOOK, self._since(look.at), _reason(look.fault))
            await self._compare(look)
            self._take_in(look, dropped=dropped)
            return look

    async def catch_up(self, model: Published) -> tuple[Look, Published | None]:
        """A new look, and the version that is published by then; None: none is."""
        look = await self.look()
        fresh = self._means.shelf.find(model.name)
        if fresh is not None and look.at < fresh.since:
            look = await self.look()  # what it listed first led to the news
        return look, fresh

    async def _compare(self, look: Look) -> None:
        """Look at the store again where a server lists something else than the store is known to hold."""
        shelf = self._means.shelf
        await shelf.learn((one.name, one.digest) for one in look.loaded)
        if look.fault is not None:
            return
        suspects = {(name, one.digest) for name, one in look.listed.items()}
        suspects ^= {(model.name.folded, model.digest) for model in shelf.models()}
        new = suspects - self._suspects
        self._suspects = frozenset(suspects)
        if new:
            await shelf.refresh()

    def _take_in(self, look: Look, *, dropped: bool) -> None:
        before = self._seen.look
        anew = self._seen.take_in(look, self._means.shelf.models(), dropped=dropped)
        self._told.looked(before, look)
        if anew is not None:
            self._began_life(anew)
        if look.fault is None and self._greeted != self._seen.life:
            self._greeted = self._seen.life
            self._means.on_start(self.instance)

    def _began_life(self, why: str) -> None:
        self.wake()
        self._told.started_anew(why)

    # Level 2

    async def show(self, model: Published) -> None:
        """Have it show a model, if it lists this version and no mere stub of it."""
        async with self._asker_free:
            look, known = self._seen.look, self._seen.of(model.name)
            if look is None or not _lists(look, model) or hosted(model, look, known):
                return
            showing = await self._asker.show(self.instance, model, self.settings.timeout)
        self._means.on_probe(self.instance.name, Level.SHOW, self._since(showing.at), _reason(showing.fault))
        known = self._seen.of(model.name)
        self._told.probed(model.name, known.showing.fault if known.showing else None, showing.fault)
        self._seen.show(model.name, showing)

    # Level 3

    async def prove(self, model: Published, wish: Wish) -> None:
        """Have it make something of a model, if it may be asked to. The caller has its turn."""
        self._seen.attempt(model, self._means.times.monotonic())
        look, fresh = await self.catch_up(model)
        if fresh is None or not _lists(look, fresh):
            return
        known = self._seen.of(fresh.name)
        if known.showing is None or known.showing.digest != fresh.digest or known.showing.fault is not None:
            await self.show(fresh)
            known = self._seen.of(fresh.name)
        proved = holds(known.proof, fresh, self._seen.life) and known.proof is not None and known.proof.fault is None
        if (
            hosted(fresh, look, known)
            or known.showing is None
            or known.showing.fault
            or (proved and wish is not Wish.INSISTED)
        ):
            return
        permission = self._permission(fresh, look, wish)
        if permission.allowed:
            await self._prove(fresh, known.showing, look, permission.context_length)

    async def _prove(self, model: Published, showing: Showing, before: Look, context_length: int | None) -> None:
        life, began, fault = self._seen.life, self._means.times.monotonic(), None
        server = self._means.distant(self.instance)
        make = server.embedding if showing.embeds_only else server.token
        self.loading(model, now=True)
        try:
            await make(model.name, context_length=context_length)
        except ProbeError as error:
            fault = Fault.of(error, self._means.times.wall())
        finally:
            self.loading(model, now=False)
        self._means.on_probe(self.instance.name, Level.PROOF, self._since(began), _reason(fault))
        after = await self.look()
        if after.fault is None and not _lists(after, model):
            return  # the tag has moved meanwhile: nobody knows what the token was of
        known = self._seen.of(model.name)
        failures = 0 if fault is None else failures_before(known.proof, model, life) + 1
        proof = Proof(model.digest, life, self._means.times.monotonic(), self._means.times.wall(), fault, failures)
        self._told.probed(model.name, known.proof.fault if known.proof else None, fault)
        self._seen.prove(model, proof, before, after)

    def _permission(self, model: Published, look: Look, wish: Wish) -> Permission:
        return may_prove(
            self.instance.prove,
            model,
            look,
            self._means.shelf.weights_of,
            untouched=self._seen.untouched,
            wish=wish,
        )

    def _since(self, began: float) -> float:
        return self._means.times.monotonic() - began


def _lists(look: Look, model: Published) -> bool:
    listed = look.listed.get(model.name.folded)
    return listed is not None and listed.digest == model.digest


def _reason(fault: Fault | None) -> Reason | None:
    return fault.reason if fault else None
