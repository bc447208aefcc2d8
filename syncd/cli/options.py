"""The options that every command has. They may stand before the command's name or after it; the later one counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG = "syncd.config"
STORE = "syncd.store"
VERBOSE = "syncd.verbose"


def _remember(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:  # noqa: ANN401 - click's
        # Shared by a command and its group: what was given before the name is kept unless it is given again after it.
        if value:
            context.meta[key] = value

    return callback


def shared(command: Command) -> Command:
    """Give ``command`` --config, --store and --verbose; they are found in ``Context.meta``."""
    options = (
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_remember(CONFIG),
            help="Settings file. [default: SYNCD_CONFIG, /etc/syncd/syncd.toml, ~/.config/syncd/syncd.toml]",
        ),
        click.option(
            "--store",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_remember(STORE),
            help="Models folder. [default: SYNCD_STORE, settings, OLLAMA_MODELS, ~/.ollama/models]",
        ),
        click.option(
            "-v",
            "--verbose",
            count=True,
            expose_value=False,
            callback=_remember(VERBOSE),
            help="Log what happens, to stderr; -vv logs more.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def examples(*lines: str) -> str:
    """The end of a command's help: how it is called."""
    # The backspace is click's sign that a paragraph is not to be wrapped.
    return "\b\n" + "\n".join(("Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)))


def as_json(command: Command) -> Command:
    """Give ``command`` --json, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for programs.")(command)


def dry_run(command: Command) -> Command:
    """Give ``command`` --dry-run, as ``dry_run``."""
    return click.option("--dry-run", "dry_run", is_flag=True, help="Show what would be done, and do nothing.")(command)


def stored_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """What a shell offers for a NAME: the ``shell_complete`` of every parameter that takes models' names."""
    from syncd.cli import completion  # noqa: PLC0415 - who presses no tab key does not pay for it

    return completion.names(context, incomplete)
