"""The ops listener: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for whoever restarts or waits."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from syncd.api.exposition import Exposition
from syncd.api.guard import loopback_names_only

Reasons = Callable[[], Awaitable[tuple[str, ...]]]
"""Why something is not so; nothing means that it is."""


class Health(msgspec.Struct, frozen=True):
    """The body of ``/healthz`` and ``/readyz``. ``reasons``: why not, for people."""

    ok: bool
    reasons: tuple[str, ...]


def ops_app(exposition: Exposition, *, unhealthy: Reasons, unready: Reasons, loopback: bool) -> web.Application:
    """``unhealthy``: why a restart might help; ``unready``: why nobody should count on it yet.

    ``loopback``: it is for this host alone, so that requests by another name are none of its own.
    """

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(_request: web.Request) -> web.Response:
        return _answer(await unhealthy())

    async def readyz(_request: web.Request) -> web.Response:
        return _answer(await unready())

    app = web.Application(client_max_size=1024, middlewares=[loopback_names_only] if loopback else [])
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app


def _answer(reasons: tuple[str, ...]) -> web.Response:
    return web.Response(
        status=503 if reasons else 200,
        body=msgspec.json.encode(Health(not reasons, reasons)) + b"\n",
        headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
    )
