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
            if spelled not in known and spelled != "--":
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


def rows() -> dict[str, str]:
    """The right cell of the README's table for each command of the left one; a command may stand in several rows."""
    text = PAGES[0].read_text()
    table = text.partition("| command | what it does |\n|---|---|\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for line in table.splitlines():
        left, right = line.strip("| ").replace("\\|", "/").split(" | ", 1)
        for name in re.findall(r"`syncd ([a-z]+)", left):
            found[name] = f"{found.get(name, '')} {left} {right}"
    return found


def test_the_readme_names_every_command() -> None:
    assert set(rows()) == set(syncd.list_commands(_ROOT))


def test_the_options_in_a_commands_row_are_its_own() -> None:
    wrong = []
    for name, said in rows().items():
        group = syncd.get_command(_ROOT, name)
        assert group is not None
        below = list(group.commands.values()) if isinstance(group, click.Group) else []
        known = {spelling for command in (group, *below) for parameter in command.params for spelling in parameter.opts}
        # In a row of two commands an option is either's.
        wrong += [f"{name} {option}" for option in re.findall(r"`(--[a-z-]+)", said) if option not in known]
    assert wrong == []


def test_the_readmes_exit_codes_are_the_helps() -> None:
    told = re.search(r"^Exit codes: (?P<codes>.*?);", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    helped = inspect.cleandoc((syncd.epilog or "").partition("Exit codes:\n")[2]).partition(", 128")[0]

    assert told is not None
    assert " ".join(told["codes"].split()) == " ".join(helped.split())
