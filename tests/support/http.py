"""A plain HTTP client for tests that look at what is on the wire: one connection, kept alive."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Answer:
    """``broken``: the body ended before its Content-Length; ``body`` is what came."""

    status: int
    headers: Message
    body: bytes
    broken: bool = False


class Client:
    """One connection to ``host`` (``127.0.0.1:PORT``), reopened when the other side closed it."""

    def __init__(self, host: str, *, timeout: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection(host, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """One request, redirects not followed. A body that is cut short is no error; no answer at all is an OSError."""
        try:
            self._connection.request(method, path, headers=dict(headers or {}))
            response = self._connection.getresponse()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        try:
            return Answer(response.status, response.headers, response.read())
        except http.client.IncompleteRead as cut:
            self._connection.close()
            return Answer(response.status, response.headers, cut.partial, broken=True)
        except OSError:
            self._connection.close()
            raise

    def local_port(self) -> int:
        """Of the open connection: the same one for as long as it is kept alive."""
        port: int = self._connection.sock.getsockname()[1]
        return port
