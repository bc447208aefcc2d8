"""What a registry's answer means: status, headers and short error bodies, judged before any body is streamed."""

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp

from syncd.errors import NotAuthorisedError, NotFoundError, RegistryError, RegistryUnavailableError, SyncdError
from syncd.oci import strict_json
from syncd.registry.transport import broken
from syncd.text import printable

MAX_ERROR_BYTES = 1024 * 1024
MAX_RETRY_AFTER = 3600.0
_MESSAGE_LIMIT = 200
_QUERY = re.compile(r"(?<=[^\s?])\?\S*=\S*")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class RangeUnsupportedError(RegistryError):
    """The registry refuses ranges, or sends another one than it was asked for: ask for the whole blob."""


class BareNotFoundError(NotFoundError):
    """A 404 without a registry's own words: a proxy says that, too, while the registry behind it is away."""


class BodyTooLargeError(RegistryError):
    """A body that goes on past its limit."""


def retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3: seconds, or an HTTP date), at most an hour.

    ``now``: wall clock, seconds since the epoch. None where the header is missing or makes no sense.
    """
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"\d{1,10}", text):
        return min(float(text), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(moment.timestamp() - now, 0.0), MAX_RETRY_AFTER)


def refuse_encoded(answer: aiohttp.ClientResponse, source: str) -> None:
    """Raise ``RegistryError`` for a body that is compressed: identity was asked for, and a bomb is not unpacked."""
    coding = ", ".join(answer.headers.getall("Content-Encoding", ()))
    if coding.strip().lower() not in {"", "identity"}:
        raise RegistryError(f"{source} sends a body encoded as {printable(coding, limit=40)!r}, though asked not to")


def refuse_other_range(answer: aiohttp.ClientResponse, source: str, *, start: int, end: int, size: int) -> None:
    """Raise ``RangeUnsupportedError`` unless a 206 is for exactly ``start`` to ``end`` (half-open) of ``size``."""
    found = answer.headers.getall("Content-Range", ())
    match = _CONTENT_RANGE.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or tuple(int(number) for number in match.groups()) != (start, end - 1, size):
        said = printable(" and ".join(found), limit=100) or "none"
        raise RangeUnsupportedError(f"{source} lies about ranges: asked for {start}-{end - 1}/{size}, it sends {said}")
    if answer.content_length not in {None, end - start}:
        raise RangeUnsupportedError(
            f"{source} lies about ranges: {end - start} bytes announced as {answer.content_length}"
        )


async def read_body(answer: aiohttp.ClientResponse, limit: int, *, seconds: float, source: str) -> bytes:
    """The whole of a small body, within ``seconds``.

    Raise ``BodyTooLargeError`` past ``limit`` bytes, ``RegistryUnavailableError`` where the connection breaks.
    """
    refuse_encoded(answer, source)
    try:
        async with asyncio.timeout(seconds):
            body = bytearray()
            while part := await answer.content.readany():
                body += part
                if len(body) > limit:
                    raise BodyTooLargeError(f"{source} sends more than the {limit} bytes that such an answer may have")
            return bytes(body)
    except TimeoutError:
        raise RegistryUnavailableError(f"{source} did not finish its answer within {seconds:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise RegistryUnavailableError(f"{source}: {broken(error)}") from error


def error_message(body: bytes) -> str | None:
    """The message in an error body: OCI's ``errors[].message`` or Ollama's ``error``. None where there is none."""
    try:
        document = strict_json.parse(body)
    except strict_json.StrictJSONError:
        return None
    if not isinstance(document, dict):
        return None
    found = document.get("error")
    errors = document.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        found = errors[0].get("message") or errors[0].get("code")
    return found if isinstance(found, str) and found.strip() else None


def scrubbed(message: str, secrets: tuple[str, ...]) -> str:
    """``message``, shortened, without the queries of addresses in it and without any of ``secrets``."""
    for secret in secrets:
        message = message.replace(secret, "…") if secret else message
    return printable(_QUERY.sub("?…", message).strip(), limit=_MESSAGE_LIMIT)


async def failure(
    answer: aiohttp.ClientResponse,
    *,
    source: str,
    wanted: str,
    now: float,
    seconds: float,
    secrets: tuple[str, ...] = (),
) -> SyncdError:
    """The error that ``answer`` (neither success nor redirect) amounts to; its body is read only as far as that needs.

    ``wanted``: what was asked for, in words. ``seconds``: for the body. ``secrets``: what the request carried.
    """
    message = await _said(answer, seconds)
    said = f": {scrubbed(message, secrets)}" if message else ""
    return by_status(answer.status, answer.headers, source=source, wanted=wanted, said=said, now=now)


def by_status(
    status: int, headers: Mapping[str, str], *, source: str, wanted: str, said: str, now: float
) -> SyncdError:
    """The error of a status (pure)."""
    match status:
        case 401 | 403:
            return NotAuthorisedError(
                f"{source} does not give out {wanted} ({status}{said})",
                hint=f'a private model needs credentials: see [registries."{source}"] in the settings',
            )
        case 404:
            kind = NotFoundError if said else BareNotFoundError
            return kind(f"{source} has no {wanted}{said}", hint="check the name and the tag")
        case 412:
            return RegistryError(
                f"{source} wants a newer Ollama for {wanted} (412{said})",
                hint="these weights need a newer Ollama server: upgrade it, or pull an older tag",
            )
        case 408 | 429:
            return _unavailable(f"{source} asks to wait ({status}{said})", headers, now)
        case _ if status >= 500:  # noqa: PLR2004 - HTTP's server errors
            return _unavailable(f"{source} failed ({status}{said})", headers, now)
        case _:
            return RegistryError(f"{source} answers {status} when asked for {wanted}{said}")


def _unavailable(message: str, headers: Mapping[str, str], now: float) -> RegistryUnavailableError:
    return RegistryUnavailableError(message, retry_after=retry_after(headers.get("Retry-After"), now=now))


async def _said(answer: aiohttp.ClientResponse, seconds: float) -> str | None:
    try:
        body = await read_body(answer, MAX_ERROR_BYTES, seconds=seconds, source="")
    except RegistryError:
        return None  # the status says enough
    return error_message(body)
