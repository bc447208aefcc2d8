"""Answers of both halves of the API, and errors in the shape that each half has for them.

Ollama's half says ``{"error": "…"}``, ``/syncd/v1`` says ``events.Failed``. Over TCP a text that may tell of paths, or
of what exists, to whoever asks is replaced by a general one: the log has the whole of it.
"""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from syncd.api.events import Failed, failed
from syncd.api.failures import http_status
from syncd.errors import ExitCode, InvalidDigestError, InvalidNameError, SyncdError
from syncd.text import printable

OURS = "/syncd/"
"""What the paths of syncd's own half begin with."""

_GENERAL: Mapping[int, str] = {
    ExitCode.USAGE: "that cannot be done as asked",
    ExitCode.NOT_FOUND: "there is no such thing here",
    ExitCode.NOT_AUTHORISED: "the registry, or the file system, does not let the daemon in",
    ExitCode.UNREACHABLE: "the registry cannot be reached, or fails",
    ExitCode.INTEGRITY: "what is stored, or what the registry sent, is not what it should be",
    ExitCode.NO_SPACE: "there is not enough space",
    ExitCode.BUSY: "something else holds what this needs, or wants it kept",
    ExitCode.CONFIGURATION: "the daemon's settings do not allow that",
}
_EXIT_CODES: Mapping[int, ExitCode] = {
    401: ExitCode.NOT_AUTHORISED,
    403: ExitCode.NOT_AUTHORISED,
    404: ExitCode.NOT_FOUND,
    501: ExitCode.USAGE,
}


class RefusedError(SyncdError):
    """A request that the API itself refuses. Its text tells nothing that the caller did not say: it is always shown."""

    def __init__(self, status: int, message: str, *, hint: str | None = None) -> None:
        """``status``: of the answer over HTTP."""
        super().__init__(message, hint=hint)
        self.status = status


def answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """``value`` as JSON."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers
    )


def line(value: object) -> bytes:
    """``value`` as a line of NDJSON."""
    return msgspec.json.encode(value) + b"\n"


def told(error: SyncdError, *, open_to_strangers: bool, name: str | None = None) -> Failed:
    """An error as it may be told: in whole, or to strangers in general terms."""
    if isinstance(error, RefusedError):
        code = _EXIT_CODES.get(error.status, ExitCode.USAGE if error.status < 500 else ExitCode.FAILED)  # noqa: PLR2004 - 4xx
        return msgspec.structs.replace(failed(error, name), exit_code=int(code))
    if not open_to_strangers or isinstance(error, InvalidNameError | InvalidDigestError):
        return failed(error, name)
    general = _GENERAL.get(error.exit_code, "that failed")
    return Failed("error", name, general, "the daemon's log says more", int(error.exit_code))


def one_text(error: Failed) -> str:
    """An error as Ollama has them: one text."""
    return f"{error.message}: {error.hint}" if error.hint else error.message


def status_of(error: SyncdError) -> int:
    """The status of an answer that is nothing but this error."""
    return error.status if isinstance(error, RefusedError) else http_status(error)


def refusal(request: web.Request, error: SyncdError, *, open_to_strangers: bool) -> web.Response:
    """The answer that is nothing but an error, in the shape of the half that was asked."""
    shown = told(error, open_to_strangers=open_to_strangers)
    headers = {"WWW-Authenticate": "Bearer"} if status_of(error) == 401 else None  # noqa: PLR2004 - RFC 9110, 11.6.1
    body = shown if request.path.startswith(OURS) else {"error": one_text(shown)}
    return answer(body, status=status_of(error), headers=headers)


def crash(request: web.Request) -> web.Response:
    """The answer where a bug met a request: what it was is in the log."""
    bug = Failed("error", None, "unexpected error", "this is a bug in syncd: the daemon's log shows where", 1)
    return answer(bug if request.path.startswith(OURS) else {"error": one_text(bug)}, status=500)


def from_http(request: web.Request, error: web.HTTPException) -> web.Response:
    """What the router says (404, 405), in the shape of the half that was asked."""
    texts = {
        404: f"there is no {printable(request.path, limit=100)} here",
        405: f"{request.method} is not for this path",
    }
    refused = RefusedError(error.status, texts.get(error.status, error.reason))
    response = refusal(request, refused, open_to_strangers=True)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response
