"""One GET at a time over aiohttp, redirects by hand: sessions, TLS, proxies, timeouts, and errors without secrets."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from syncd.aio import in_thread
from syncd.errors import (
    ConfigurationError,
    RedirectRefusedError,
    RegistryError,
    RegistryUnavailableError,
    SyncdError,
)
from syncd.registry import auth, dial, redirects
from syncd.registry.proxies import VARIABLES, Proxies, Proxy

if TYPE_CHECKING:
    from aiohttp.connector import Connection

# Bodies: how much one connection may hold unread before its socket is left alone (aiohttp stops at twice this).
_READ_BUFFER = 512 * 1024
_MAX_HEADER = 32 * 1024  # a signed URL in Location is long
_KEEP_ALIVE = 30.0
_DNS_SECONDS = 30
_SECRET_LENGTH = 8

# Where a request may be dialled: anywhere (the host that the operator configured), or only at these classes.
Reach = frozenset[dial.AddressClass] | None


class Answer(aiohttp.ClientResponse):
    """A response that remembers the address it came from: aiohttp forgets it with the connection."""

    dialled: str | None = None

    async def start(self, connection: "Connection") -> Self:
        """Take the address down, then read the headers."""
        peer = connection.transport.get_extra_info("peername") if connection.transport is not None else None
        self.dialled = str(peer[0]) if peer else None
        await super().start(connection)
        return self


@dataclass(frozen=True, slots=True)
class Landed:
    """The answer at the end of the redirects.

    ``inside``: no redirect left the origin that was asked. ``reach``: where that origin may redirect to.
    """

    answer: Answer = field(repr=False)
    url: URL = field(repr=False)
    inside: bool
    reach: Reach
    authorization: str | None = field(default=None, repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What the request carried and no message may repeat: credentials, and what a signed address is signed with."""
        raw = (part.partition("=")[2] for part in self.url.raw_query_string.split("&"))
        signature = {value for value in (*raw, *self.url.query.values()) if len(value) >= _SECRET_LENGTH}
        return (*auth.secrets_in(self.authorization), *sorted(signature, key=len, reverse=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What the transport takes from the world, so that tests can put their own in its place."""

    proxies: Proxies
    classify: dial.Classify = dial.classify
    resolver: AbstractResolver | None = None


class Transport:
    """Owns the aiohttp sessions, one for each set of addresses that may be dialled: pools must not mix those."""

    def __init__(self, *, user_agent: str, connect_timeout: float, read_timeout: float, outside: Outside) -> None:
        """Times in seconds; ``read_timeout``: from the request to the answer's headers, connecting included."""
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self._outside = outside
        self._sessions: dict[Reach, aiohttp.ClientSession] = {}
        self._contexts: dict[Path, ssl.SSLContext] = {}

    async def close(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def follow(
        self, url: URL, headers: Mapping[str, str], *, authorization: str | None, reach: Reach, ca_file: Path | None
    ) -> Landed:
        """GET ``url``, following redirects; the caller judges the status and closes the answer.

        ``authorization`` goes to the origin of ``url`` only, and never again once a redirect has left that.
        ``reach``: None where ``url`` is on a configured host; else it came from a redirect itself.
        Raise ``RedirectRefusedError`` or what ``get`` raises.
        """
        start, inside, origin_reach = url, True, reach
        for _ in range(redirects.MAX_REDIRECTS + 1):
            sent = {**headers, "Authorization": authorization} if inside and authorization else headers
            answer = await self.get(url, sent, reach=reach if inside else origin_reach, ca_file=ca_file)
            if inside and reach is None:
                origin_reach = self.reach_from(answer)
            if answer.status not in redirects.REDIRECTS:
                return Landed(answer, url, inside, origin_reach, authorization if inside else None)
            answer.release()
            url = redirects.target(url, answer.headers.get("Location"))
            inside = inside and redirects.same_origin(url, start)
        raise RedirectRefusedError(
            f"{redirects.authority(start)} redirects more than {redirects.MAX_REDIRECTS} times; not followed"
        )

    def reach_from(self, answer: Answer) -> Reach:
        """Where the host that gave ``answer`` may redirect to."""
        if answer.dialled is None or self._outside.proxies.for_url(answer.url) is not None:
            return dial.reach_from(None)
        return dial.reach_from(self._outside.classify(answer.dialled))

    async def get(self, url: URL, headers: Mapping[str, str], *, reach: Reach, ca_file: Path | None) -> Answer:
        """One GET, up to the answer's headers; no redirect is followed.

        Raise ``RegistryUnavailableError`` where nothing answers, ``RedirectRefusedError`` where the address is out of
        ``reach``, ``RegistryError`` where TLS fails for good.
        """
        proxy = self._outside.proxies.for_url(url)
        context = True if ca_file is None or url.scheme != "https" else await self._context(ca_file)
        try:
            async with asyncio.timeout(self.read_timeout):
                answer = await self._send(url, headers, reach=reach, proxy=proxy, context=context)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            refusal = _translated(error, redirects.authority(url), self.read_timeout)
        else:
            return answer
        # Raised here, not chained: aiohttp's errors carry the whole address, signature and all, and the headers.
        raise refusal

    async def _send(
        self, url: URL, headers: Mapping[str, str], *, reach: Reach, proxy: Proxy | None, context: ssl.SSLContext | bool
    ) -> Answer:
        # A proxy is configured, so it is dialled wherever it is, and it does its own dialling.
        session = self._session(None if proxy else reach)
        # What is plain http the proxy reads itself; for what is not, its credentials belong to its CONNECT only.
        tunnel = url.scheme == "https"
        answer = await session.get(
            url,
            headers={**headers, **(proxy.headers if proxy and not tunnel else {})},
            allow_redirects=False,
            ssl=context,
            proxy=proxy.url if proxy else None,
            proxy_headers=dict(proxy.headers) if proxy and tunnel else None,
        )
        assert isinstance(answer, Answer)  # noqa: S101 - the session's response_class
        return answer

    def _session(self, reach: Reach) -> aiohttp.ClientSession:
        if reach not in self._sessions:
            connector = aiohttp.TCPConnector(
                limit=0,  # the budget of connections is the engine's
                keepalive_timeout=_KEEP_ALIVE,
                ttl_dns_cache=_DNS_SECONDS,
                resolver=self._outside.resolver,
                socket_factory=None if reach is None else dial.guarded(reach, self._outside.classify),
            )
            self._sessions[reach] = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                response_class=Answer,
                read_bufsize=_READ_BUFFER,
                max_field_size=_MAX_HEADER,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
            )
        return self._sessions[reach]

    async def _context(self, ca_file: Path) -> ssl.SSLContext:
        if ca_file not in self._contexts:
            self._contexts[ca_file] = await in_thread(_trusting, ca_file)
        return self._contexts[ca_file]


def _trusting(ca_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "no certificates in it"
        raise ConfigurationError(f"ca_file {ca_file} cannot be used: {reason}", hint="give a PEM file") from error
    return context


def _translated(error: Exception, host: str, seconds: float) -> SyncdError:
    """The error to raise in place of aiohttp's: what it says is written here, never taken from an address."""
    match error:
        case aiohttp.ClientConnectorError(os_error=dial.AddressRefusedError()):
            return RedirectRefusedError(
                f"a redirect leads to {host}, which is on an address that it may not lead to",
                hint="only a registry or mirror that is itself on such an address may redirect to one",
            )
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", None) or "it does not fit"
            return RegistryError(
                f"{host}: its certificate is not trusted ({reason})", hint="a CA of your own goes into ca_file"
            )
        case aiohttp.ClientConnectorSSLError(os_error=ssl.SSLError(reason=str() as reason)) if "EOF" not in reason:
            hint = f"if {host} speaks plain http, say so with plain_http = true"
            return RegistryError(f"{host} does not speak TLS as it should ({reason})", hint=hint)
        case _:
            network = f"check the name, the network and {', '.join(VARIABLES)}"
            lasting = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError)
            return RegistryUnavailableError(_passing(error, host, seconds), hint=network if lasting else None)


def _passing(error: Exception, host: str, seconds: float) -> str:
    """What happened, for what may be over when it is tried again."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            said = f"{host}: its name cannot be resolved"
        case aiohttp.ClientProxyConnectionError():
            said = f"{host}: the proxy in front of it cannot be reached"
        case aiohttp.ClientHttpProxyError():
            said = f"{host}: the proxy in front of it answers {error.status}"
        case aiohttp.ClientConnectorError():
            said = f"{host} cannot be reached: {error.os_error.strerror or type(error.os_error).__name__}"
        case TimeoutError():
            said = f"{host} did not answer within {seconds:g} s"
        case aiohttp.ClientResponseError():
            said = f"{host} answers with something that is not HTTP"
        case _:
            said = f"{host}: {broken(error)}"
    return said


def broken(error: Exception) -> str:
    """Why a connection ended, in words of ours."""
    match error:
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "the connection ended early"
        case OSError(strerror=str() as reason) if reason:
            return f"the connection broke: {reason}"
        case _:
            return f"the connection broke ({type(error).__name__})"
