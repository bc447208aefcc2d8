"""Registry hosts: how each is spoken to, and the endpoints (mirrors, then the origin) that are tried in order."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from yarl import URL

from syncd.errors import ConfigurationError, InvalidNameError
from syncd.registry.redirects import authority

MIRROR_PENALTY = 60.0

_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What opens a registry. ``repr`` shows none of it."""

    username: str | None = field(default=None, repr=False)
    """Together with ``password``: basic auth, at the registry and at its token endpoint."""
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    """A ready bearer token; it goes before the others."""

    @property
    def basic(self) -> tuple[str, str] | None:
        """Username and password, if both are there."""
        return None if self.username is None or self.password is None else (self.username, self.password)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """The settings of one registry host."""

    mirrors: tuple[str, ...] = ()
    """Base URLs, tried before the origin in this order."""
    plain_http: bool | None = None
    """Whether the origin is spoken to over http. None: only where it is a loopback host."""
    ca_file: Path | None = None
    """A CA of one's own, in addition to the system's: for the registry, and for where it redirects to."""
    auth_hosts: tuple[str, ...] = ()
    """Foreign hosts (``host`` or ``host:port``) that may be sent this registry's credentials: its token service."""
    credentials: Credentials | None = None
    key_file: Path | None = None
    """Ollama's ed25519 key (OpenSSH PEM), read when it is needed. None: no key."""
    key_pem: bytes | None = field(default=None, repr=False)
    """The same key, read already: by a process that may not read the file any more when it needs it."""

    @property
    def has_key(self) -> bool:
        """Whether there is a key to sign with."""
        return self.key_pem is not None or self.key_file is not None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to ask: a mirror, or the origin itself."""

    base: URL
    is_origin: bool

    @property
    def source(self) -> str:
        """``host[:port]``: what errors and progress call it."""
        return authority(self.base)

    def url(self, repository: str, kind: str, reference: str) -> URL:
        """The address of a manifest or a blob (OCI distribution spec, "Pulling"); ``kind``: manifests or blobs."""
        return URL(f"{str(self.base).rstrip('/')}/v2/{repository}/{kind}/{reference}", encoded=True)


@dataclass(frozen=True, slots=True)
class Site:
    """An endpoint and the settings of its own host: a mirror never gets the origin's credentials."""

    endpoint: Endpoint
    config: RegistryConfig


def is_loopback(host: str) -> bool:
    """``localhost``, 127.0.0.0/8 or ::1, without a port."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def endpoints(host: str, config: RegistryConfig) -> tuple[Endpoint, ...]:
    """The mirrors of ``host`` (``name[:port]``), then the origin.

    Raise ``InvalidNameError`` for a host that is none, ``ConfigurationError`` for a mirror that is no base URL.
    """
    origin = _base(f"https://{host}") if _HOST.fullmatch(host) else None
    if origin is None:
        raise InvalidNameError(f"not a registry host: {host[:100]!r}", hint="write it as NAME or NAME:PORT")
    http = is_loopback(origin.raw_host or "") if config.plain_http is None else config.plain_http
    mirrors = (Endpoint(_mirror(text, host), is_origin=False) for text in config.mirrors)
    # Parsed anew, not rewritten: the port that is left out is the scheme's own.
    return (*mirrors, Endpoint(URL(f"{'http' if http else 'https'}://{host}"), is_origin=True))


def sites(host: str, configs: Mapping[str, RegistryConfig], default: RegistryConfig) -> tuple[Site, ...]:
    """The endpoints of ``host``, each with the settings for its own host, else ``default``. Raise as ``endpoints``."""
    folded = {name.casefold(): config for name, config in configs.items()}
    own = folded.get(host.casefold(), default)
    return tuple(
        Site(endpoint, own if endpoint.is_origin else folded.get(endpoint.source, default))
        for endpoint in endpoints(host, own)
    )


def _mirror(text: str, host: str) -> URL:
    hint = "write it as http://HOST:PORT or https://HOST[/PATH]; its credentials go into its own settings"
    base = _base(text)
    if base is None or base.query_string or base.fragment:
        # Not quoted: what is wrong with it may be a password in it.
        raise ConfigurationError(f"a mirror of {host} has no usable base URL", hint=hint)
    return base


def _base(text: str) -> URL | None:
    try:
        url = URL(text)
        usable = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        return None
    return url if usable and url.raw_user is None and url.raw_password is None else None


class Health:
    """Which endpoints failed a while ago: they are asked last, until ``MIRROR_PENALTY`` seconds are over."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock``: monotonic, seconds."""
        self._clock = clock
        self._until: dict[URL, float] = {}

    def ordered(self, candidates: Iterable[Site]) -> list[Site]:
        """The candidates in their order, those that failed lately behind the others."""
        now = self._clock()
        return sorted(candidates, key=lambda site: self._until.get(site.endpoint.base, now) > now)

    def failed(self, endpoint: Endpoint, seconds: float | None = None) -> None:
        """``endpoint`` could not be used; ask it last for ``seconds`` (what it asked for, if it did)."""
        self._until[endpoint.base] = self._clock() + max(seconds or 0.0, MIRROR_PENALTY)

    def worked(self, endpoint: Endpoint) -> None:
        """``endpoint`` answered well."""
        self._until.pop(endpoint.base, None)
