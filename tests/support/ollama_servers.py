"""Ollama servers of both kinds, the stand-in and the real one, and how tests ask them."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.ollama_binary import OllamaBinary
from tests.support.standin import StandIn

Server = StandIn | OllamaBinary
Start = Callable[..., Server]
"""``start(store, prune=True)``: a running server. Raises OSError where it refuses to start."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``kind``: its Content-Type."""

    status: int
    body: bytes
    kind: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """NDJSON, parsed."""
        return [json.loads(line) for line in self.body.splitlines()]


def ask(server: Server | str, path: str, body: Any = None, method: str | None = None, timeout: float = 30) -> Answer:
    """POST with a body (text goes as it is), else GET. No answer at all is an ``OSError``."""
    raw = None
    if body is not None:
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    url = server if isinstance(server, str) else server.url
    request = urllib.request.Request(url + path, raw, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return Answer(answer.status, answer.read(), answer.headers["Content-Type"])
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read(), error.headers["Content-Type"])
