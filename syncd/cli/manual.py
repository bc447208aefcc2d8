"""The manual page, syncd(1), made from what ``--help`` says: ``python -m syncd.cli.manual`` prints it.

The language is man(7)'s, as groff and mandoc read it.
"""

import inspect
import sys
import textwrap
from collections.abc import Iterator

import click

from syncd import __version__
from syncd.cli.main import syncd

_UNWRAPPED = "\b"  # click's sign at the head of a paragraph whose lines are to stay as they are


def page(root: click.Group, version: str) -> str:
    """The page of ``root``, with a section for each of its commands."""
    context = click.Context(root, info_name=root.name, **root.context_settings)
    name = str(root.name)
    about, _, more = inspect.cleandoc(root.help or "").partition("\n\n")
    epilog, exits = _parted(root.epilog or "", "Exit codes:")
    common = {spelling for option in root.get_params(context) for spelling in option.opts}
    lines = [
        f'.TH {name.upper()} 1 "" "{name} {version}" "User Commands"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(_sentence(about))}",
        ".SH SYNOPSIS",
        *_usage(root, context),
        ".SH DESCRIPTION",
        *_paragraphs(more or about)[1:],
        ".SH OPTIONS",
        "Every command takes these as well; what is given after its name counts.",
        *_options(root, context, without=set()),
        ".SH COMMANDS",
    ]
    for command, below in _commands(root, context):
        lines += [f".SS {_escaped(below.command_path)}", *_usage(command, below), *_paragraphs(command.help or "")]
        lines += [*_options(command, below, without=common), *_paragraphs(command.epilog or "")]
    lines += [
        ".SH EXIT STATUS",
        *_paragraphs(exits)[1:],
        ".SH EXAMPLES",
        *_paragraphs(_parted(epilog, "Examples:")[1])[1:],
    ]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Every command, those of groups after their group."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        below = click.Context(command, info_name=name, parent=context)
        yield command, below
        if isinstance(command, click.Group):
            yield from _commands(command, below)


def _usage(command: click.Command, context: click.Context) -> list[str]:
    words = " ".join(command.collect_usage_pieces(context))
    return [f"\\fB{_escaped(context.command_path)}\\fR {_escaped(words)}"]


def _options(command: click.Command, context: click.Context, *, without: set[str]) -> list[str]:
    """Its options but those that share a spelling with ``without``."""
    lines: list[str] = []
    for parameter in command.get_params(context):
        # Arguments stand in the usage; newer versions of click have a record of them, too.
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None and not without.intersection(parameter.opts):
            spelling, meaning = record
            lines += [".TP", f"\\fB{_escaped(spelling)}\\fR", *_wrapped(meaning)]
    return lines


def _paragraphs(text: str) -> list[str]:
    """``text`` as click lays it out: paragraphs, of which some keep their lines."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        rows = paragraph.strip("\n").split("\n")
        if rows[0].strip(" ") == _UNWRAPPED:
            lines += [".PP", ".nf", *map(_escaped, rows[1:]), ".fi"]
        elif paragraph.strip():
            lines += [".PP", *_wrapped(paragraph)]
    return lines


def _parted(text: str, heading: str) -> tuple[str, str]:
    """What comes before the unwrapped paragraph that ``heading`` begins, and its lines."""
    before, _, lines = text.partition(f"{_UNWRAPPED}\n{heading}\n")
    return before, f"{_UNWRAPPED}\n{inspect.cleandoc(lines)}" if lines else ""


def _sentence(text: str) -> str:
    """As a NAME section has it: in one line, begun small, without a full stop."""
    words = " ".join(text.split()).removesuffix(".")
    return words[:1].lower() + words[1:]


def _wrapped(text: str) -> list[str]:
    return [_escaped(line) for line in textwrap.wrap(text, 72, break_long_words=False, break_on_hyphens=False)]


def _escaped(text: str) -> str:
    r"""So that it stands as it is: no escapes, no requests, and a hyphen that can be copied into a shell."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.stdout.buffer.write(page(syncd, __version__).encode())  # UTF-8, whatever the locale says
