"""Logs, to stderr: for people on a terminal, for journald or as JSON elsewhere. What comes from outside is escaped."""

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import stamina
import structlog

from syncd.text import printable

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
# sd-daemon(3): syslog's priorities in front of each line.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
_MAX_VALUE = 2000  # characters
_RENDERED_LATER = frozenset({"exc_info", "stack_info"})
_MAX_TRACEBACK = 20_000


def configure(verbosity: int) -> None:
    """For a command. Log warnings; with ``verbosity`` 1 what is done, with 2 everything."""
    if not verbosity:
        # Every retry is a warning to stamina; to us only giving up is news.
        stamina.instrumentation.set_on_retry_hooks(())
    # Looked up at each event: while bars are shown, stderr is what writes above them.
    ending = _for_people() if sys.stderr.isatty() else _as_json()
    _configure(ending, _LEVELS[min(verbosity, len(_LEVELS) - 1)], utc=not sys.stderr.isatty())


def configure_service(verbosity: int, stream: TextIO, environ: Mapping[str, str]) -> None:
    """For the daemon. Log what is done; with ``verbosity`` 1 everything. Python's own logs come the same way."""
    stamina.instrumentation.set_on_retry_hooks(())
    if stream.isatty():
        ending = _for_people()
    elif _is_journal(stream, environ):
        ending = _for_journald()
    else:
        ending = _as_json()
    _configure(ending, logging.DEBUG if verbosity else logging.INFO, utc=not stream.isatty())
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


def _configure(ending: tuple[Any, ...], level: int, *, utc: bool) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=utc),
            _escape,
            *ending,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )


def _for_people() -> tuple[Any, ...]:
    # Plain tracebacks: the pretty ones show local variables, and those may be secrets.
    return (structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),)


def _as_json() -> tuple[Any, ...]:
    return (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())


def _for_journald() -> tuple[Any, ...]:
    # journald notes the time itself, and takes each line for a message of its own.
    return (structlog.processors.format_exc_info, _prefixed)


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether journald reads the stream (systemd.exec(5), "JOURNAL_STREAM")."""
    try:
        found = os.fstat(stream.fileno())
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _prefixed(_logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    event.pop("timestamp", None)
    level = str(event.pop("level", method))
    prefix = f"<{_PRIORITIES.get(level, 6)}>"
    traceback = str(event.pop("exception", ""))
    name = str(event.pop("event", ""))
    fields = "".join(f" {key}={_value(value)}" for key, value in event.items())
    lines = [f"{name}{fields}", *traceback[:_MAX_TRACEBACK].splitlines()]
    return "\n".join(prefix + printable(line, limit=_MAX_TRACEBACK) for line in lines)


def _value(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f'"{text}"' if " " in text or "=" in text or not text else text


def _escape(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key not in _RENDERED_LATER:
            event[key] = _plain(value)
    return event


def _plain(value: object) -> object:
    """As every way of showing it can: text, a number, None, or a list of these; no other type's own notation."""
    if value is None or isinstance(value, bool | int | float | Mapping):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return printable(str(value), limit=_MAX_VALUE)


class _Stderr:
    """``sys.stderr``, whatever that is at the moment. What it does not take is lost: no work ends for a full disk."""

    def write(self, text: str) -> None:
        """As a stream's own."""
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Likewise."""
        with suppress(OSError):
            sys.stderr.flush()


class _Forward(logging.Handler):
    """What libraries log becomes an event of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        structlog.get_logger().log(
            record.levelno, "library.log", logger=record.name, message=record.getMessage(), exc_info=record.exc_info
        )
