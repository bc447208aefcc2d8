"""How a failure is told: ``error:`` and ``hint:`` to people, an event to programs."""

import sys
import traceback

import click

from syncd.api import events
from syncd.cli.interrupt import InterruptedBySignalError
from syncd.errors import SyncdError, UsageError
from syncd.text import printable


def error_lines(error: SyncdError, prefix: str = "") -> str:
    """``error: …`` and, if there is a next step, ``hint: …``; escaped, with their newlines."""
    lines = f"error: {prefix}{printable(error.message)}\n"
    return f"{lines}hint: {printable(error.hint)}\n" if error.hint else lines


def expected(error: Exception, *, verbose: bool) -> SyncdError:
    """``error`` as one of ours. One that nobody expected is a bug; its traceback is shown to those who ask (-v)."""
    if isinstance(error, SyncdError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "syncd"
        return UsageError(error.format_message(), hint=f"'{command} --help' shows how it is used")
    if verbose:
        traceback.print_exception(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = None if verbose else "this is a bug in syncd: the same command with -v shows where"
    return SyncdError(f"unexpected {what}", hint=hint)


def report(error: SyncdError, *, as_json: bool, name: str | None = None) -> None:
    """An error for people on stderr and, where a program listens, as an event on stdout."""
    sys.stderr.write(error_lines(error))
    sys.stderr.flush()
    if as_json:
        sys.stdout.write(events.line(events.failed(error, name)))
        sys.stdout.flush()


def report_interruption(error: InterruptedBySignalError, *, as_json: bool) -> int:
    """That a signal ended the command, and the next step; the exit code."""
    code = 128 + error.number
    sys.stderr.write(f"interrupted{f'; {error.hint}' if error.hint else ''}\n")
    sys.stderr.flush()
    if as_json:
        event = events.Failed(event="error", name=None, message="interrupted", hint=error.hint, exit_code=code)
        sys.stdout.write(events.line(event))
        sys.stdout.flush()
    return code
