"""What can go wrong with an answer, and the rules that say with which one, how often, and until when."""

import asyncio
import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from tests.support.content import InMemory, whole
from tests.support.registry.answers import Answer, Before, Kind, Origin, Request

Fault = Callable[[Answer, Request], None]
RangeLie = Literal["whole", "wrong start", "wrong total", "no header", "duplicate header", "416", "416 as docker"]

FOREVER = 1 << 40  # more bytes of filler than any test reads, more requests than any test sends
CONTENT = (200, 206)


class Scope(TypedDict, total=False):
    """Which requests a fault is for; what is left out does not matter.

    ``method`` is GET if it is left out. ``times``: so many requests, then no more. ``skip``: not the first so many.
    ``rate``: that share of them, by a seeded draw. ``sticky``: once a connection was hit, so is all that follows on it
    (``times`` then counts connections).
    """

    kind: Kind | str
    origin: Origin | str
    method: str
    digest: str
    where: Callable[[Request], bool]
    times: int
    skip: int
    rate: float
    sticky: bool


@dataclass(slots=True)
class Rule:
    """A fault and its scope. ``fired``: how many requests it hit. ``lift`` ends it, and any stall that it caused.

    ``fits``: whether an honest answer is one that the fault can change.
    """

    fault: Fault
    scope: Scope
    fits: Callable[[Answer], bool]
    fired: int = 0
    seen: int = 0
    lifted: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None
    _draw: random.Random = field(default_factory=lambda: random.Random(0))
    _hit_ports: set[int] = field(default_factory=set)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop of the registry: ``lift`` may be called from any thread."""
        self._loop = loop

    def lift(self) -> None:
        """From now on nothing is hit; what stalls goes on."""
        self.scope = {**self.scope, "times": 0}
        self._hit_ports.clear()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.lifted.set)

    def applies(self, request: Request, answer: Answer) -> bool:
        """Whether this request is hit. Counts it."""
        if not self._concerns(request) or not self.fits(answer):
            return False
        if request.peer_port in self._hit_ports:
            return True
        self.seen += 1
        if self.seen <= self.scope.get("skip", 0) or self.fired >= self.scope.get("times", FOREVER):
            return False
        if self._draw.random() >= self.scope.get("rate", 1.0):
            return False
        self.fired += 1
        if self.scope.get("sticky"):
            self._hit_ports.add(request.peer_port)
        return True

    def _concerns(self, request: Request) -> bool:
        scope = self.scope
        return (
            scope.get("kind", request.kind) == request.kind
            and scope.get("origin", request.origin) == request.origin
            and scope.get("method", "GET") == request.method
            and scope.get("digest", request.digest) == request.digest
            and ("where" not in scope or scope["where"](request))
        )


def drop(after: int, *, reset: bool) -> Fault:
    """Close the connection once ``after`` bytes of the body are out."""

    def fault(answer: Answer, _: Request) -> None:
        answer.cut, answer.reset = after, reset

    return fault


def hang_up() -> Fault:
    """Close the connection without any answer."""

    def fault(answer: Answer, _: Request) -> None:
        answer.before = Before.HANG_UP

    return fault


def stall(after: int | None) -> Fault:
    """Send nothing more after ``after`` bytes of the body; None: nothing at all, not even a status."""

    def fault(answer: Answer, _: Request) -> None:
        if after is None:
            answer.before = Before.STALL
        else:
            answer.stall = after

    return fault


def throttle(bytes_per_second: float) -> Fault:
    """Send no faster than this."""

    def fault(answer: Answer, _: Request) -> None:
        answer.rate = bytes_per_second

    return fault


def flip(offset: int) -> Fault:
    """Send the byte at ``offset`` of the blob with one bit changed."""

    def fault(answer: Answer, _: Request) -> None:
        answer.flips.add(offset)

    return fault


def overrun(extra: int, *, announced: Literal["not", "honestly", "wholly"]) -> Fault:
    """Send ``extra`` bytes too many: in chunks, past the Content-Length, or with a Content-Length that counts them."""

    def fault(answer: Answer, _: Request) -> None:
        answer.filler = extra
        if announced == "not":
            answer.announce = None
        elif announced == "wholly":
            answer.announce = answer.stop - answer.start + extra

    return fault


def status(code: int, *, retry_after: str | None, body: bytes) -> Fault:
    """Answer with this status in place of what was asked for."""

    def fault(answer: Answer, _: Request) -> None:
        headers = {"Content-Type": "text/plain"}
        if retry_after is not None:
            headers["Retry-After"] = retry_after
        answer.replace_with(code, body, headers)

    return fault


def redirect(code: int, location: str | Callable[[Request], str]) -> Fault:
    """Answer with a redirect."""

    def fault(answer: Answer, request: Request) -> None:
        target = location if isinstance(location, str) else location(request)
        answer.replace_with(code, b"", {"Location": target})

    return fault


def wrong_digest_header(digest: str) -> Fault:
    """Send a Docker-Content-Digest that is not the body's."""

    def fault(answer: Answer, _: Request) -> None:
        answer.headers["Docker-Content-Digest"] = digest

    return fault


def compress(*, bomb: int) -> Fault:
    """Send the body gzipped whether asked to or not; ``bomb`` > 0: so many zeros in its place."""

    def fault(answer: Answer, _: Request) -> None:
        sent = bytes(bomb) if bomb else whole(answer.body)[answer.start : answer.stop]
        answer.body = InMemory(gzip.compress(sent, 1))
        answer.start, answer.stop = 0, answer.body.size
        answer.announce = answer.body.size
        answer.headers["Content-Encoding"] = "gzip"

    return fault


def lie_about_range(lie: RangeLie) -> Fault:
    """Answer a request for a range wrongly."""

    def fault(answer: Answer, _: Request) -> None:
        size = answer.body.size
        length = answer.stop - answer.start
        match lie:
            case "whole":
                answer.status, answer.start, answer.stop, answer.announce = 200, 0, size, size
                answer.headers.pop("Content-Range", None)
            case "wrong start":
                # The bytes that the header says, which are not those asked for.
                answer.start = answer.start + 1 if answer.stop < size else max(0, answer.start - 1)
                answer.stop = min(answer.start + length, size)
                answer.announce = answer.stop - answer.start
                answer.headers["Content-Range"] = f"bytes {answer.start}-{answer.stop - 1}/{size}"
            case "wrong total":
                answer.headers["Content-Range"] = f"bytes {answer.start}-{answer.stop - 1}/{size + 1}"
            case "no header":
                del answer.headers["Content-Range"]
            case "duplicate header":
                answer.headers.add("Content-Range", f"bytes 0-{length - 1}/{size}")
            case "416":
                answer.replace_with(416, b"range not satisfiable", {"Content-Range": f"bytes */{size}"})
            case "416 as docker":  # docker-registry 2.8: the blob's Content-Length, a body of 33 bytes
                answer.replace_with(416, b"invalid range: failed to overlap\n", {"Content-Range": f"bytes */{size}"})
                answer.announce, answer.cut = max(size, 34), 33

    return fault
