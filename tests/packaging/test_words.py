"""What README and docs say of the commands is what the commands say of themselves."""

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from syncd.cli.main import syncd

CHECKOUT = Path(__file__).parents[2]
PAGES = (CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").glob("*.md")))
_FENCED = re.compile(r"^```[a-z]*\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`(?P<code>[^`]+)`", re.DOTALL)
# Where a command begins: `systemctl restart syncd` and `usermod -aG syncd alice` are others'.
_BEGINS = r"(?:^|[;&|(]) *(?:[$#] )?(?:[A-Z_]+=\S* )*(?:sudo (?:-u \S+ )?|docker (?:compose )?exec (?:-\S+ )*\S+ )?"
_CALL = re.compile(_BEGINS + r"(?:\S*/)?syncd (?P<words>[a-z-][^\n|;&#)]*)")
_ROOT = click.Context(syncd, info_name="syncd", **syncd.context_settings)


def calls(text: str) -> Iterator[str]:
    """What follows ``syncd`` in each code span and each line of a code block."""
    prose = _FENCED.sub("", text)
    code = [match["code"] for match in _FENCED.finditer(text)]
    code += [" ".join(match["code"].split()) for match in _SPAN.finditer(prose)]
    for lines in code:
        for line in lines.replace("\\\n", " ").splitlines():
            yield from (match["words"] for match in _CALL.finditer(line))


def unknown(call: str) -> str | None:
    """What of these words no command knows; None if all is well."""
    words = _split(call)
    command: click.Command = syncd
    context = _ROOT
    for word in words:
        if word.startswith("-"):
            spelled = word.partition("=")[0]
            known = {spelling for parameter in command.get_params(context) for spelling in parameter.opts}
            if spelled not in known and spelled not in {"-", "--"}:
                return f"{context.command_path} has no {spelled}"
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                return f"{context.command_path} has no command {word!r}"
            context = click.Context(found, info_name=word, parent=context)
            command = found
    return None


def _split(call: str) -> list[str]:
    """A call's words; brackets and dots that mark what may be left out or repeated are none of them."""
    plain = re.sub(r"[\[\]]|\.\.\.", " ", call)
    try:
        return shlex.split(plain)
    except ValueError:  # an apostrophe of the prose
        return plain.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_on_a_page_is_one_that_syncd_understands(page: Path) -> None:
    assert [wrong for call in calls(page.read_text()) if (wrong := unknown(call))] == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`syncd pul x`", "syncd has no command 'pul'"),
        ("`syncd config chek`", "syncd config has no command 'chek'"),
        ("```sh\nsudo syncd pull --fast \\\n x\n```\n", "syncd pull has no --fast"),
        ("```console\n$ venv/bin/syncd rm x --force\n```\n", "syncd rm has no --force"),
        ("`syncd init [--owned USER]`", "syncd init has no --owned"),
        ("`docker compose exec syncd syncd statu`", "syncd has no command 'statu'"),
        ("`cd /x && SYNCD_STORE=/y syncd lst`", "syncd has no command 'lst'"),
    ],
)
def test_a_call_that_syncd_does_not_understand_is_found(text: str, wrong: str) -> None:
    assert [unknown(call) for call in calls(text)] == [wrong]


def test_the_readme_is_not_found_empty() -> None:
    assert len(list(calls(PAGES[0].read_text()))) > 30


# The README's table of commands, and its exit codes


def rows() -> list[tuple[list[str], str]]:
    """The README's table: the commands that a row is about, and all that it says."""
    text = PAGES[0].read_text()
    table = text.partition("| command | what it does |\n|---|---|\n")[2].partition("\n\n")[0]
    return [(re.findall(r"`syncd ([a-z]+)", line.split(" | ")[0]), line) for line in table.splitlines()]


def options(name: str) -> set[str]:
    """How the options of a command, and of those below it, are spelled."""
    command = syncd.get_command(_ROOT, name)
    assert command is not None
    below = list(command.commands.values()) if isinstance(command, click.Group) else []
    return {spelling for one in (command, *below) for parameter in one.params for spelling in parameter.opts}


def test_the_readme_names_every_command() -> None:
    assert {name for names, _ in rows() for name in names} == set(syncd.list_commands(_ROOT))


def test_the_options_in_a_row_are_those_of_its_commands() -> None:
    wrong = [
        f"{names}: {option}"
        for names, said in rows()
        for option in re.findall(r"`(--[a-z-]+)", said)
        if not any(option in options(name) for name in names)
    ]
    assert wrong == []


def test_the_readmes_exit_codes_are_the_helps() -> None:
    told = re.search(r"^Exit codes: (?P<codes>.*?);", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    helped = inspect.cleandoc((syncd.epilog or "").partition("Exit codes:\n")[2]).partition(", 128")[0]

    assert told is not None
    assert " ".join(told["codes"].split()) == " ".join(helped.split())
