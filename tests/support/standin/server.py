"""The server: Ollama's HTTP API over a store (``server/routes.go``), honest until an order says otherwise."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from tests.support.standin import calls
from tests.support.standin.calls import Call, Refused, answer, plain
from tests.support.standin.catalogue import Catalogue
from tests.support.standin.inference import Inference
from tests.support.standin.orders import Ledger, Order, What
from tests.support.standin.pulling import Puller
from tests.support.standin.scheduler import Scheduler
from tests.support.standin.settings import Settings
from tests.support.standin.store import Store

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

CONTROL = "/_standin"
_FAULTS = frozenset({What.HANG, What.DROP, What.STATUS, What.NOT_FOUND, What.EMPTY, What.SLOW, What.DIE})
_GONE = 499  # status of a request whose client did not wait, as Ollama logs it


class Server:
    """The handlers, for one life of a server. Lives in one event loop. ``die`` ends that life at once."""

    def __init__(self, settings: Settings, ledger: Ledger, die: Callable[[], None]) -> None:
        self._settings = settings
        self._ledger = ledger
        self._die = die
        self._store = Store(settings.models, random.Random(settings.seed))
        self._catalogue = Catalogue(self._store)
        self._scheduler = Scheduler(settings, ledger)
        self._puller = Puller(settings, self._store)
        inference = Inference(settings, self._catalogue, self._scheduler)
        self._routes: Mapping[str, tuple[str, Handler]] = {
            "/": ("GET", self._root),
            "/api/version": ("GET", self._version),
            "/api/tags": ("GET", self._tags),
            "/api/ps": ("GET", self._ps),
            "/api/show": ("POST", self._show),
            "/api/generate": ("POST", inference.generate),
            "/api/chat": ("POST", inference.chat),
            "/api/embed": ("POST", inference.embed),
            "/api/pull": ("POST", self._pull),
            "/api/delete": ("DELETE", self._delete),
        }

    def prepare(self) -> None:
        """What is done before listening. Raise ``OSError`` where the server would not start."""
        self._store.start(prune=self._settings.prune, grace=self._settings.grace)

    async def close(self) -> None:
        await self._puller.close()
        self._scheduler.unload_all()

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        path = http.rel_url.path
        if path == CONTROL or path.startswith(CONTROL + "/"):
            return await self._control(http, path.removeprefix(CONTROL).strip("/"))
        if path not in self._routes:
            return plain("404 page not found", 404)
        method, handler = self._routes[path]
        if http.method != method and not (http.method == "HEAD" and method == "GET"):
            return plain("405 method not allowed", 405)
        try:
            body = {} if method == "GET" else await calls.parse(http)
        except Refused as refused:
            return answer({"error": refused.error}, refused.status)
        return await self._recorded(Call(http, body), path, handler)

    async def _recorded(self, call: Call, path: str, handler: Handler) -> web.StreamResponse:
        asked = self._ledger.began(path, call.model or None, call.body)
        status = _GONE
        try:
            response = await self._ordered(call, path, handler)
            status = response.status
        except Refused as refused:
            status = refused.status
            response = answer({"error": refused.error}, status)
        finally:
            self._ledger.ended(asked, status)
        return response

    async def _ordered(self, call: Call, path: str, handler: Handler) -> web.StreamResponse:
        order = self._ledger.take(_FAULTS, path, call.model or None)
        match order.what if order is not None else None:
            case What.HANG:
                await calls.for_ever()
            case What.DROP:
                _abort(call.http)
            case What.DIE:
                self._die()
                await calls.for_ever()
            case What.STATUS if order is not None:
                raise Refused(order.status, order.error)
            case What.NOT_FOUND:
                raise Refused(404, f"model '{call.model}' not found")
            case What.SLOW if order is not None:
                await asyncio.sleep(order.seconds)
        return await handler(Call(call.http, call.body, order))

    async def _root(self, _: Call) -> web.StreamResponse:
        return plain("Ollama is running")

    async def _version(self, _: Call) -> web.StreamResponse:
        return answer({"version": self._settings.version})

    async def _tags(self, _: Call) -> web.StreamResponse:
        return answer({"models": self._catalogue.tags()})

    async def _ps(self, _: Call) -> web.StreamResponse:
        return answer({"models": self._scheduler.listing()})

    async def _show(self, call: Call) -> web.StreamResponse:
        if not call.model:
            raise Refused(400, "model is required")
        name = self._catalogue.existing(call.name, failing=Refused(400, "no such file or directory"))
        return answer(self._catalogue.show(name))

    async def _pull(self, call: Call) -> web.StreamResponse:
        name = self._catalogue.existing(call.name, failing=Refused(400, "no such file or directory"))
        lines = self._puller.pull(name, insecure=bool(call.body.get("insecure")))
        if call.streams:
            return await call.stream(lines)
        last = [line async for line in lines][-1]
        return answer(last, 500 if "error" in last else 200)

    async def _delete(self, call: Call) -> web.StreamResponse:
        self._catalogue.delete(call.name, call.model)
        return web.Response()

    async def _control(self, http: web.BaseRequest, what: str) -> web.StreamResponse:
        """Steering and looking, for a stand-in that runs elsewhere."""
        match (http.method, what):
            case ("GET", ""):
                return answer(self._ledger.counts())
            case ("GET", "requests"):
                rows = [
                    {"path": each.path, "model": each.model, "body": each.body, "status": each.status}
                    for each in self._ledger.matching(None, None)
                ]
                return answer({"requests": rows})
            case ("POST", "orders"):
                return self._take_order(await http.read())
            case ("DELETE", "orders"):
                self._ledger.withdraw()
            case ("POST", "forget"):
                self._ledger.forget()
            case ("POST", "die"):
                self._die()
                await calls.for_ever()
            case _:
                return answer({"error": f"no such control: {http.method} {what}"}, 404)
        return answer({})

    def _take_order(self, raw: bytes) -> web.Response:
        try:
            value: dict[str, Any] = json.loads(raw)
            self._ledger.give(Order.from_json(value))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            return answer({"error": str(error)}, 400)
        return answer({})


def _abort(http: web.BaseRequest) -> None:
    """Break the connection without an answer."""
    if http.transport is not None:
        http.transport.abort()
    raise ConnectionResetError("told to break off")
