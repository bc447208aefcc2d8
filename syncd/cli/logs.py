"""Logs, to stderr: for people on a terminal, JSON elsewhere. Whatever comes from outside is escaped."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import stamina
import structlog

from syncd.text import printable

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


def configure(verbosity: int) -> None:
    """Log warnings; with ``verbosity`` 1 what is done, with 2 everything."""
    if not verbosity:
        # Every retry is a warning to stamina; to us only giving up is news.
        stamina.instrumentation.set_on_retry_hooks(())
    terminal = sys.stderr.isatty()
    ending: tuple[Any, ...]
    if terminal:
        # Plain tracebacks: the pretty ones show local variables, and those may be secrets.
        ending = (structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),)
    else:
        ending = (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not terminal),
            _escape,
            *ending,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[min(verbosity, len(_LEVELS) - 1)]),
        # Looked up at each event: while bars are shown, stderr is what writes above them.
        logger_factory=lambda *_: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _escape(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value, limit=2000)
    return event
