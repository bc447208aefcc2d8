"""What tests hold in their hands: a registry in a thread of its own, told from any thread what it does."""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, Unpack

from tests.support.content import Content, content, digest_of
from tests.support.models import MANIFEST_TYPE, Model
from tests.support.ports import listening, listening_on
from tests.support.registry import faults
from tests.support.registry.access import TokenRules
from tests.support.registry.answers import Answer, Kind, Origin, Request
from tests.support.registry.faults import Fault, RangeLie, Rule, Scope
from tests.support.registry.server import CdnRules, Server, Shelves, StoredManifest
from tests.support.serving import LoopThread


@dataclass(frozen=True, slots=True)
class ModelHandle:
    """A model as this registry serves it. ``name`` is what ``syncd pull`` takes; digests are ``sha256:…``."""

    name: str
    repository: str
    tag: str
    manifest: bytes
    blobs: Mapping[str, Content]
    weights: str
    config: str

    @property
    def digest(self) -> str:
        """The manifest's own."""
        return digest_of(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of all blobs, each counted once."""
        return sum(blob.size for blob in self.blobs.values())

    @property
    def weights_size(self) -> int:
        return self.blobs[self.weights].size


class ScriptedRegistry:
    """A registry, its CDN and its token service, on three loopback ports. A context manager, plain or async.

    Every method may be called from any thread and from async code: none waits longer than a moment, but for the
    ``wait_until`` family.
    """

    def __init__(self, *, like_ollama: bool = False, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """``like_ollama``: text/plain manifests in chunks, no HEAD, none by digest, blobs from a signed CDN URL."""
        self.shelves = Shelves(like_ollama=like_ollama)
        self._ports = {Origin.REGISTRY: port, Origin.CDN: 0, Origin.TOKEN: 0}
        self._tls = tls
        self._thread = LoopThread("scripted-registry")
        self._server: Server | None = None
        if like_ollama:
            self.serve_blobs_from_cdn(status=307)

    # Life

    def __enter__(self) -> Self:
        sockets = {origin: listening_on(port) if port else listening() for origin, port in self._ports.items()}
        self._server = Server(self.shelves, sockets, self._tls)
        self._thread.start()
        self._thread.call(self._server.start())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.end()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def stop(self) -> None:
        """Break all connections and listen no more: connecting is refused."""
        self._thread.call(self._running.stop())

    def start(self) -> None:
        """Listen again, on the same ports."""
        self._thread.call(self._running.start())

    def restart(self) -> None:
        """As a registry that was restarted: all connections break, the ports stay the same."""
        self.stop()
        self.start()

    def drop_connections(self) -> None:
        """As a network that blinked: all connections break, the registry listens on."""
        self._thread.loop.call_soon_threadsafe(self._running.drop_connections)

    # Where it is

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT`` of the registry itself."""
        return self._running.origin(Origin.REGISTRY)

    @property
    def host(self) -> str:
        """``127.0.0.1:PORT``: the host part of its models' names."""
        return self.url.partition("://")[2]

    @property
    def cdn_url(self) -> str:
        return self._running.origin(Origin.CDN)

    @property
    def token_url(self) -> str:
        """The origin of the separate token service."""
        return self._running.origin(Origin.TOKEN)

    # What it has

    def add(self, model: Model) -> ModelHandle:
        """Serve a model under its own name; again for another version of it."""
        for blob in model.blobs.values():
            self.put_blob(blob)
        path, _, tag = model.name.rpartition(":")
        repository = path if "/" in path else f"library/{path}"
        self.put_manifest(model.manifest, repository, tag)
        return ModelHandle(
            name=f"{self.host}/{repository}:{tag}",
            repository=repository,
            tag=tag,
            manifest=model.manifest,
            blobs=model.blobs,
            weights=model.weights,
            config=model.config,
        )

    def put_blob(self, blob: bytes | Path | Content, digest: str | None = None) -> str:
        """Serve a blob, under its own digest or a false one. Return the digest."""
        held = content(blob)
        digest = digest or held.digest
        self.shelves.blobs[digest] = held
        return digest

    def put_manifest(
        self,
        raw: bytes,
        repository: str = "library/model",
        tag: str = "latest",
        *,
        content_type: str = MANIFEST_TYPE,
        content_length: bool = True,
    ) -> str:
        """Serve these very bytes as a manifest, well-formed or not, by tag and by digest. Return the model's name."""
        stored = StoredManifest(raw, content_type, content_length)
        self.shelves.manifests[repository, digest_of(raw)] = stored
        self.shelves.manifests[repository, tag] = stored
        return f"{self.host}/{repository}:{tag}"

    def remove_blob(self, digest: str) -> None:
        """From now on 404."""
        del self.shelves.blobs[str(digest)]

    # How it behaves

    def serve_blobs_from_cdn(
        self, *, status: int = 307, lifetime: float | None = None, uses: int | None = None
    ) -> None:
        """Redirect to signed URLs on the CDN's port, valid for ``lifetime`` seconds or ``uses`` requests, then 403."""
        self.shelves.cdn = CdnRules(status, lifetime, uses)

    def require_token(
        self,
        *,
        realm: str | None = None,
        on: Origin = Origin.REGISTRY,
        service: str = "registry",
        login: tuple[str, str] | None = None,
        keys: tuple[bytes, ...] = (),
        lifetime: float | None = None,
        uses: int | None = None,
        field: Literal["token", "access_token"] = "token",
    ) -> None:
        """Ask for a bearer token, given at ``realm`` (else by the token service ``on`` one of the ports).

        The service wants basic credentials (``login``), a signature by one of the raw ed25519 ``keys`` as Ollama's
        does, or nothing. A token is good for ``lifetime`` seconds, or ``uses`` requests.
        """
        realm = realm or f"{self._running.origin(on)}/token"
        self.shelves.access.tokens = TokenRules(realm, service, login, keys, lifetime, uses, field)

    def require_basic(self, user: str, password: str) -> None:
        """Ask for basic credentials on every request."""
        self.shelves.access.basic = (user, password)

    def expire(self) -> None:
        """Every token and signed URL given out so far is void from now on."""
        self.shelves.access.expire_all()

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every token and URL signature given out: none may show in a log."""
        return tuple(self.shelves.access.issued)

    # What goes wrong; each returns its rule. Scope: see faults.Scope. Faults of a body are for blobs unless kind says
    # else, and hit (and count) only answers that are long enough to show them.

    def drop_after(self, after: int, *, reset: bool = False, **scope: Unpack[Scope]) -> Rule:
        """Close the connection after ``after`` bytes of an answer's body (``reset``: by an RST)."""
        return self._of_blobs(faults.drop(after, reset=reset), scope, _longer_than(after))

    def truncate(self, after: int, **scope: Unpack[Scope]) -> Rule:
        """Announce all, send ``after`` bytes, close: what a proxy does that ran out of room."""
        return self._of_blobs(faults.drop(after, reset=False), scope, _longer_than(after))

    def hang_up(self, **scope: Unpack[Scope]) -> Rule:
        """Close the connection without an answer."""
        return self._anywhere(faults.hang_up(), scope)

    def stall(self, after: int | None = None, **scope: Unpack[Scope]) -> Rule:
        """Fall silent after ``after`` bytes of the body, or before the answer; until the rule is lifted."""
        return self._of_blobs(faults.stall(after), scope, _longer_than(after or 0))

    def throttle(self, bytes_per_second: float, **scope: Unpack[Scope]) -> Rule:
        """Send no faster than this on each connection that is hit; ``sticky`` slows one for good."""
        return self._of_blobs(faults.throttle(bytes_per_second), scope)

    def flip(self, offset: int, **scope: Unpack[Scope]) -> Rule:
        """Change one bit of the byte at ``offset`` of the blob, in each answer hit that carries it."""
        return self._of_blobs(faults.flip(offset), scope, lambda answer: answer.start <= offset < answer.stop)

    def overrun(
        self,
        extra: int = faults.FOREVER,
        *,
        announced: Literal["not", "honestly", "wholly"] = "not",
        **scope: Unpack[Scope],
    ) -> Rule:
        """Send ``extra`` bytes more than there are: endless bodies. ``announced``: what Content-Length says of them."""
        return self._of_blobs(faults.overrun(extra, announced=announced), scope)

    def lie_about_range(self, lie: RangeLie, **scope: Unpack[Scope]) -> Rule:
        """Answer ranges wrongly."""
        return self._of_blobs(faults.lie_about_range(lie), scope, lambda answer: answer.status == 206)

    def compress(self, *, bomb: int = 0, **scope: Unpack[Scope]) -> Rule:
        """Content-Encoding: gzip, asked for or not; ``bomb``: so many zeros instead of the content."""
        return self._of_blobs(faults.compress(bomb=bomb), scope)

    def answer(
        self, status: int, *, retry_after: str | None = None, body: bytes = b"no\n", **scope: Unpack[Scope]
    ) -> Rule:
        """Answer with this status."""
        return self._anywhere(faults.status(status, retry_after=retry_after, body=body), scope)

    def redirect(self, location: str | Callable[[Request], str], *, status: int = 307, **scope: Unpack[Scope]) -> Rule:
        """Redirect blobs (or what ``kind`` says) to ``location``; a function makes it from the request."""
        scope.setdefault("kind", Kind.BLOB)
        return self._anywhere(faults.redirect(status, location), scope)

    def redirect_loop(self, *, status: int = 307, **scope: Unpack[Scope]) -> Rule:
        """Redirect to where the request already is."""
        return self.redirect(lambda request: request.path, status=status, **scope)

    def wrong_digest_header(self, claimed: str = "sha256:" + 64 * "0", **scope: Unpack[Scope]) -> Rule:
        """Send this Docker-Content-Digest (with manifests, unless ``kind`` says else)."""
        scope.setdefault("kind", Kind.MANIFEST)
        return self._anywhere(faults.wrong_digest_header(claimed), scope)

    def heal(self) -> None:
        """Lift every rule."""
        for rule in self.shelves.rules:
            rule.lift()
        self.shelves.rules = []

    # What it was asked

    @property
    def requests(self) -> tuple[Request, ...]:
        """Everything that was asked, in order."""
        return tuple(self.shelves.log)

    def manifest_requests(self) -> list[Request]:
        return [request for request in self.requests if request.kind is Kind.MANIFEST]

    def blob_requests(self) -> list[Request]:
        return [request for request in self.requests if request.kind is Kind.BLOB]

    def requests_for(self, digest: object) -> list[Request]:
        """Requests for a blob (or a manifest by digest), the redirects to the CDN included."""
        return [request for request in self.requests if request.digest == str(digest)]

    def bytes_served(self, digest: object = None) -> int:
        """Bytes of this blob that went out, or of all blobs; growing while they do."""
        return sum(
            request.sent
            for request in self.blob_requests()
            if request.status in faults.CONTENT and (digest is None or request.digest == str(digest))
        )

    def forget_requests(self) -> None:
        """Begin the log anew."""
        self.shelves.log = []

    def wait_until(self, condition: Callable[[Self], bool], *, seconds: float = 30.0) -> None:
        """Block until ``condition(registry)`` holds: ``lambda r: r.bytes_served(digest) > half``."""
        deadline = time.monotonic() + seconds
        while not condition(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so within {seconds} s; {len(self.requests)} requests came")
            time.sleep(0.005)

    async def until(self, condition: Callable[[Self], bool], *, seconds: float = 30.0) -> None:
        """``wait_until`` for async tests."""
        async with asyncio.timeout(seconds):
            while not condition(self):
                await asyncio.sleep(0.005)

    # Inside

    @property
    def _running(self) -> Server:
        if self._server is None:
            raise RuntimeError("use the registry in a with statement")
        return self._server

    def _of_blobs(self, fault: Fault, scope: Scope, fits: Callable[[Answer], bool] = lambda _: True) -> Rule:
        scope.setdefault("kind", Kind.BLOB)
        return self._rule(fault, scope, lambda answer: answer.status in faults.CONTENT and fits(answer))

    def _anywhere(self, fault: Fault, scope: Scope) -> Rule:
        return self._rule(fault, scope, lambda _: True)

    def _rule(self, fault: Fault, scope: Scope, fits: Callable[[Answer], bool]) -> Rule:
        if "digest" in scope:
            scope["digest"] = str(scope["digest"])
        rule = Rule(fault, scope, fits)
        rule.bind(self._thread.loop)
        self.shelves.rules = [*self.shelves.rules, rule]
        return rule


def _longer_than(length: int) -> Callable[[Answer], bool]:
    return lambda answer: answer.stop - answer.start > length
