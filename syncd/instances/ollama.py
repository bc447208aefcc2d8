"""An Ollama server's HTTP API, as far as syncd uses it (ollama ``server/routes.go``, ``api/types.go``).

Every failure has a reason that is kept: refused, timeout, not found, another status, nonsense, nothing at all.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import aiohttp
import msgspec

from syncd.errors import ExitCode, SyncdError
from syncd.oci.name import ModelName
from syncd.text import printable

_MAX_ANSWER = 16 * 1024 * 1024  # bytes: a listing of tens of thousands of models
_NOT_FOUND = 404
_OK = 200
_NO_EXPIRY_YEAR = 2200

T = TypeVar("T")


class Reason(StrEnum):
    """Why a server did not do what it was asked."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    NOT_FOUND = "not_found"
    STATUS = "status"
    WRONG_DIGEST = "wrong_digest"
    EMPTY = "empty"
    PROTOCOL = "protocol"


class ProbeError(SyncdError):
    """A server failed. ``status``: of its answer, where there was one."""

    exit_code = ExitCode.SERVER_FAILED
    transient: ClassVar[bool] = True

    def __init__(self, reason: Reason, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


@dataclass(frozen=True, slots=True)
class Tagged:
    """A model that a server lists. ``digest``: bare hex SHA-256 of its manifest. ``hosted``: a mere stub."""

    name: str
    digest: str
    hosted: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in a server's memory. ``digest``: of the manifest it was loaded under. ``expires``: epoch; None: never.

    ``context_length``: tokens, if the server tells. ``size``: bytes, of which ``vram`` are on a GPU.
    """

    name: str
    digest: str
    expires: float | None
    context_length: int | None
    size: int
    vram: int


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server says of one model. ``hosted``: a stub for a model that is served elsewhere: never probe it."""

    capabilities: tuple[str, ...]
    hosted: bool

    @property
    def embeds_only(self) -> bool:
        """Whether it makes embeddings and no text: ``/api/generate`` answers 400 for such."""
        return "embedding" in self.capabilities and "completion" not in self.capabilities


class _Model(msgspec.Struct):
    name: str = ""
    model: str = ""
    digest: str = ""
    size: int = 0
    size_vram: int = 0
    expires_at: str | None = None
    context_length: int | None = None
    remote_host: str | None = None


class _Models(msgspec.Struct):
    models: list[_Model] | None = None


class _Version(msgspec.Struct):
    version: str


class _Show(msgspec.Struct):
    capabilities: list[str] | None = None
    remote_host: str | None = None


class _Generated(msgspec.Struct):
    response: str = ""
    done: bool = False
    done_reason: str | None = None
    eval_count: int = 0


class _Message(msgspec.Struct):
    content: str = ""
    thinking: str = ""


class _Chatted(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)
    eval_count: int = 0


class _Embedded(msgspec.Struct):
    embeddings: list[list[float]] | None = None


class OllamaServer:
    """One server. Methods raise ``ProbeError``."""

    def __init__(
        self, name: str, url: str, session: aiohttp.ClientSession, *, patience: float, load_patience: float
    ) -> None:
        """``name``: for errors. ``session`` is the caller's, who closes it.

        ``patience``: seconds that a whole call may take; ``load_patience``: one that may have to load a model first.
        """
        self._patience = patience
        self._load_patience = load_patience
        self._name = name
        self._url = url.rstrip("/")
        self._session = session

    async def version(self) -> str:
        """Its version."""
        return printable((await self._ask("GET", "/api/version", None, self._patience, _Version)).version, limit=64)

    async def tags(self) -> tuple[Tagged, ...]:
        """Every model that it would serve."""
        found = await self._ask("GET", "/api/tags", None, self._patience, _Models)
        return tuple(Tagged(one.name or one.model, one.digest, bool(one.remote_host)) for one in found.models or ())

    async def ps(self) -> tuple[Loaded, ...]:
        """Every model that it has loaded."""
        found = await self._ask("GET", "/api/ps", None, self._patience, _Models)
        return tuple(
            Loaded(
                one.name or one.model,
                one.digest,
                _expiry(one.expires_at),
                one.context_length or None,
                one.size,
                one.size_vram,
            )
            for one in found.models or ()
        )

    async def show(self, name: ModelName) -> Shown:
        """Have it read the manifest, the config and the header of the weights."""
        found = await self._ask("POST", "/api/show", {"model": str(name)}, self._patience, _Show)
        return Shown(tuple(found.capabilities or ()), bool(found.remote_host))

    async def token(self, name: ModelName, *, context_length: int | None = None) -> None:
        """One real token. ``context_length``: that of the loaded runner, which another one would make reload.

        No keep_alive is sent: what users set stays. Empty text with a token counted is a token.
        """
        options: dict[str, Any] = {"num_predict": 1}
        if context_length is not None:
            options["num_ctx"] = context_length
        body = {"model": str(name), "prompt": "1", "stream": False, "options": options}
        found = await self._ask("POST", "/api/generate", body, self._load_patience, _Generated)
        if not found.response and not found.eval_count:
            raise ProbeError(Reason.EMPTY, f"{self._name}: {name}: it answers, but with no token")

    async def chat(self, name: ModelName) -> None:
        """One real token of a conversation, which goes through the model's template."""
        body = {
            "model": str(name),
            "messages": [{"role": "user", "content": "1"}],
            "stream": False,
            "options": {"num_predict": 1},
        }
        found = await self._ask("POST", "/api/chat", body, self._load_patience, _Chatted)
        if not (found.message.content or found.message.thinking or found.eval_count):
            raise ProbeError(Reason.EMPTY, f"{self._name}: {name}: it answers, but with no token")

    async def embedding(self, name: ModelName, *, context_length: int | None = None) -> None:
        """One real embedding."""
        body: dict[str, Any] = {"model": str(name), "input": "1"}
        if context_length is not None:
            body["options"] = {"num_ctx": context_length}
        found = await self._ask("POST", "/api/embed", body, self._load_patience, _Embedded)
        if not found.embeddings or not found.embeddings[0]:
            raise ProbeError(Reason.EMPTY, f"{self._name}: {name}: it answers, but with no embedding")

    async def load(self, name: ModelName, *, embeds_only: bool) -> None:
        """Have it in memory, for as long as the server keeps what nobody uses."""
        await self._keep(name, None, embeds_only=embeds_only)

    async def unload(self, name: ModelName, *, embeds_only: bool) -> None:
        """Have it out of memory once what it is at has ended. By name: what that name means now."""
        await self._keep(name, 0, embeds_only=embeds_only)

    async def _keep(self, name: ModelName, keep_alive: int | None, *, embeds_only: bool) -> None:
        body: dict[str, Any] = {"model": str(name), "stream": False}
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        if embeds_only:
            await self._ask("POST", "/api/embed", {**body, "input": []}, self._load_patience, _Embedded)
        else:
            await self._ask("POST", "/api/generate", body, self._load_patience, _Generated)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, patience: float, kind: type[T]) -> T:
        what = f"{self._name}: {method} {path}"
        try:
            async with (
                asyncio.timeout(patience),
                self._session.request(
                    method,
                    self._url + path,
                    data=None if body is None else msgspec.json.encode(body),
                    headers={"Content-Type": "application/json"} if body is not None else None,
                    allow_redirects=False,
                ) as answer,
            ):
                content = await _bounded(answer, what)
        except TimeoutError as error:
            raise ProbeError(Reason.TIMEOUT, f"{what}: no answer within {patience:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise ProbeError(Reason.REFUSED, f"{what}: cannot connect: {error.strerror or error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProbeError(Reason.PROTOCOL, f"{what}: the connection broke: {type(error).__name__}") from error
        if answer.status != _OK:
            reason = Reason.NOT_FOUND if answer.status == _NOT_FOUND else Reason.STATUS
            raise ProbeError(reason, f"{what}: {answer.status} {_told(content)}".rstrip(), status=answer.status)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise ProbeError(Reason.PROTOCOL, f"{what}: the answer is not what Ollama sends: {error}") from error


async def _bounded(answer: aiohttp.ClientResponse, what: str) -> bytes:
    content = bytearray()
    async for part in answer.content.iter_any():
        content += part
        if len(content) > _MAX_ANSWER:
            raise ProbeError(Reason.PROTOCOL, f"{what}: the answer is larger than {_MAX_ANSWER} bytes")
    return bytes(content)


def _told(content: bytes) -> str:
    """The error that an answer tells of, for people."""
    try:
        told = msgspec.json.decode(content, type=dict[str, Any]).get("error", "")
    except msgspec.MsgspecError:
        return ""
    return printable(str(told), limit=200)


def _expiry(text: str | None) -> float | None:
    """Seconds since the epoch; None for a runner that is never unloaded, which Ollama gives a time centuries away."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if found.year > _NO_EXPIRY_YEAR else found.timestamp()
