"""Challenges and tokens: what a registry asks for, what is sent to whom, and what comes back. No requests here.

RFC 9110 section 11.6; the distribution spec's token authentication; ollama ``server/auth.go``.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from yarl import URL

from syncd.errors import RegistryError
from syncd.oci import strict_json
from syncd.registry.redirects import authority
from syncd.text import printable

MAX_TOKEN_BYTES = 1024 * 1024
_MAX_TOKEN_LENGTH = 24 * 1024  # it has to fit into a header
DEFAULT_TOKEN_SECONDS = 60.0
_LONGEST_TOKEN_SECONDS = 3600.0

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word for a word
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?=\s|,|$)\s*")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))(?=\s*(?:,|$))')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")
_VISIBLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header; scheme and parameter names in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def challenges(header: str) -> tuple[Challenge, ...]:
    """All challenges in a WWW-Authenticate header (several headers joined by commas). What makes no sense ends it."""
    found: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        parameters: dict[str, str] = {}
        if not _PARAMETER.match(header, at) and (blob := _TOKEN68.match(header, at)):
            at = blob.end()
        while parameter := _PARAMETER.match(header, at):
            name, quoted, plain = parameter.groups()
            parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) if plain is None else plain)
            at = parameter.end()
        found.append(Challenge(match[1].lower(), parameters))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class TokenService:
    """Where a bearer token is to be had, and for what."""

    realm: URL
    service: str
    scope: str

    @classmethod
    def of(cls, challenge: Challenge, *, registry: URL, repository: str) -> "TokenService":
        """Raise ``RegistryError`` for a realm that is not https (nor, for an http registry, http)."""
        here = authority(registry)
        text = challenge.parameters.get("realm", "")
        try:
            realm = URL(text, encoded=True) if _VISIBLE.fullmatch(text) else URL()
            usable = bool(realm.raw_host) and realm.port is not None and realm.raw_user is None
        except ValueError:
            usable = False
        if not usable:
            raise RegistryError(f"{here} names a token service that is no address")
        if realm.scheme != "https" and (realm.scheme, registry.scheme) != ("http", "http"):
            scheme = printable(realm.scheme, limit=20)
            raise RegistryError(
                f"{here} names a token service over {scheme!r}, at {printable(authority(realm))}; refused"
            )
        scope = challenge.parameters.get("scope", "").strip() or f"repository:{repository}:pull"
        return cls(realm.with_fragment(None), challenge.parameters.get("service", ""), scope)

    def trusted(self, registry: URL, auth_hosts: tuple[str, ...]) -> bool:
        """Whether the registry's credentials may go there: its own host, or one that the settings name."""
        there = authority(self.realm)
        return there == authority(registry) or there in {host.lower() for host in auth_hosts}

    def url(self, **more: str) -> URL:
        """The address to GET; ``more``: what a signed request adds. Sorted, as Ollama's client sends it."""
        query = parse_qsl(self.realm.raw_query_string, keep_blank_values=True)
        query += [("service", self.service)] if self.service else []
        query += [("scope", scope) for scope in self.scope.split()]
        query += more.items()
        return URL(
            f"{str(self.realm).partition('?')[0]}?{urlencode(sorted(query, key=lambda pair: pair[0]))}", encoded=True
        )


def basic(pair: tuple[str, str]) -> str:
    """The Authorization header for a username and a password (RFC 7617)."""
    return f"Basic {base64.b64encode(':'.join(pair).encode()).decode()}"


def bearer(token: str) -> str:
    """The Authorization header for a token (RFC 6750). Raise ``RegistryError`` for one that fits into no header."""
    if not _VISIBLE.fullmatch(token) or len(token) > _MAX_TOKEN_LENGTH:
        raise RegistryError("the token is not made of visible ASCII characters, or too long")
    return f"Bearer {token}"


def secrets_in(authorization: str | None) -> tuple[str, ...]:
    """What no message may repeat of an Authorization header: all of it, its credentials, and the password in them."""
    if authorization is None:
        return ()
    scheme, _, credentials = authorization.partition(" ")
    password = base64.b64decode(credentials).decode().partition(":")[2] if scheme == "Basic" else ""
    return tuple(secret for secret in (authorization, credentials, password) if secret)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token as an Authorization header, and how many seconds it holds from when it was asked for."""

    authorization: str = field(repr=False)
    seconds: float

    @classmethod
    def parse(cls, body: bytes, source: str) -> "Token":
        """The answer of the token service at ``source``. Raise ``RegistryError``; its text quotes nothing of it."""
        try:
            document = strict_json.parse(body)
        except strict_json.StrictJSONError:
            document = None
        if not isinstance(document, dict):
            raise RegistryError(f"the token service at {source} answers with something that is no JSON object")
        value: Any = document.get("token") or document.get("access_token")
        if not isinstance(value, str):
            raise RegistryError(f"the token service at {source} answers without a token")
        seconds = document.get("expires_in")
        if type(seconds) is not int or seconds <= 0:  # a boolean is no number
            seconds = DEFAULT_TOKEN_SECONDS
        return cls(bearer(value), min(float(seconds), _LONGEST_TOKEN_SECONDS))
