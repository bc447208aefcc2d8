"""The fleet: every server that reads the store, looked at, asked to show what it serves, and proved; a service.

Every server has a task and a connection of its own, so that one that hangs delays nobody. Proofs, which may load
models, take turns over the whole fleet.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import structlog

from syncd.daemon.chronicle import Chronicle
from syncd.daemon.fleet_post import Heard, Means, Post
from syncd.daemon.followed import Times
from syncd.daemon.loaded import Loaded
from syncd.daemon.reconcile import InForce
from syncd.daemon.shelf import Shelf
from syncd.daemon.turns import Turns
from syncd.errors import NotFoundError
from syncd.instances.line import Distance
from syncd.instances.model import Instance
from syncd.instances.ollama import OllamaServer, Reason
from syncd.instances.plan import Wish
from syncd.instances.probe import Cell, Level, Published, Row, Word
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store.root import Store

log = structlog.get_logger()

_LOOK_AT_STORE = 600.0  # seconds: what no server and nobody else told of


class Fleet:
    """Instances are those of the settings and those that Docker tells of. For one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        settings: InForce,
        chronicle: Chronicle,
        times: Times | None = None,
        on_probe: Heard | None = None,
        on_start: Callable[[Instance], None] = lambda _: None,
        held: Callable[[str, ModelName], bool] = lambda _instance, _model: False,
    ) -> None:
        """``on_probe`` hears of every probe; ``on_start`` of every server that is there, for the first time or anew.

        ``held``: whether a model is proved on a server only when somebody asks for that, since a rollout is under way.
        """
        self._settings = settings
        self._times = times or Times()
        self._shelf = Shelf(store, self._times.monotonic)
        self._turns = Turns(settings.current.settings.reload.max_unavailable)
        self._distance = Distance()
        self._means = Means(
            shelf=self._shelf,
            turns=self._turns,
            chronicle=chronicle,
            times=self._times,
            distant=self._server,
            on_probe=on_probe or _unheard,
            on_start=on_start,
            held=held,
        )
        self._told_of: tuple[Instance, ...] = ()
        self._posts: dict[str, Post] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._published = asyncio.Event()
        self._adopt()

    async def run(self) -> None:
        """It ends by cancellation."""
        revision = self._settings.revision
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._shelf.refresh()
                self._adopt()
                self._group.create_task(self._follow_the_store(), name="follow the store")
                while True:
                    revision = await self._settings.changed(revision)
                    self._adopt()
        finally:
            self._group = None
            await self._distance.close()

    # What others ask

    def instances(self) -> tuple[Instance, ...]:
        """All servers, in the order of the settings, then those that Docker tells of."""
        return tuple(post.instance for post in self._posts.values())

    def matrix(self) -> tuple[Row, ...]:
        """How every published model stands on every server, as of the last probes."""
        return tuple(post.row() for post in self._posts.values())

    def server(self, instance: str) -> OllamaServer:
        """The API of a server, for calls that may take as long as a load. Raise ``NotFoundError``."""
        return self._server(self._post(instance).instance)

    def loaded(self) -> frozenset[Digest]:
        """The manifests under which any server has something in its memory, as of the last looks."""
        return frozenset[Digest]().union(*(post.loaded() for post in self._posts.values()))

    def unsettled(self) -> tuple[str, ...]:
        """Of which servers nobody knows what they have in their memory, or will have in a moment, and why."""
        return tuple(why for post in self._posts.values() if (why := post.unsettled()) is not None)

    async def observe(self, instance: str) -> Row:
        """Look at a server now (level 1). Raise ``NotFoundError`` for one that is not there."""
        post = self._post(instance)
        await post.look()
        return post.row()

    async def show(self, instance: str, model: ModelName) -> Cell:
        """Have a server show a model now (level 2). Raise ``NotFoundError`` for what is not there."""
        post, wanted = self._post(instance), await self._wanted(model)
        _, fresh = await post.catch_up(wanted)
        await post.show(fresh or wanted)
        return post.cell(self._model(model))

    async def prove(self, instance: str, model: ModelName, *, insist: bool = False, in_turn: bool = False) -> Cell:
        """Have a server prove a model (level 3), unless it has, or may not be asked to; how it stands then.

        ``insist``: an operator wants it, now and even if it is proved already; ``prove = "never"`` stays that.
        ``in_turn``: the caller has the server's turn. Raise ``NotFoundError`` for what is not there.
        """
        post, wanted = self._post(instance), await self._wanted(model)
        wish = Wish.INSISTED if insist else Wish.ASKED
        if in_turn:
            await post.prove(wanted, wish)
        else:
            async with self._turns.turn(instance):
                await post.prove(wanted, wish)
        post.wake()
        return post.cell(self._model(model))

    def turn(self, instance: str) -> AbstractAsyncContextManager[None]:
        """A server's turn to be warmed, proved or restarted: at most ``max_unavailable`` have it at once.

        Whoever has it proves with ``in_turn``.
        """
        return self._turns.turn(instance)

    @contextmanager
    def loading(self, instance: str, model: ModelName) -> Iterator[None]:
        """The caller has a server load a model: so the matrix says."""
        post, wanted = self._post(instance), self._model(model)
        post.loading(wanted, now=True)
        try:
            yield
        finally:
            post.loading(wanted, now=False)

    # What others tell

    def published(self, name: ModelName) -> None:
        """A model was published: all servers are looked at, have it shown and, as far as they may be asked, proved."""
        log.debug("fleet.published", name=str(name))
        self._published.set()

    def mended(self, name: ModelName) -> frozenset[str]:
        """Its file is another one under the same digest: no proof of it holds; the servers that it was failing on."""
        failing = frozenset(
            row.instance.name
            for row in self.matrix()
            for cell in row.cells
            if cell.model.folded == name.folded and cell.word is Word.FAILING
        )
        for post in self._posts.values():
            post.mended(name)
        return failing

    def restarted(self, instance: str) -> None:
        """A server was started anew: no proof holds any more."""
        if instance in self._posts:
            self._posts[instance].restarted()

    def discovered(self, instances: Iterable[Instance]) -> None:
        """These, and no others, are the servers that Docker tells of. Those of the settings go before them."""
        self._told_of = tuple(instances)
        self._adopt()

    # Within

    async def _follow_the_store(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LOOK_AT_STORE):
                    await self._published.wait()
            except TimeoutError:
                pass
            self._published.clear()
            await self._shelf.refresh()
            for post in self._posts.values():
                post.wake()

    def _adopt(self) -> None:
        """Have a post before every server that there is now; one whose address is the same goes on."""
        settings = self._settings.current.settings
        self._turns.limit = settings.reload.max_unavailable
        before, self._posts = self._posts, {}
        for instance in _all(self._settings.current, self._told_of):
            post = before.get(instance.name)
            if post is None or post.instance.url != instance.url:
                post = Post(instance, settings.probes, self._means)
            else:
                del before[instance.name]
            post.instance, post.settings = instance, settings.probes
            post.wake()
            self._posts[instance.name] = post
        for name in before:
            if (task := self._tasks.pop(name, None)) is not None:
                task.cancel()
        if self._group is not None:
            for name, post in self._posts.items():
                if name not in self._tasks:
                    self._tasks[name] = self._group.create_task(post.run(), name=f"watch {name}")

    def _server(self, instance: Instance) -> OllamaServer:
        probes = self._settings.current.settings.probes
        return OllamaServer(
            instance.name,
            instance.url,
            self._distance.session(),
            patience=probes.timeout,
            load_patience=probes.proof_timeout,
        )

    def _post(self, instance: str) -> Post:
        try:
            return self._posts[instance]
        except KeyError:
            raise NotFoundError(
                f"there is no server {instance!r}", hint="'syncd status' names those that there are"
            ) from None

    async def _wanted(self, name: ModelName) -> Published:
        if self._shelf.find(name) is None:
            await self._shelf.refresh()
        return self._model(name)

    def _model(self, name: ModelName) -> Published:
        found = self._shelf.find(name)
        if found is None:
            raise NotFoundError(f"{name} is not published", hint="'syncd list' shows what is")
        return found


def _all(loaded: Loaded, told_of: Iterable[Instance]) -> Iterator[Instance]:
    """Those of the settings, then the others that have neither a name nor an address of theirs."""
    named = [one.instance() for one in loaded.settings.instances]
    yield from named
    names, urls = {one.name.casefold() for one in named}, {one.url.casefold() for one in named}
    for instance in told_of:
        if instance.name.casefold() not in names and instance.url.casefold() not in urls:
            names.add(instance.name.casefold())
            urls.add(instance.url.casefold())
            yield instance


def _unheard(instance: str, level: Level, seconds: float, reason: Reason | None) -> None:
    """Nobody counts probes."""
