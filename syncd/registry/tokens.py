"""The Authorization header for each endpoint: tokens fetched once, kept until they expire, renewed when refused."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from yarl import URL

from syncd.aio import in_thread
from syncd.errors import (
    ConfigurationError,
    NotAuthorisedError,
    RedirectRefusedError,
    RegistryUnavailableError,
    SyncdError,
)
from syncd.registry import answers, auth
from syncd.registry.auth import Token, TokenService
from syncd.registry.hosts import RegistryConfig, Site
from syncd.registry.recent import Recent
from syncd.registry.redirects import authority
from syncd.registry.retries import Retrying
from syncd.registry.transport import Answer, Reach, Transport

_REMEMBERED = 1024
_EARLY = 0.1  # of a token's time: it is renewed that much before its end, so that it does not expire on the way

Key: TypeAlias = tuple[URL, TokenService]


class TokenUnavailableError(RegistryUnavailableError):
    """The token service failed in a way that may pass, and was already asked several times."""


@dataclass(frozen=True, slots=True)
class _Known:
    """How an endpoint lets one in: by basic auth (no service), or by a token from a service within ``reach``."""

    service: TokenService | None
    reach: Reach


@dataclass(frozen=True, slots=True)
class _Held:
    authorization: str = field(repr=False)
    until: float


class Authoriser:
    """Knows, per endpoint and repository, what to send; asks token services, once for all who wait for the same."""

    def __init__(
        self, transport: Transport, retrying: Retrying, *, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        """``clock``: monotonic; ``wall_clock``: since the epoch; both in seconds."""
        self._transport, self._retrying = transport, retrying
        self._clock, self._wall_clock = clock, wall_clock
        self._known: Recent[tuple[URL, str], _Known] = Recent(_REMEMBERED)
        self._held: Recent[Key, _Held] = Recent(_REMEMBERED)
        self._flights: dict[Key, asyncio.Future[str]] = {}

    async def before(self, site: Site, repository: str) -> str | None:
        """The header for a request that was not refused yet: a ready token, or what the last challenge led to."""
        credentials = site.config.credentials
        if credentials is not None and credentials.token is not None:
            return _ready(credentials.token, site)
        known = self._known.get((site.endpoint.base, repository))
        if known is None:
            return None
        if known.service is None:
            return auth.basic(credentials.basic) if credentials is not None and credentials.basic else None
        return await self._token(site, known.service, known.reach)

    async def after(self, site: Site, repository: str, refusal: Answer, *, refused: str | None, reach: Reach) -> str:
        """The header to try once more with, after a 401 that answered ``refused``.

        ``reach``: where the registry may send us for a token. Raise ``NotAuthorisedError`` where nothing is left.
        """
        asked = auth.challenges(", ".join(refusal.headers.getall("WWW-Authenticate", ())))
        credentials = site.config.credentials
        renewable = credentials is None or credentials.token is None
        for challenge in asked:
            if challenge.scheme == "bearer" and renewable:
                service = TokenService.of(challenge, registry=site.endpoint.base, repository=repository)
                self._known.put((site.endpoint.base, repository), _Known(service, reach))
                self._refuse((site.endpoint.base, service), refused)
                return await self._token(site, service, reach)
        pair = credentials.basic if credentials is not None else None
        if renewable and pair and auth.basic(pair) != refused and any(one.scheme == "basic" for one in asked):
            self._known.put((site.endpoint.base, repository), _Known(None, reach))
            return auth.basic(pair)
        host = site.endpoint.source
        said = "does not accept the credentials that are configured for it" if refused else "wants credentials"
        raise NotAuthorisedError(
            f"{host} {said} (for {repository})", hint=f'set them in [registries."{host}"] of the settings'
        )

    def _refuse(self, key: Key, refused: str | None) -> None:
        held = self._held.get(key)
        if held is not None and held.authorization == refused:
            self._held.forget(key, held)

    async def _token(self, site: Site, service: TokenService, reach: Reach) -> str:
        key = (site.endpoint.base, service)
        while True:
            held = self._held.get(key)
            if held is not None and self._clock() < held.until:
                return held.authorization
            flight = self._flights.get(key)
            if flight is None:
                return await self._lead(key, lambda: self._fetch(site, service, reach))
            await asyncio.wait((flight,))
            if not flight.cancelled():
                return flight.result()
            # Who was to fetch it was cancelled, and that is nothing of ours: the next in line does.

    async def _lead(self, key: Key, fetch: Callable[[], Awaitable[Token]]) -> str:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        asked = self._clock()
        try:
            token = await fetch()
        except SyncdError as error:
            flight.set_exception(error)
            flight.exception()  # seen: nobody may be waiting
            raise
        else:
            self._held.put(key, _Held(token.authorization, asked + token.seconds * (1 - _EARLY)))
            flight.set_result(token.authorization)
            return token.authorization
        finally:
            del self._flights[key]
            if not flight.done():
                flight.cancel()

    async def _fetch(self, site: Site, service: TokenService, reach: Reach) -> Token:
        try:
            return await self._retrying(lambda: self._ask(site, service, reach))
        except RegistryUnavailableError as error:
            raise TokenUnavailableError(error.message, hint=error.hint, retry_after=error.retry_after) from error

    async def _ask(self, site: Site, service: TokenService, reach: Reach) -> Token:
        trusted = service.trusted(site.endpoint.base, site.config.auth_hosts)
        url, authorization = await self._request(site, service, trusted=trusted)
        source = authority(url)
        answer = await self._transport.get(
            url,
            {"Authorization": authorization} if authorization else {},
            reach=None if trusted else reach,
            ca_file=site.config.ca_file,
        )
        try:
            seconds = self._transport.read_timeout
            if 300 <= answer.status < 400:  # noqa: PLR2004 - HTTP's redirects
                raise RedirectRefusedError(f"the token service at {source} redirects; not followed")
            if answer.status != 200:  # noqa: PLR2004 - HTTP's "OK"
                error = await answers.failure(
                    answer,
                    source=source,
                    wanted=f"a token for {site.endpoint.source}",
                    now=self._wall_clock(),
                    seconds=seconds,
                    secrets=auth.secrets_in(authorization),
                )
                raise _explained(error, site, source, trusted=trusted)
            body = await answers.read_body(answer, auth.MAX_TOKEN_BYTES, seconds=seconds, source=source)
        finally:
            answer.close()
        return Token.parse(body, source)

    async def _request(self, site: Site, service: TokenService, *, trusted: bool) -> tuple[URL, str | None]:
        credentials = site.config.credentials
        if trusted and credentials is not None and credentials.basic:
            return service.url(), auth.basic(credentials.basic)
        if trusted and site.config.has_key:
            url = service.url(ts=str(int(self._wall_clock())), nonce=secrets.token_urlsafe(16))
            return url, await in_thread(_signed, site.config, url)
        return service.url(), None


def _ready(token: str, site: Site) -> str:
    try:
        return auth.bearer(token)
    except SyncdError as error:
        raise ConfigurationError(f"the token configured for {site.endpoint.source} is no token") from error


def _signed(config: RegistryConfig, url: URL) -> str:
    from syncd.registry import signing  # noqa: PLC0415 - only who has a key pays for cryptography

    pem = config.key_pem
    if pem is None and config.key_file is not None:
        try:
            pem = config.key_file.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"key_file {config.key_file} cannot be read: {error.strerror}") from error
    return signing.signed(signing.load_key(pem or b"", str(config.key_file or "key")), url)


def _explained(error: SyncdError, site: Site, source: str, *, trusted: bool) -> SyncdError:
    config = site.config
    if isinstance(error, NotAuthorisedError) and not trusted and (config.credentials or config.has_key):
        hint = f'it was not sent the credentials of {site.endpoint.source}: name "{source}" in auth_hosts to allow that'
        return NotAuthorisedError(error.message, hint=hint)
    return error
