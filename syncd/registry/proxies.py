"""HTTP(S)_PROXY and NO_PROXY, upper or lower case. A proxy does its own dialling: what it reaches is not guarded here.

aiohttp's own ``trust_env`` is not used: it would also send what ``~/.netrc`` holds to any host, redirects included.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # typeshed leaves it out

from yarl import URL

from syncd.errors import ConfigurationError
from syncd.registry.hosts import is_loopback
from syncd.registry.redirects import authority

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy: its address without credentials, and the header that carries them."""

    url: URL
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Proxies:
    """The proxies of the environment, as ``urllib.request.getproxies_environment()`` reads them."""

    def __init__(self, found: Mapping[str, str]) -> None:
        self._found = dict(found)

    def for_url(self, url: URL) -> Proxy | None:
        """The proxy to use, if any. Never for loopback hosts (as Go, and so Ollama, has it).

        Raise ``ConfigurationError`` for a proxy that is not spoken to over HTTP.
        """
        setting = self._found.get(url.scheme)
        if not setting or is_loopback(url.raw_host or ""):
            return None
        if proxy_bypass_environment(f"{url.raw_host}:{url.port}", self._found):
            return None
        return _parsed(setting, f"{url.scheme.upper()}_PROXY")


def _parsed(setting: str, variable: str) -> Proxy:
    try:
        url = URL(setting if "://" in setting else f"http://{setting}")
        usable = url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
    except ValueError:
        usable = False
    if not usable:
        # The setting is not quoted: it may hold a password.
        raise ConfigurationError(f"{variable} is not an http:// or https:// proxy", hint="set it to http://HOST:PORT")
    address = URL(f"{url.scheme}://{authority(url)}")
    if url.user is None:
        return Proxy(address)
    pair = f"{unquote(url.raw_user or '')}:{unquote(url.raw_password or '')}"
    return Proxy(address, {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"})
