"""The ``syncd`` command: where it begins, where every error ends, and which exit code it leaves.

Commands are imported when they are called for: ``syncd --version`` imports click and nothing else.
"""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

try:
    import click

    from syncd import __version__
    from syncd.cli.interrupt import InterruptedBySignalError
    from syncd.cli.options import VERBOSE, examples, shared
    from syncd.errors import ExitCode
except KeyboardInterrupt:  # most of the time until run(): it would end in Python's traceback
    raise SystemExit(128 + signal.SIGINT) from None

COMPLETION = "_SYNCD_COMPLETE"  # set by a shell that wants to know what may come next; click's way to spell it

_COMMANDS = {
    "init": "syncd.cli.stores:init",
    "pull": "syncd.cli.pulling:pull",
    "list": "syncd.cli.models:list_models",
    "show": "syncd.cli.models:show",
    "rm": "syncd.cli.removing:rm",
    "verify": "syncd.cli.checking:verify",
    "scrub": "syncd.cli.scrubbing:scrub",
    "gc": "syncd.cli.collecting:gc",
    "history": "syncd.cli.history:history",
    "rollback": "syncd.cli.pinning:rollback",
    "pin": "syncd.cli.pinning:pin",
    "unpin": "syncd.cli.pinning:unpin",
    "adopt": "syncd.cli.adopting:adopt_models",
    "migrate": "syncd.cli.migrating:migrate",
    "export": "syncd.cli.bundling:export_models",
    "import": "syncd.cli.bundling:import_models",
    "status": "syncd.cli.status:status",
    "cancel": "syncd.cli.cancelling:cancel",
    "reload": "syncd.cli.reloading:reload",
    "doctor": "syncd.cli.doctor:doctor",
    "smoke": "syncd.cli.smoking:smoke",
    "config": "syncd.cli.config:config",
    "serve": "syncd.cli.serve:serve",
}


_EXIT_CODES = """

\b
Exit codes:
  0 done, 1 failed, 2 usage, 3 not found, 4 not authorised, 5 registry
  unreachable, 6 integrity, 7 no space, 8 busy, 9 a server failed,
  10 configuration, 128 + number of the signal: interrupted
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every command, in the order in which a newcomer meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the module of ``cmd_name``; None for an unknown one."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{_COMMANDS[cmd_name]} is no command")
        return command


@click.group(
    cls=LazyGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples("syncd pull mistral:7b", "syncd list") + _EXIT_CODES,
)
@click.version_option(__version__, prog_name="syncd", message="%(prog)s %(version)s")
@shared
def syncd() -> None:
    """Own the model store that all Ollama servers of this host share.

    A model is visible when it is whole and verified, and not a moment sooner.
    """


def run(arguments: Sequence[str]) -> int:
    """Do what ``arguments`` (without the program's name) say; report what fails; return the exit code."""
    try:
        return _run(arguments)
    except BrokenPipeError:
        _close_stdout()
        return 128 + signal.SIGPIPE


def _run(arguments: Sequence[str]) -> int:
    context: click.Context | None = None
    as_json = "--json" in arguments
    try:
        context = syncd.make_context("syncd", list(arguments))
        with context:
            code = syncd.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, click.Abort):
        return _report(InterruptedBySignalError(signal.SIGINT), as_json=as_json, verbose=False)
    except Exception as error:  # noqa: BLE001 - the one place where every error ends
        return _report(error, as_json=as_json, verbose=bool(context and context.meta.get(VERBOSE)))
    return code if isinstance(code, int) else ExitCode.DONE


def _report(error: Exception, *, as_json: bool, verbose: bool) -> int:
    from syncd.cli import failure  # noqa: PLC0415 - `syncd --version` does not pay for it

    if isinstance(error, InterruptedBySignalError):
        return failure.report_interruption(error, as_json=as_json)
    expected = failure.expected(error, verbose=verbose)
    failure.report(expected, as_json=as_json)
    return expected.exit_code


def _complete(instruction: str) -> int:
    from syncd.cli import completion  # noqa: PLC0415 - only a shell pays for it

    return completion.answer(syncd, instruction, variable=COMPLETION)


def _close_stdout() -> None:
    """Nobody reads any more: what Python would still flush at exit goes nowhere, and quietly."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point."""
    completion = os.environ.get(COMPLETION)
    code = _complete(completion) if completion else run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read it has gone
            stream.flush()
    # Everything is closed by now; taking the interpreter apart would take longer than many a command.
    os._exit(code)


if __name__ == "__main__":
    main()
