"""The post before one server: what it answers, when it is asked, and what that came to."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from syncd.daemon.chronicle import Chronicle
from syncd.daemon.fleet_asker import Asker
from syncd.daemon.fleet_told import Told
from syncd.daemon.followed import Times
from syncd.daemon.server_settings import ProbeSettings
from syncd.daemon.shelf import Shelf
from syncd.daemon.turns import Turns
from syncd.instances.model import Instance
from syncd.instances.ollama import Loaded, OllamaServer, ProbeError, Reason
from syncd.instances.plan import (
    NEVER,
    Pace,
    Permission,
    Untouched,
    Wish,
    due_proofs,
    due_shows,
    failures_before,
    left_behind,
    may_prove,
    next_look,
    next_show,
    started_anew,
    still_untouched,
)
from syncd.instances.probe import (
    NOTHING,
    Cell,
    Fault,
    Known,
    Level,
    Look,
    Proof,
    Published,
    Row,
    Showing,
    holds,
    hosted,
    judge,
)
from syncd.oci.name import ModelName

_MAY_START = 600.0  # seconds for which a server that has just gone down is expected back


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
        self._look: Look | None = None
        self._known: dict[str, Known] = {}
        self._held: tuple[Loaded, ...] = ()  # in its memory, as of the last look that told
        self._down_since: float | None = None
        self._life = 1
        self._greeted = 0  # the life in which it was last told to be there
        self._untouched: Untouched = frozenset()
        self._suspects: frozenset[tuple[str, str]] = frozenset()
        self._proving = False
        self._tried: dict[str, tuple[str, int, float]] = {}

    # What is known

    def row(self) -> Row:
        """How every model stands on it."""
        look = self._look
        return Row(
            instance=self.instance,
            up=None if look is None else look.version is not None,
            version=look.version if look else None,
            fault=look.fault if look else None,
            life=self._life,
            cells=tuple(self.cell(model) for model in self._means.shelf.models()),
        )

    def cell(self, model: Published) -> Cell:
        """How one model stands on it."""
        known = self._known.get(model.name.folded, NOTHING)
        return judge(model, self._look, known, life=self._life, weights_of=self._means.shelf.weights_of)

    def loaded(self) -> frozenset[str]:
        """Hex digests of the manifests under which something is in its memory, as of the last look that told."""
        return frozenset(one.digest for one in self._held)

    def unsettled(self) -> str | None:
        """Why nobody knows what it has in its memory, or will have in a moment, in words; None: that is known."""
        name, look = self.instance.name, self._look
        if look is None:
            return f"nobody has looked yet at what {name} has loaded"
        if look.fault is None:
            return None
        if look.fault.reason is not Reason.REFUSED:
            return f"nobody knows what {name} has loaded: {look.fault.message}"
        if self._down_since is None or self._means.times.monotonic() - self._down_since < _MAY_START:
            return f"{name} has just gone down, or is about to start"
        return None

    # What happens

    def wake(self) -> None:
        """See what there is to do now."""
        self._woken.set()

    def restarted(self) -> None:
        """Somebody knows that it started anew."""
        self._look = None if self._look is None else replace(self._look, at=-NEVER)
        self._begin_life("told so")

    def mended(self, name: ModelName) -> None:
        """The model's bytes are others than those of which anything was seen."""
        known = self._known.get(name.folded, NOTHING)
        self._known[name.folded] = replace(known, showing=None, proof=None)
        self._tried.pop(name.folded, None)
        self.wake()

    def loading(self, model: Published, *, now: bool) -> None:
        """Somebody asked it to load a model, or has its answer."""
        known = self._known.get(model.name.folded, NOTHING)
        self._known[model.name.folded] = replace(known, loading=now)

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
        models, look = self._means.shelf.models(), self._look
        at = next_look(models, look, self._pace())
        if look is None:
            return at
        known = self._known
        shows = (next_show(model, look, known.get(model.name.folded, NOTHING), self._pace()) for model in models)
        return min(at, min(shows, default=NEVER))

    async def _keep_up(self, group: asyncio.TaskGroup) -> None:
        models, pace, now = self._means.shelf.models(), self._pace(), self._means.times.monotonic
        if next_look(models, self._look, pace) <= now():
            await self.look()
        look = self._look
        if look is None or look.fault is not None:
            return
        for model in due_shows(self._means.shelf.models(), look, self._known, pace, now()):
            if next_look(models, look, pace) <= now():
                break  # it shows slowly; the rest comes after the look
            await self.show(model)
        model_due = self._provable(now())
        if model_due is not None and not self._proving:
            self._proving = True
            group.create_task(self._prove_when_due(model_due), name=f"prove {model_due.name}")

    def _provable(self, now: float) -> Published | None:
        """The next model that wants a proof, and may have one."""
        look = self._look
        if look is None:
            return None
        for model in due_proofs(self._means.shelf.models(), look, self._known, self._life, now):
            if self._means.held(self.instance.name, model.name):
                continue
            digest, life, at = self._tried.get(model.name.folded, ("", 0, 0.0))
            if (digest, life) == (model.digest, self._life) and now - at < self.settings.every:
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
            if self._look is not None and self._look.at >= began:
                return self._look  # somebody else's, begun after we asked
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
        before, self._look = self._look, look
        self._remember(look)
        self._told.looked(before, look)
        if started_anew(before, look, dropped=dropped):
            self._begin_life("the connection was dropped" if look.fault is None else "it does not answer")
        self._untouched = still_untouched(self._untouched, look)
        wanted = {model.name.folded for model in self._means.shelf.models()}
        self._known = {key: known for key, known in self._known.items() if key in wanted}
        self._tried = {key: tried for key, tried in self._tried.items() if key in wanted}
        if look.fault is None and self._greeted != self._life:
            self._greeted = self._life
            self._means.on_start(self.instance)

    def _remember(self, look: Look) -> None:
        if look.fault is None:
            self._held, self._down_since = look.loaded, None
        elif look.fault.reason is not Reason.REFUSED:
            self._down_since = None  # it hangs: what it had loaded it may have still
        else:
            self._held = ()
            self._down_since = look.at if self._down_since is None else self._down_since

    def _begin_life(self, why: str) -> None:
        self._life += 1
        self.wake()
        self._told.started_anew(why)

    # Level 2

    async def show(self, model: Published) -> None:
        """Have it show a model, if it lists this version and no mere stub of it."""
        async with self._asker_free:
            look, known = self._look, self._known.get(model.name.folded, NOTHING)
            if look is None or not _lists(look, model) or hosted(model, look, known):
                return
            showing = await self._asker.show(self.instance, model, self.settings.timeout)
        self._means.on_probe(self.instance.name, Level.SHOW, self._since(showing.at), _reason(showing.fault))
        known = self._known.get(model.name.folded, NOTHING)
        self._told.probed(model.name, known.showing.fault if known.showing else None, showing.fault)
        self._known[model.name.folded] = replace(known, showing=showing)

    # Level 3

    async def prove(self, model: Published, wish: Wish) -> None:
        """Have it make something of a model, if it may be asked to. The caller has its turn."""
        self._tried[model.name.folded] = (model.digest, self._life, self._means.times.monotonic())
        look, fresh = await self.catch_up(model)
        if fresh is None or not _lists(look, fresh):
            return
        known = self._known.get(fresh.name.folded, NOTHING)
        if known.showing is None or known.showing.digest != fresh.digest or known.showing.fault is not None:
            await self.show(fresh)
            known = self._known.get(fresh.name.folded, NOTHING)
        proved = holds(known.proof, fresh, self._life) and known.proof is not None and known.proof.fault is None
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
        life, began, fault = self._life, self._means.times.monotonic(), None
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
        known = self._known.get(model.name.folded, NOTHING)
        failures = 0 if fault is None else failures_before(known.proof, model, life) + 1
        proof = Proof(model.digest, life, self._means.times.monotonic(), self._means.times.wall(), fault, failures)
        self._told.probed(model.name, known.proof.fault if known.proof else None, fault)
        self._known[model.name.folded] = replace(known, proof=proof)
        self._untouched |= left_behind(model, before, after)

    def _permission(self, model: Published, look: Look, wish: Wish) -> Permission:
        return may_prove(
            self.instance.prove,
            model,
            look,
            self._means.shelf.weights_of,
            untouched=self._untouched,
            wish=wish,
        )

    def _since(self, began: float) -> float:
        return self._means.times.monotonic() - began


def _lists(look: Look, model: Published) -> bool:
    listed = look.listed.get(model.name.folded)
    return listed is not None and listed.digest == model.digest


def _reason(fault: Fault | None) -> Reason | None:
    return fault.reason if fault else None
