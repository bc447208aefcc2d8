"""Who may speak to the API: checked before anything is read of a request's body.

The control socket lets in whom its mode lets in, but no web page (``Origin``). On TCP the Host must be one of ours
(DNS rebinding, CVE-2024-28224), and a token must be right where one is set.
"""

import asyncio
import hmac
import pwd
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from syncd.aio import in_thread
from syncd.api.answers import OURS, RefusedError, crash, from_http, refusal
from syncd.errors import ConfigurationError, SyncdError
from syncd.oci import strict_json
from syncd.text import printable

log = structlog.get_logger()

T = TypeVar("T")

MAX_BODY = 1024 * 1024
"""Bytes of a request's body."""

_NAMES = web.AppKey("names", dict[int, str])
_GONE = 499  # nobody is there to be answered: nginx's number for it
_UCRED = struct.Struct("3i")
_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s\[\]:@,/\\?#%]+))(?::[0-9]{0,5})?")
# What the command's own views ask for every second.
_QUIET = frozenset({"/syncd/v1/status", "/syncd/v1/daemon", "/syncd/v1/jobs"})


@dataclass(frozen=True, slots=True)
class UnixDoor:
    """The control socket: the file's mode says who may come in."""

    open_to_strangers: bool = field(default=False, init=False)
    ours_too: bool = field(default=True, init=False)

    def admit(self, request: web.Request) -> None:
        """Raise ``RefusedError`` for a request that is not to be heard."""
        if "Origin" in request.headers:
            raise RefusedError(403, "requests of web pages are refused")


@dataclass(frozen=True, slots=True)
class TcpDoor:
    """A TCP listener. ``token``: the bearer token that every request must carry; None: whoever reaches it may ask.

    ``allowed_hosts``: names that a Host header may have, beside localhost, loopback addresses and ``host`` itself.
    """

    host: str
    port: int
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    open_to_strangers: bool = field(default=True, init=False)

    @property
    def ours_too(self) -> bool:
        """Whether ``/syncd/v1``, which tells of paths, is served here: to nobody but the holders of a token."""
        return self.token is not None

    def require_safe(self) -> None:
        """Raise ``ConfigurationError`` where strangers could reach it and no token keeps them out."""
        if self.token is None and not _is_loopback(self.host):
            raise ConfigurationError(
                f"control.listen: {self.host} can be reached from other hosts, and there is no token",
                hint="set control.token_file, or listen on 127.0.0.1",
            )
        if self.token is not None and not self.token.strip():
            raise ConfigurationError("control.token_file holds no token", hint="write one into it, on one line")

    def admit(self, request: web.Request) -> None:
        """Raise ``RefusedError`` for a request that is not to be heard."""
        hosts = request.headers.getall("Host", [])
        # A target that is a whole URL has a host of its own, which is the one that counts (RFC 9112, 3.2.2).
        if len(hosts) != 1 or not all(
            self._is_ours(name, request) for name in {_host_name(hosts[0]), _target_host(request)}
        ):
            raise RefusedError(
                403, "this listener does not go by that name", hint="control.allowed_hosts lists more names"
            )
        origins = request.headers.getall("Origin", [])
        if any(_netloc(origin) != hosts[0].lower() for origin in origins):
            raise RefusedError(403, "requests of foreign web pages are refused")
        if self.token is not None and not self._is_token(request.headers.getall("Authorization", [])):
            raise RefusedError(
                401, "a bearer token is needed", hint="Authorization: Bearer TOKEN (Ollama: OLLAMA_API_KEY)"
            )
        if request.path.startswith(OURS) and not self.ours_too:
            raise RefusedError(403, "over TCP this part is served with a token only", hint="set control.token_file")

    def _is_ours(self, name: str, request: web.Request) -> bool:
        if not name:
            return False
        if name == "localhost" or name == self.host.lower() or name in {one.lower() for one in self.allowed_hosts}:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        # No name was resolved for an address, so that none can have been rebound; still it has to be one of ours.
        local = request.transport.get_extra_info("sockname") if request.transport else None
        return address.is_loopback or (local is not None and str(address) == str(local[0]))

    def _is_token(self, values: list[str]) -> bool:
        given = [value[7:].strip() for value in values if value[:7].lower() == "bearer "]
        right = (self.token or "").strip().encode("utf-8", "surrogateescape")
        return len(given) == 1 and hmac.compare_digest(given[0].encode("utf-8", "surrogateescape"), right)


Door = UnixDoor | TcpDoor


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end. ``words``: for logs and status. ``fields``: for the log."""

    words: str
    fields: Mapping[str, str | int]


def guard(door: Door) -> Middleware:
    """The middleware: lets in, turns every failure into an answer, and logs one event for each request."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = asyncio.get_running_loop().time()
        status = _GONE
        who = await peer(request)
        try:
            response = await _answered(request, handler, door)
            status = response.status
        finally:
            seconds = asyncio.get_running_loop().time() - started
            note = log.debug if request.path in _QUIET and status < 400 else log.info  # noqa: PLR2004 - an error
            note(
                "http.request",
                method=printable(request.method, limit=20),
                path=printable(request.path, limit=200),
                status=status,
                seconds=round(seconds, 3),
                **who.fields,
            )
        return response

    return guarded


async def _answered(request: web.Request, handler: Handler, door: Door) -> web.StreamResponse:
    try:
        door.admit(request)
        return await handler(request)
    except web.HTTPException as error:
        return from_http(request, error)
    except ConnectionError:
        # The client is gone, or was dropped. aiohttp finds out by what it is handed; an error it would log as a bug.
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=_GONE)
    except SyncdError as error:
        log.info("http.refused", path=printable(request.path, limit=200), error=error.message)
        return refusal(request, error, open_to_strangers=door.open_to_strangers)
    except Exception:  # a bug ends its request and nothing else
        log.exception("http.crashed", path=printable(request.path, limit=200))
        return crash(request)


def remember_names(app: web.Application) -> None:
    """Have user names looked up once each: a look-up may ask a server of the network."""
    app[_NAMES] = {}


async def peer(request: web.Request) -> Peer:
    """Who asks: a user, by what the kernel says of the socket's other end, or an address."""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None:
        return Peer("a client that is gone", {})
    if sock.family != socket.AF_UNIX:
        address = str((request.transport.get_extra_info("peername") or ("?",))[0]) if request.transport else "?"
        return Peer(f"a client at {address}", {"peer": address})
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    names = request.app[_NAMES]
    if uid not in names:
        names[uid] = await in_thread(_user_name, uid)
    return Peer(names[uid], {"uid": uid, "pid": pid, "user": names[uid]})


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _host_name(header: str) -> str:
    """The host of a Host header, in lower case, without port, brackets and the root's dot; empty for what is none."""
    match = _HOST.fullmatch(header)
    if match is None:
        return ""
    return (match["address"] or match["name"].removesuffix(".")).lower()


def _target_host(request: web.Request) -> str:
    """The host of the URL that is asked for, in lower case; where that is a mere path, the Host header's."""
    try:
        return (request.url.raw_host or "").lower().removesuffix(".")
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    """``host:port`` of an origin, in lower case; empty for ``null`` and for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@web.middleware
async def loopback_names_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what goes by another name than this machine's: a web page that has had its own name rebound to us."""
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not _is_loopback(_host_name(hosts[0])):
        return web.Response(status=403, text="this listener does not go by that name\n")
    return await handler(request)


async def body(request: web.Request, kind: type[T], *, seconds: float) -> T:
    """The body of a request as a ``kind``; fields that it does not have are passed over.

    Raise ``RefusedError``: no body or no JSON object (400), not sent as JSON (415), too large (413), not whole within
    ``seconds`` (408).
    """
    if not request.can_read_body:
        raise RefusedError(400, "missing request body")
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        # A web page can send a form to anybody; JSON it can send to those only who say that it may.
        raise RefusedError(415, "the body is not JSON as it stands", hint="Content-Type: application/json")
    raw = await _read(request, seconds)
    if not raw.strip():
        raise RefusedError(400, "missing request body")
    try:
        parsed = strict_json.parse(raw)
        if not isinstance(parsed, dict):
            raise RefusedError(400, "the body is not a JSON object")
        return msgspec.convert(parsed, kind)
    except strict_json.StrictJSONError as error:
        raise RefusedError(400, f"the body is refused: {error.message}") from error
    except msgspec.ValidationError as error:
        raise RefusedError(400, f"the body does not fit: {error}") from error


async def _read(request: web.Request, seconds: float) -> bytes:
    if (request.content_length or 0) > MAX_BODY:
        raise RefusedError(413, f"the body is larger than {MAX_BODY} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while part := await request.content.readany():
                size += len(part)
                if size > MAX_BODY:
                    raise RefusedError(413, f"the body is larger than {MAX_BODY} bytes")
                parts.append(part)
    except TimeoutError as error:
        raise RefusedError(408, f"the body did not come within {seconds:g} s") from error
    except web.RequestPayloadError as error:
        raise RefusedError(400, "the body is malformed") from error
    return b"".join(parts)
