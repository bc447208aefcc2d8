"""One answer of the scriptable registry as a value, before it is sent: what a fault changes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from multidict import CIMultiDict

from tests.support.content import Content, InMemory

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Kind(StrEnum):
    """What a request is for."""

    MANIFEST = "manifest"
    BLOB = "blob"  # a blob's bytes, from the registry itself or from its CDN, and the redirect to the latter
    TOKEN = "token"
    OTHER = "other"


class Origin(StrEnum):
    """The port that a request came to."""

    REGISTRY = "registry"
    CDN = "cdn"
    TOKEN = "token"


@dataclass(slots=True)
class Request:
    """A line of the log. ``sent``: bytes of the body so far; it and ``status`` change until ``finished``."""

    number: int
    origin: Origin
    method: str
    path: str  # with its query
    kind: Kind
    headers: Mapping[str, str]
    peer_port: int
    repository: str | None = None
    digest: str | None = None  # of the blob, or of the manifest that was asked for by digest
    tag: str | None = None
    status: int = 0
    sent: int = 0
    finished: bool = False

    @property
    def range(self) -> str | None:
        """The Range header, as it came."""
        return self.headers.get("Range")

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


class Before(StrEnum):
    """What happens in place of an answer."""

    HANG_UP = "hang up"
    STALL = "stall"


@dataclass(slots=True)
class Answer:
    """What will be sent: bytes ``start`` to ``stop`` of ``body``, and what goes wrong on the way.

    Positions (``cut``, ``stall``) count the bytes of this answer's body. ``announce`` is its Content-Length; None sends
    it chunked.
    """

    status: int
    headers: CIMultiDict[str]
    body: Content
    start: int
    stop: int
    announce: int | None
    before: Before | None = None
    cut: int | None = None
    reset: bool = False  # an RST in place of a FIN
    stall: int | None = None
    rate: float | None = None  # bytes per second
    flips: set[int] = field(default_factory=set)  # offsets in the body, not in the answer
    filler: int = 0  # bytes sent after the body's own

    def replace_with(self, status: int, raw: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Turn this answer into a small one."""
        self.status, self.headers = status, CIMultiDict(headers or {})
        self.body, self.start, self.stop, self.announce = InMemory(raw), 0, len(raw), len(raw)


def small(status: int, raw: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """An answer of a few bytes."""
    return Answer(status, CIMultiDict(headers or {}), InMemory(raw), 0, len(raw), len(raw))


def error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error as the OCI distribution spec words it ("Error codes")."""
    raw = b'{"errors":[{"code":"%b","message":"%b"}]}' % (code.encode(), code.replace("_", " ").lower().encode())
    return small(status, raw, {"Content-Type": "application/json", **(headers or {})})


def blob_answer(body: Content, digest: str, range_header: str | None) -> Answer:
    """200 with all of it, 206 with a range, or 416 (RFC 9110, section 14)."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "Accept-Ranges": "bytes",
        "ETag": f'"{digest}"',
    }
    bounds = _bounds(range_header, body.size)
    if bounds is None:
        return Answer(200, CIMultiDict(headers), body, 0, body.size, body.size)
    start, stop = bounds
    if start >= stop:
        return error(416, "RANGE_INVALID", {"Content-Range": f"bytes */{body.size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{body.size}"
    return Answer(206, CIMultiDict(headers), body, start, stop, stop - start)


def _bounds(header: str | None, size: int) -> tuple[int, int] | None:
    """Half-open bounds; empty ones where nothing can be served, None where the header is absent or means nothing."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    first, last = match[1], match[2]
    if not first:
        return max(0, size - int(last)), size
    start, stop = int(first), int(last) + 1 if last else size
    return None if stop <= start < size else (start, min(stop, size))
