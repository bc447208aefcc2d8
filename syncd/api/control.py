"""The API's app, and ``/syncd/v1``: what the daemon and its own command say to each other."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

import msgspec
from aiohttp import web

from syncd.aio import in_thread, only_error
from syncd.api import catalogue, events, pulls, v1
from syncd.api.answers import RefusedError, answer, line, told
from syncd.api.connections import Limits
from syncd.api.events import Failed
from syncd.api.guard import Door, body, guard, peer, remember_names
from syncd.api.ollama import Ollama
from syncd.api.operating import Operating
from syncd.api.ports import Service
from syncd.api.streams import Stream, Streams, follow
from syncd.errors import NotFoundError, SyncdError
from syncd.jobs.board import Job, JobView
from syncd.jobs.verify import Verification, VerifyProgress
from syncd.oci.name import ModelName, Reference

T = TypeVar("T")

_STOPPING = SyncdError(
    "the daemon is stopping", hint="what it fetched is kept: the pull goes on there when it has started again"
)

_STOPPING_RELOAD = SyncdError("the daemon is stopping", hint="'syncd status' shows how far the servers are")


def control_app(service: Service, door: Door, *, limits: Limits | None = None) -> web.Application:
    """Both halves of the API, for whom ``door`` lets in."""
    limits = limits or Limits()
    app = web.Application(middlewares=[guard(door)])
    remember_names(app)
    streams = Streams(unread=limits.unread)
    app.on_shutdown.append(streams.close)
    app.add_routes(Ollama(service, door, streams, body_seconds=limits.body).routes())
    app.add_routes(Control(service, door, streams, body_seconds=limits.body).routes())
    app.add_routes(Operating(service.desk, door, streams, body_seconds=limits.body).routes())
    return app


class Control:
    """The handlers of ``/syncd/v1``."""

    def __init__(self, service: Service, door: Door, streams: Streams, *, body_seconds: float) -> None:
        self._service = service
        self._door = door
        self._streams = streams
        self._body_seconds = body_seconds
        self._moments: dict[str, tuple[int, bytes]] = {}

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/syncd/v1/daemon", self.daemon),
            web.get("/syncd/v1/status", self.status),
            web.get("/syncd/v1/models", self.models),
            web.get("/syncd/v1/model", self.model),
            web.get("/syncd/v1/jobs", self.jobs),
            web.get("/syncd/v1/jobs/{id}", self.job),
            web.get("/syncd/v1/jobs/{id}/follow", self.follow),
            web.get("/syncd/v1/events", self.events),
            web.post("/syncd/v1/pull", self.pull),
            web.post("/syncd/v1/cancel", self.cancel),
            web.post("/syncd/v1/remove", self.remove),
            web.post("/syncd/v1/verify", self.verify),
            web.post("/syncd/v1/reload", self.reload),
        ]

    async def daemon(self, _request: web.Request) -> web.Response:
        """Who answers."""
        return answer(self._service.info())

    async def status(self, _request: web.Request) -> web.Response:
        """Everything at a glance."""
        return answer(self._service.status())

    async def models(self, _request: web.Request) -> web.Response:
        """What the store holds."""
        return answer(await in_thread(catalogue.listing, self._service.store))

    async def model(self, request: web.Request) -> web.Response:
        """What is known of one model."""
        if "name" not in request.query:
            raise RefusedError(400, "name is required")
        name = ModelName.parse(request.query["name"])
        return answer(await in_thread(catalogue.describe, self._service.store, name))

    async def jobs(self, _request: web.Request) -> web.Response:
        """Those that run, then those that ended lately."""
        return answer(v1.Jobs(tuple(pulls.job_info(job.view) for job in self._service.board.jobs())))

    async def job(self, request: web.Request) -> web.Response:
        """One of them."""
        return answer(pulls.job_info(self._service.board.find(request.match_info["id"]).view))

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """How one of them goes on."""
        return await self._followed(request, self._service.board.find(request.match_info["id"]), fresh=False)

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Start a pull, or join the one that runs. It goes on when the client does not."""
        asked = await self._body(request, v1.PullRequest)
        job, fresh = self._service.pull(Reference.parse(asked.name), by=(await peer(request)).words)
        return await self._followed(request, job, fresh=fresh)

    async def cancel(self, request: web.Request) -> web.Response:
        """Stop a job, or every pull of a name."""
        asked = await self._body(request, v1.CancelRequest)
        board = self._service.board
        if (asked.job is None) == (asked.name is None):
            raise RefusedError(400, "one of job and name is required")
        found = [board.find(asked.job)] if asked.job is not None else board.running(ModelName.parse(asked.name or ""))
        if not found:
            raise NotFoundError(f"no pull of {asked.name} is running", hint="'syncd status' shows what runs")
        by = (await peer(request)).words
        stopped = [job for job in found if board.cancel(job, by=by)]
        return answer(v1.Cancelled(tuple(pulls.job_info(job.view) for job in stopped)))

    async def remove(self, request: web.Request) -> web.Response:
        """Remove a model."""
        asked = await self._body(request, v1.RemoveRequest)
        name = ModelName.parse(asked.name)
        removal = await self._service.remove(name, by=(await peer(request)).words, dry_run=asked.dry_run)
        return answer(events.removed(removal, dry_run=asked.dry_run))

    async def reload(self, request: web.Request) -> web.StreamResponse:
        """Have servers load models anew, or prove them. It goes on when the client does not."""
        asked = await self._body(request, v1.ReloadRequest)
        lines = await self._service.reload(asked, by=(await peer(request)).words)

        async def tell(stream: Stream) -> None:
            try:
                async for one in lines:
                    await stream.send(line(one))
            except SyncdError as error:
                await stream.send(line(self._told(error)))
            finally:
                if isinstance(lines, AsyncGenerator):
                    await lines.aclose()

        return await self._streams.run(request, tell, farewell=line(self._told(_STOPPING_RELOAD)))

    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Hash the blobs of models; a client who goes away ends it."""
        asked = await self._body(request, v1.VerifyRequest)
        names = None if asked.names is None else tuple(ModelName.parse(name) for name in asked.names)

        async def tell(stream: Stream) -> None:
            await self._verify(names, (await peer(request)).words, stream)

        return await self._streams.run(request, tell, farewell=line(self._told(_STOPPING)))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happens, from now on."""

        async def tell(stream: Stream) -> None:
            happening = self._service.events()
            try:
                async for event in happening:
                    await stream.send(line(event))
            finally:
                if isinstance(happening, AsyncGenerator):
                    await happening.aclose()

        return await self._streams.run(request, tell, farewell=b"")

    async def _followed(self, request: web.Request, job: Job, *, fresh: bool) -> web.StreamResponse:
        async def send(stream: Stream, view: JobView) -> None:
            if moment := self._moment(view):
                await stream.send(moment)

        async def tell(stream: Stream) -> None:
            view = job.view
            await stream.send(line(pulls.Attached(view.id, str(view.reference), view.asked_by, fresh)))
            view = await follow(job, lambda moment: send(stream, moment))
            self._moments.pop(view.id, None)
            await stream.send(line(self._end(view)))

        farewell = line(pulls.PullFailed(self._told(_STOPPING, str(job.view.reference.name)), "cancelled"))
        return await self._streams.run(request, tell, farewell=farewell)

    def _moment(self, view: JobView) -> bytes:
        """Made once for each moment, however many follow it."""
        if view.progress is None:
            return b""
        revision, made = self._moments.get(view.id, (-1, b""))
        if revision != view.revision:
            update = pulls.update(view.progress)
            if self._door.open_to_strangers:
                update = msgspec.structs.replace(update, trouble=None)
            made = line(update)
            self._moments[view.id] = (view.revision, made)
        return made

    def _end(self, view: JobView) -> pulls.PullEnded | pulls.PullFailed:
        end = pulls.end(view)
        if isinstance(end, pulls.PullFailed) and view.error is not None:
            return msgspec.structs.replace(end, error=self._told(view.error, end.error.name))
        return end

    async def _verify(self, names: tuple[ModelName, ...] | None, by: str, stream: Stream) -> None:
        newest: list[VerifyProgress] = []
        news = asyncio.Event()
        started = asyncio.get_running_loop().time()

        def on_progress(now: VerifyProgress) -> None:
            newest[:] = [now]
            news.set()

        async def work() -> Verification | SyncdError:
            try:
                return await self._service.verify(names, by=by, on_progress=on_progress)
            except SyncdError as error:
                return error
            finally:
                news.set()

        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(work(), name="verify for a client")
                while not task.done():
                    await news.wait()
                    news.clear()
                    if newest:
                        await stream.send(line(events.verifying(newest.pop())))
                    await asyncio.wait((task,), timeout=0.1)
        except BaseExceptionGroup as errors:
            raise only_error(errors, (ConnectionError,)) from errors
        found = task.result()
        if isinstance(found, SyncdError):
            await stream.send(line(self._told(found)))
            return
        last = [events.fault(fault) for fault in found.faults]
        seconds = asyncio.get_running_loop().time() - started
        await stream.send(b"".join(line(event) for event in (*last, events.verified(found, seconds))))

    def _told(self, error: SyncdError, name: str | None = None) -> Failed:
        return told(error, open_to_strangers=self._door.open_to_strangers, name=name)

    async def _body(self, request: web.Request, kind: type[T]) -> T:
        return await body(request, kind, seconds=self._body_seconds)
