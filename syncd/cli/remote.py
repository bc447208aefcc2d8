"""A client of ``/syncd/v1`` over the control socket, for plain requests.

The daemon is believed no more than a registry: what it sends is bounded and checked.
http.client and not aiohttp: ``syncd list`` through the daemon takes as long as its imports.
"""

import contextlib
import errno
import http.client
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from syncd.api import v1
from syncd.api.events import Failed
from syncd.api.failures import error_of
from syncd.cli.place import refused
from syncd.errors import ConfigurationError, SyncdError
from syncd.text import printable

T = TypeVar("T")

GREETING_SECONDS = 5.0
"""Within these a daemon accepts a connection and says who it is; one that hangs is an error."""
ANSWER_SECONDS = 60.0
WORK_SECONDS = 600.0
"""A removal waits for its pull to stop, a collection for others to let it in."""
MAX_BODY = 64 * 2**20
_RETRY_SECONDS = 0.05
_OK = 200


class DaemonGoneError(SyncdError):
    """The daemon answered, and then it did not."""


@dataclass(frozen=True, slots=True)
class Client:
    """Speaks to whoever listens at ``path``."""

    path: Path

    def get(self, target: str, kind: type[T], *, within: float = ANSWER_SECONDS) -> T:
        """Ask for ``target``. ``within``: seconds. Raise ``SyncdError``, also for what the daemon says failed."""
        return self._ask("GET", target, None, kind, within)

    def post(self, target: str, asked: msgspec.Struct, kind: type[T], *, within: float = ANSWER_SECONDS) -> T:
        """Have something done."""
        return self._ask("POST", target, msgspec.json.encode(asked), kind, within)

    def _ask(self, method: str, target: str, body: bytes | None, kind: type[T], within: float) -> T:
        try:
            made = connected(self.path, GREETING_SECONDS)
        except TimeoutError as error:
            raise silent(self.path, GREETING_SECONDS) from error
        except OSError as error:
            raise gone(self.path) from error
        return exchange(made, self.path, method, target, body=body, kind=kind, within=within)


def exchange(
    made: socket.socket, path: Path, method: str, target: str, *, body: bytes | None, kind: type[T], within: float
) -> T:
    """One request and its answer over ``made``, which is closed then; ``path`` is what errors tell of."""
    deadline = time.monotonic() + within
    made.settimeout(within)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = made
    with contextlib.closing(connection):
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            with contextlib.closing(connection.getresponse()) as answer:
                content = _read(answer, deadline)
        except TimeoutError as error:
            raise silent(path, within) from error
        except (OSError, http.client.HTTPException) as error:
            raise gone(path) from error
    if answer.status != _OK:
        raise failure(path, target, answer.status, content)
    return decoded(path, content, kind)


def connected(path: Path, within: float) -> socket.socket:
    """A connection to ``path``. Raise ``OSError``; ``NotAuthorisedError`` for a socket that refuses this user."""
    deadline = time.monotonic() + within
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(within)
        while True:
            try:
                made.connect(str(path))
            except BlockingIOError as error:
                # Its queue is full: connect(2) does not wait there on a socket that has a timeout.
                if time.monotonic() >= deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "nobody accepts") from error
                time.sleep(_RETRY_SECONDS)
            else:
                return made
    except PermissionError as error:
        made.close()
        raise refused(path) from error
    except BaseException:
        made.close()
        raise


def _read(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    parts, length = [], 0
    while part := answer.read1(2**16):
        parts.append(part)
        length += len(part)
        if length > MAX_BODY:
            raise http.client.HTTPException("more than anybody asked for")
        if time.monotonic() > deadline:
            raise TimeoutError
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)


def greet(path: Path) -> v1.DaemonInfo | None:
    """Who listens at ``path``; None if nobody does: its socket is a leftover.

    Raise ``NotAuthorisedError``, or ``SyncdError`` for one that hangs or that is no daemon of ours.
    """
    try:
        made = connected(path, GREETING_SECONDS)
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except TimeoutError as error:
        raise silent(path, GREETING_SECONDS) from error
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be connected to: {error.strerror or error}",
            hint="see [control] socket in the settings, and SYNCD_SOCKET",
        ) from error
    target = "/syncd/v1/daemon"
    return exchange(made, path, "GET", target, body=None, kind=v1.DaemonInfo, within=GREETING_SECONDS)


def owns(info: v1.DaemonInfo, store: Path) -> bool:
    """Whether ``store`` is the one that this daemon owns."""
    return printable(os.path.realpath(store), limit=4096) == info.store


def silent(path: Path, seconds: float) -> SyncdError:
    """The error that a daemon does not answer within so many seconds."""
    return SyncdError(
        f"the daemon at {path} has not answered for {seconds:g} s",
        hint="its log may say why; 'systemctl restart syncd' if it hangs",
    )


def gone(path: Path) -> DaemonGoneError:
    """The error that an answer broke off."""
    return DaemonGoneError(
        f"the daemon at {path} went away",
        hint="'syncd status' shows whether it is back; its log may say why it went",
    )


def failure(path: Path, target: str, status: int, content: bytes) -> SyncdError:
    """The error that an answer with this ``status`` tells of."""
    try:
        told = msgspec.json.decode(content, type=Failed)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return SyncdError(f"what listens at {path} answered {target} with HTTP status {status}", hint=_OTHER)
    return error_of(told)


def decoded(path: Path, content: bytes, kind: type[T]) -> T:
    """``content`` as a ``kind``. Raise ``SyncdError`` where it is none."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise unintelligible(path) from error


def unintelligible(path: Path) -> SyncdError:
    """The error that an answer is not what a daemon of ours would say."""
    return SyncdError(f"what listens at {path} does not speak as a syncd daemon does", hint=_OTHER)


_OTHER = "is it the daemon of another version? 'systemctl restart syncd' starts the installed one"
