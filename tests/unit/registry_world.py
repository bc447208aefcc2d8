"""A small HTTP server on a real socket that answers whatever a test tells it to, byte by byte, and what uses it."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aiohttp.abc import AbstractResolver, ResolveResult

from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName, Reference
from syncd.registry.client import RegistryClient
from syncd.registry.dial import AddressClass, classify
from syncd.registry.proxies import Proxies
from syncd.registry.retries import RetryPolicy
from syncd.registry.transport import Outside

CANARY = "canary-8f2a61c0d4"  # a secret that must be found nowhere
BLOB = bytes(range(256)) * 4096  # 1 MiB
WEIGHTS = Descriptor("application/vnd.ollama.image.model", Digest.of(BLOB), len(BLOB))
QUICK = RetryPolicy(attempts=3, seconds=5, first_wait=0.01, longest_wait=0.02)
ONCE = RetryPolicy(attempts=1)


@dataclass
class Asked:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Reply:
    """What to send. ``announced``: the Content-Length (None: the body's; -1: none). ``endless``: sent for ever."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    announced: int | None = None
    endless: bytes = b""
    chunked: bool = False
    close: bool = False
    hang: bool = False

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Said", *(f"{name}: {value}" for name, value in self.headers)]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif self.announced != -1 and not self.endless:
            lines.append(f"Content-Length: {len(self.body) if self.announced is None else self.announced}")
        return "\r\n".join([*lines, "", ""]).encode()


Answerer = Callable[[Asked], Reply]


class Server:
    """``answer`` may be put in place of another at any time. ``asked`` holds every request."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.connections = 0
        self.sent = 0
        self.port = 0
        self.host = "127.0.0.1"
        self.scheme = "http"
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._stopping = asyncio.Event()

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}"

    def paths(self) -> list[str]:
        return [one.path for one in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            del self._open[task]
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        begin = await reader.readexactly(1)
        if begin == b"\x16":  # a TLS handshake
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return False
        first, *lines = (begin + await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        asked = Asked(method, target, headers)
        self.asked.append(asked)
        reply = self.answer(asked)
        writer.write(reply.head())
        if reply.chunked:
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(reply.body), reply.body) if reply.body else b"0\r\n\r\n")
        else:
            writer.write(reply.body)
        await writer.drain()
        self.sent += len(reply.body)
        while reply.endless:
            writer.write(reply.endless)
            await writer.drain()
            self.sent += len(reply.endless)
        if reply.hang:
            await self._stopping.wait()
        return not reply.close and (reply.announced is None or reply.chunked)

    async def stop(self) -> None:
        self._stopping.set()
        left = dict(self._open)
        for writer in left.values():
            writer.transport.abort()
        await asyncio.gather(*left)


@contextlib.asynccontextmanager
async def serving(
    answer: Answerer, *, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.serve, host, 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    server.host = host
    server.scheme = "https" if context else "http"
    try:
        yield server
    finally:
        listener.close()
        await server.stop()


def ranged(asked: Asked, content: bytes = BLOB) -> Reply:
    """An honest answer to a request for a blob, range or not."""
    if "range" not in asked.headers:
        return Reply(body=content)
    first, _, last = asked.headers["range"].removeprefix("bytes=").partition("-")
    start, end = int(first), int(last) + 1
    return Reply(206, content[start:end], [("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")])


def manifest_of(*blobs: Descriptor) -> bytes:
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}
    layers = [{"mediaType": one.media_type, "digest": str(one.digest), "size": one.size} for one in blobs]
    return json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()


MANIFEST = manifest_of(WEIGHTS)


def registry(asked: Asked) -> Reply:
    """An honest little registry of one model."""
    if "/manifests/" in asked.path:
        return Reply(body=MANIFEST, headers=[("Content-Type", "text/plain")])
    return ranged(asked)


def name_on(server: Server) -> ModelName:
    return ModelName(server.authority, "library", "mistral", "7b")


def reference_on(server: Server, digest: Digest | None = None) -> Reference:
    return Reference(name_on(server), digest)


def client(configs: dict | None = None, **more: object) -> RegistryClient:
    settings = {
        "connect_timeout": 2.0,
        "read_timeout": 2.0,
        "random": lambda: 0.5,
        "retries": QUICK,
        "outside": Outside(proxies=Proxies({})),
        **more,
    }
    return RegistryClient(configs or {}, **settings)  # type: ignore[arg-type]  # tests name what they change


async def fetched(it: RegistryClient, name: ModelName, start: int = 0, end: int | None = None, **more: object) -> bytes:
    blob = more.pop("blob", WEIGHTS)
    async with it.open_range(name, blob, start, blob.size if end is None else end, **more) as body:
        return b"".join([part async for part in body.parts()])


class Names(AbstractResolver):
    """A resolver that knows what it is told."""

    def __init__(self, **known: str) -> None:
        self._known = known

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's signature
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._known[host.replace(".", "_")].split()
        ]

    async def close(self) -> None:
        pass


def with_public(address: str, **names: str) -> Outside:
    """A world in which one loopback address counts as public, so that a public registry can stand on it."""

    def judge(found: str) -> AddressClass:
        return AddressClass.GLOBAL if found == address else classify(found)

    return Outside(proxies=Proxies({}), classify=judge, resolver=Names(**names) if names else None)


def everything_said(error: BaseException) -> str:
    """All that an error could show anywhere: itself, its causes and contexts, and their fields."""
    said, todo, seen = "", [error], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        said += f"{one!s} {one!r} {vars(one)!r} {getattr(one, '__notes__', '')}"
        todo += [other for other in (one.__cause__, one.__context__) if other is not None]
    return said
