"""Redirects, decided by hand: where one leads, and whether it is followed. Pure."""

import re
from urllib.parse import urldefrag, urljoin

from yarl import URL

from syncd.errors import RedirectRefusedError
from syncd.text import printable

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*)|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?")
# What inet_aton takes for an IPv4 address besides four decimal numbers: 127.1, 2130706433.
_LEGACY = re.compile(r"(?!\d+(?:\.\d+){3}$)\d+(?:\.\d+)*\.?")


def authority(url: URL) -> str:
    """``host`` or ``host:port`` (where the port is not the scheme's own), lower case; IPv6 in brackets."""
    host = (url.raw_host or "").lower()
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() or url.port is None else f"{host}:{url.port}"


def same_origin(one: URL, other: URL) -> bool:
    """Scheme, host and port agree (RFC 6454)."""
    return (one.scheme, authority(one)) == (other.scheme, authority(other))


def target(current: URL, location: str | None) -> URL:
    """Where ``location``, answered at ``current``, leads. Raise ``RedirectRefusedError``.

    The text is taken as it stands: to quote it anew would break the signature that it carries.
    """
    here = authority(current)
    if not location or not _VISIBLE.fullmatch(location):
        raise RedirectRefusedError(f"{here} redirects to something that is no address")
    try:
        url = URL(urldefrag(urljoin(str(current), location)).url, encoded=True)
        host, port = url.raw_host or "", url.port
    except ValueError:
        raise RedirectRefusedError(f"{here} redirects to something that is no address") from None
    if url.scheme not in {"http", "https"}:
        raise RedirectRefusedError(f"{here} redirects to a {printable(url.scheme, limit=20)!r} address; not followed")
    if current.scheme == "https" and url.scheme != "https":
        raise RedirectRefusedError(f"{here} redirects from https to http ({printable(authority(url))}); not followed")
    if url.raw_user is not None or url.raw_password is not None:
        raise RedirectRefusedError(f"{here} redirects to an address with a user in it; not followed")
    if not _HOST.fullmatch(host) or _LEGACY.fullmatch(host) or port is None:
        raise RedirectRefusedError(f"{here} redirects to an address without a valid host; not followed")
    return url
