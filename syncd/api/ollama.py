"""Ollama's API (``server/routes.go``), as far as it makes sense for a store."""

import asyncio
import re

import msgspec
from aiohttp import web

from syncd import __version__
from syncd.aio import in_thread
from syncd.api import wire
from syncd.api.answers import RefusedError, answer, line, one_text, told
from syncd.api.guard import Door, body, peer
from syncd.api.library import Library
from syncd.api.ports import Service
from syncd.api.pull_lines import Progress, PullLines
from syncd.api.streams import LargeAnswers, Stream, Streams, follow
from syncd.errors import InvalidNameError, NotFoundError, SyncdError
from syncd.jobs.board import Job, JobView
from syncd.oci.name import ModelName, Reference
from syncd.text import printable

_NOT_FOR_A_STORE = (
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/create",
    "/api/copy",
    "/api/push",
    "/api/blobs/{digest}",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
)
_SHOWS = 2  # at once: each may read a header of megabytes into Python's own values
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_INVALID_NAME = "invalid model name"
_INSECURE = "insecure protocol http"  # server/images.go errInsecureProtocol


class Ollama:
    """The handlers."""

    def __init__(self, service: Service, door: Door, streams: Streams, *, body_seconds: float) -> None:
        self._service = service
        self._door = door
        self._streams = streams
        self._body_seconds = body_seconds
        self._library = Library(service.store)
        self._large = LargeAnswers(unread=streams.unread)
        self._reading = asyncio.Semaphore(_SHOWS)

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/", self.root),
            web.get("/api/version", self.version),
            web.get("/api/tags", self.tags),
            web.get("/api/ps", self.ps),
            web.post("/api/show", self.show),
            web.post("/api/pull", self.pull),
            web.delete("/api/delete", self.delete),
            *(web.post(path, self.not_for_a_store) for path in _NOT_FOR_A_STORE),
            web.head("/api/blobs/{digest}", self.not_for_a_store),
        ]

    async def root(self, _request: web.Request) -> web.Response:
        """What people and probes look for. Ollama's own words would be a lie: there is no Ollama here."""
        return web.Response(text="syncd is running")

    async def version(self, _request: web.Request) -> web.Response:
        """Of syncd: there is no Ollama here whose version it could be."""
        return answer(wire.Version(__version__))

    async def tags(self, _request: web.Request) -> web.Response:
        """What the store holds."""
        return answer(await in_thread(self._library.tags))

    async def ps(self, _request: web.Request) -> web.Response:
        """A store has nothing loaded."""
        return answer({"models": []})

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One model."""
        asked = await body(request, wire.ShowRequest, seconds=self._body_seconds)
        text = asked.model or asked.name
        if not text:
            raise RefusedError(400, "model is required")
        try:
            async with self._reading:
                shown = await in_thread(self._shown, _name(text), asked)
        except NotFoundError as error:
            raise _not_found(text) from error
        return await self._large.answer(request, shown)

    def _shown(self, name: ModelName, asked: wire.ShowRequest) -> bytes:
        shown = self._library.show(
            name, verbose=bool(asked.verbose), system=asked.system, with_path=not self._door.open_to_strangers
        )
        return msgspec.json.encode(shown)

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a model; 200 and no body, as Ollama has it."""
        asked = await body(request, wire.DeleteRequest, seconds=self._body_seconds)
        text = asked.model or asked.name or ""
        try:
            await self._service.remove(_name(text), by=(await peer(request)).words, dry_run=False)
        except NotFoundError as error:
            raise _not_found(text) from error
        return web.Response()

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Pull a model, and tell how it goes. The pull goes on when the client does not."""
        asked = await body(request, wire.PullRequest, seconds=self._body_seconds)
        insecure = bool(asked.insecure)
        reference = _reference(asked.model or asked.name or "", insecure=insecure)
        job, _ = self._service.pull(reference, by=(await peer(request)).words, insecure=insecure)
        if asked.stream is False:
            return await self._at_the_end(job)

        async def tell(stream: Stream) -> None:
            lines = PullLines()

            async def send(view: JobView) -> None:
                if moment := lines.moment(view.progress):
                    await stream.send(moment)

            await send(job.view)
            view = await follow(job, send)
            last = lines.success(view.progress) if view.outcome else line({"error": self._failure(view)})
            await stream.send(last)

        farewell = line({"error": "the daemon is stopping: the pull goes on when it has started again"})
        return await self._streams.run(request, tell, farewell=farewell)

    async def _at_the_end(self, job: Job) -> web.Response:
        view = await job.ended()
        if view.outcome is None:
            return answer({"error": self._failure(view)}, status=500)
        return answer(Progress("success"))

    def _failure(self, view: JobView) -> str:
        error = view.error or SyncdError("the pull has not ended")
        if isinstance(error, NotFoundError):
            return "pull model manifest: file does not exist"  # what Ollama's clients know
        return one_text(told(error, open_to_strangers=self._door.open_to_strangers))

    async def not_for_a_store(self, request: web.Request) -> web.Response:
        """What only a server of models can do."""
        raise RefusedError(
            501,
            f"{printable(request.path, limit=100)}: syncd keeps models, it does not run or make them",
            hint="ask an Ollama server",
        )


def _name(text: str) -> ModelName:
    try:
        return ModelName.parse(text)
    except InvalidNameError as error:
        raise RefusedError(400, _INVALID_NAME) from error


def _reference(text: str, *, insecure: bool) -> Reference:
    """What ``text`` asks for; it may begin with ``http://`` or ``https://`` (``types/model/name.go`` ParseNameBare)."""
    match = _SCHEME.fullmatch(text)
    if match and match["scheme"] not in {"http", "https"}:
        raise RefusedError(400, _INVALID_NAME)
    if match and match["scheme"] == "http" and not insecure:
        raise RefusedError(500, _INSECURE)
    try:
        return Reference.parse(match["rest"] if match else text)
    except SyncdError as error:
        raise RefusedError(400, _INVALID_NAME) from error


def _not_found(text: str) -> RefusedError:
    return RefusedError(404, f"model '{printable(text, limit=400)}' not found")
