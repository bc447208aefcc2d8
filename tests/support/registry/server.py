"""The registry's HTTP side: the pull half of the OCI distribution API on three ports, honest until a rule hits."""

import asyncio
import json
import re
import socket
import ssl
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.support.content import Content, InMemory
from tests.support.ports import listening_on
from tests.support.registry.access import Access, token_body
from tests.support.registry.answers import Answer, Kind, Origin, Request, blob_answer, error, small
from tests.support.registry.faults import Rule
from tests.support.registry.sending import send
from tests.support.serving import HttpServer

_PATH = re.compile(r"/v2/(?P<repository>.+)/(?P<what>manifests|blobs)/(?P<reference>[^/]+)")
_BIND_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it is served. ``content_length`` False: in chunks, without one."""

    raw: bytes
    content_type: str
    content_length: bool


@dataclass(frozen=True, slots=True)
class CdnRules:
    """Blobs come from the CDN's port by a redirect. ``lifetime`` in seconds; ``uses``: so many requests per URL."""

    status: int
    lifetime: float | None
    uses: int | None


@dataclass(slots=True)
class Shelves:
    """What the registry holds, how it behaves, and what it was asked. Written by tests, read by the server's thread."""

    blobs: dict[str, Content] = field(default_factory=dict)
    manifests: dict[tuple[str, str], StoredManifest] = field(default_factory=dict)
    access: Access = field(default_factory=Access)
    cdn: CdnRules | None = None
    like_ollama: bool = False
    rules: list[Rule] = field(default_factory=list)
    log: list[Request] = field(default_factory=list)


class Server:
    """Listens on one loopback port per origin. Lives in one event loop; every method is called there."""

    def __init__(self, shelves: Shelves, sockets: dict[Origin, socket.socket], tls: ssl.SSLContext | None) -> None:
        self._shelves = shelves
        self._tls = tls
        self._sockets = sockets
        self._ports = {origin: listening.getsockname()[1] for origin, listening in sockets.items()}
        self._http: HttpServer | None = None

    def origin(self, origin: Origin) -> str:
        """``http://127.0.0.1:PORT`` of one of the origins."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._ports[origin]}"

    async def start(self) -> None:
        """Listen, on the same ports as before if it had listened before."""
        self._http = HttpServer(self._handle)
        for origin, port in self._ports.items():
            await self._http.listen(self._sockets.pop(origin, None) or await _listen_again(port), self._tls)

    def drop_connections(self) -> None:
        """Break every connection at once."""
        if self._http is not None:
            self._http.drop_connections()

    async def stop(self) -> None:
        """Break every connection and listen no more."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        log = self._logged(http)
        answer = self._answer(http, log)
        log.status = int(answer.status)
        hit = [rule for rule in tuple(self._shelves.rules) if rule.applies(log, answer)]
        for rule in hit:
            rule.fault(answer, log)
        log.status = int(answer.status)
        try:
            return await send(http, answer, log, hit)
        finally:
            log.finished = True

    def _logged(self, http: web.BaseRequest) -> Request:
        transport = http.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        port = transport.get_extra_info("sockname")[1]
        origin = next(origin for origin, its_port in self._ports.items() if its_port == port)
        match = _PATH.fullmatch(http.rel_url.path)
        reference = match["reference"] if match else None
        digest = reference if reference is not None and reference.startswith("sha256:") else None
        kind = Kind.TOKEN if http.rel_url.path == "/token" else Kind.OTHER
        if match is not None:
            kind = Kind.MANIFEST if match["what"] == "manifests" else Kind.BLOB
        log = Request(
            number=len(self._shelves.log),
            origin=origin,
            method=http.method,
            path=http.raw_path,
            kind=kind,
            headers=CIMultiDict(http.headers),
            peer_port=transport.get_extra_info("peername")[1],
            repository=match["repository"] if match else None,
            digest=digest,
            tag=None if digest else reference,
        )
        self._shelves.log.append(log)
        return log

    def _answer(self, http: web.BaseRequest, log: Request) -> Answer:  # noqa: PLR0911 - one answer per kind of request
        if log.kind is Kind.TOKEN:
            return self._token(http, log)
        if log.method not in ("GET", "HEAD"):
            return error(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED")
        if log.origin is Origin.CDN:
            return self._from_cdn(http, log)
        scope = f"repository:{log.repository}:pull" if log.repository else "registry:catalog:*"
        if challenge := self._shelves.access.challenge(log.authorization, scope):
            return error(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", {"WWW-Authenticate": challenge})
        match log.kind:
            case Kind.MANIFEST:
                return self._manifest(log)
            case Kind.BLOB:
                return self._blob(log)
            case _ if http.rel_url.path == "/v2/" and not self._shelves.like_ollama:
                return small(HTTPStatus.OK, b"{}", {"Content-Type": "application/json"})
            case _:
                return error(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN")

    def _token(self, http: web.BaseRequest, log: Request) -> Answer:
        rules = self._shelves.access.tokens
        # As it was sent: a signature is over the very text of the URL.
        url = URL(f"{self.origin(log.origin)}{log.path}", encoded=True)
        token = self._shelves.access.grant(url, http.headers.get("Authorization"))
        if rules is None or token is None:
            return error(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED")
        return small(HTTPStatus.OK, json.dumps(token_body(token, rules)).encode(), {"Content-Type": "application/json"})

    def _manifest(self, log: Request) -> Answer:
        if self._shelves.like_ollama and log.method == "HEAD":
            return error(HTTPStatus.METHOD_NOT_ALLOWED, "UNSUPPORTED")
        if self._shelves.like_ollama and log.digest:
            return error(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN")
        stored = self._shelves.manifests.get((log.repository or "", log.digest or log.tag or ""))
        if stored is None:
            return error(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN")
        headers = CIMultiDict({"Content-Type": stored.content_type})
        plain = self._shelves.like_ollama or not stored.content_length
        if self._shelves.like_ollama:
            headers["Content-Type"] = "text/plain; charset=utf-8"
        else:
            headers["Docker-Content-Digest"] = InMemory(stored.raw).digest
        size = len(stored.raw)
        return Answer(HTTPStatus.OK, headers, InMemory(stored.raw), 0, size, None if plain else size)

    def _blob(self, log: Request) -> Answer:
        blob = self._shelves.blobs.get(log.digest or "")
        if blob is None or log.digest is None:
            return error(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN")
        cdn = self._shelves.cdn
        if cdn is None:
            return blob_answer(blob, log.digest, log.range)
        signature = self._shelves.access.sign(log.path, cdn.lifetime, cdn.uses)
        target = URL(f"{self.origin(Origin.CDN)}{log.path}").with_query(sig=signature, expires="soon")
        return small(cdn.status, b"", {"Location": str(target)})

    def _from_cdn(self, http: web.BaseRequest, log: Request) -> Answer:
        blob = self._shelves.blobs.get(log.digest or "")
        if blob is None or log.digest is None:
            return error(HTTPStatus.NOT_FOUND, "BLOB_UNKNOWN")
        if log.authorization is not None:  # as S3: one way of authenticating, not two
            return error(HTTPStatus.BAD_REQUEST, "UNSUPPORTED")
        if not self._shelves.access.signature_passes(http.rel_url.query.get("sig"), http.rel_url.raw_path):
            return small(HTTPStatus.FORBIDDEN, b"Request has expired", {"Content-Type": "text/plain"})
        answer = blob_answer(blob, log.digest, log.range)
        answer.headers.popall("Docker-Content-Digest", None)  # object stores know nothing of it
        return answer


async def _listen_again(port: int) -> socket.socket:
    for attempt in range(_BIND_ATTEMPTS):
        try:
            return listening_on(port)
        except OSError:  # what was just broken may hold the port for a moment
            if attempt == _BIND_ATTEMPTS - 1:
                raise
            await asyncio.sleep(0.05)
    raise AssertionError
