"""One request and the ways to answer it, in Ollama's words."""

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.support.standin.described import moment
from tests.support.standin.names import InvalidName, Name
from tests.support.standin.orders import Order, What

_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")
_UNITS: Mapping[str, float] = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Refused(Exception):  # noqa: N818 - an answer
    """An answer that is an error."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


@dataclass(frozen=True, slots=True)
class Call:
    """A request with its body parsed, and what the stand-in was told to do about it."""

    http: web.BaseRequest
    body: Mapping[str, Any]
    order: Order | None = None

    @property
    def model(self) -> str:
        """What it names; older clients call it ``name``."""
        return str(self.body.get("model") or self.body.get("name") or "")

    @property
    def name(self) -> Name:
        """Raise ``Refused`` if it is none."""
        try:
            return Name.parse(self.model)
        except InvalidName as error:
            raise Refused(400, "invalid model name") from error

    @property
    def options(self) -> Mapping[str, Any]:
        return self.body.get("options") or {}

    @property
    def keep_alive(self) -> float | None:
        """Seconds, infinity if negative, None if not said. Raise ``Refused``."""
        value = self.body.get("keep_alive")
        return None if value is None else seconds(value)

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is not False

    @property
    def is_to_be_empty(self) -> bool:
        return self.order is not None and self.order.what is What.EMPTY

    async def stream(self, lines: AsyncIterator[Mapping[str, Any]]) -> web.StreamResponse:
        """The lines as NDJSON. An error before the first one becomes a status."""
        try:
            first = await anext(lines)
        except StopAsyncIteration:
            first = {}
        if "error" in first:
            return answer(first, 500)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(self.http)
        await response.write(_line(first))
        async for line in lines:
            await response.write(_line(line))
        await response.write_eof()
        return response


def answer(value: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        body=json.dumps(value, separators=(",", ":")).encode(),
        status=status,
        headers={"Content-Type": "application/json; charset=utf-8"},
    )


def plain(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status)


def now() -> str:
    return moment(time.time_ns())


def seconds(value: Any) -> float:
    """A duration as Ollama reads it: a number of seconds or Go's text; infinity if negative. Raise ``Refused``."""
    if value == "0":
        return 0.0
    if isinstance(value, str):
        sign, text = (-1, value[1:]) if value.startswith("-") else (1, value)
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise Refused(400, f'time: invalid duration "{value}"')
        value = sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(400, f"Unsupported type: '{type(value).__name__}'")
    return math.inf if value < 0 else float(value)


async def parse(http: web.BaseRequest) -> Mapping[str, Any]:
    """The body of a request that must have one. Raise ``Refused``."""
    raw = await http.read()
    if not raw:
        raise Refused(400, "missing request body")
    try:
        found = json.loads(raw)
    except ValueError as error:
        raise Refused(400, "unexpected EOF") from error
    if not isinstance(found, dict):
        raise Refused(400, "json: cannot unmarshal into a Go value")
    return found


async def for_ever() -> None:
    """Until the client or the server goes."""
    await asyncio.Event().wait()


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
