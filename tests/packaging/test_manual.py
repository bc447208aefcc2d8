"""The manual page, syncd(1): all that `--help` says, in a form that no formatter complains about."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from syncd import __version__
from syncd.cli.main import syncd
from syncd.cli.manual import page

_FORMATTERS = {
    "mandoc": ("mandoc", "-T", "lint", "-W", "warning"),
    "groff": ("groff", "-man", "-ww", "-T", "utf8", "-z"),
    "man": ("man", "--warnings", "-l"),
}
_NO_DATE = re.compile(r'mandoc: .*: WARNING: missing date, using "": TH\n')  # it is as old as what it is made from


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as it is printed."""
    path = tmp_path_factory.mktemp("manual") / "syncd.1"
    with path.open("wb") as file:
        subprocess.run(
            (sys.executable, "-m", "syncd.cli.manual"), stdout=file, env={"LANG": "C", **paths()}, check=True
        )
    return path


def paths() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]}


@pytest.mark.parametrize("formatter", _FORMATTERS)
def test_no_formatter_complains(manual: Path, formatter: str) -> None:
    needs(formatter)
    done = subprocess.run(
        (*_FORMATTERS[formatter], str(manual)),
        capture_output=True,
        text=True,
        env={**os.environ, "MANPAGER": "cat"},
        check=False,
    )

    said = done.stderr if formatter == "man" else done.stdout + done.stderr
    assert _NO_DATE.sub("", said) == ""


def needs(program: str) -> None:
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"THE PAGE WAS NOT CHECKED: {program} is not installed")


def test_every_command_has_a_section_with_all_of_its_help(manual: Path) -> None:
    needs("groff")
    shown = words(rendered(manual))

    for command, context in commands(syncd, click.Context(syncd, info_name="syncd")):
        assert words(f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}") in shown
        assert words((command.help or "").replace("\b", "")) in shown
        assert words((command.epilog or "").replace("\b", "")) in shown
        for option in command.params:
            if isinstance(option, click.Option):
                assert words(" ".join(option.get_help_record(context) or ())) in shown


def commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        yield command, below
        if isinstance(command, click.Group):
            yield from commands(command, below)


def rendered(path: Path) -> str:
    """As a terminal of endless width shows it, without the bold."""
    # No hyphenation and no adjustment: words stay as they are.
    request = b".nh\n.ad l\n.ll 1000n\n"
    done = subprocess.run(
        ("groff", "-man", "-T", "utf8", "-P-cbou", "-rLL=1000n"),
        input=request + path.read_bytes(),
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()


def words(text: str) -> str:
    return " ".join(text.split())


def test_text_that_looks_like_the_language_of_manual_pages_is_text(tmp_path: Path) -> None:
    needs("groff")
    first, second = ".so /etc/passwd is no request, 'br neither", "\\fBNor\\fR is \\n a number, and a-b a dash."
    hostile = f"{first}\n\n{second}\n\n\b\n'quoted\n.TH x"
    group = click.Group("tool", help=hostile, commands={"do": click.Command("do", help=hostile)})
    path = tmp_path / "tool.1"
    path.write_text(page(group, __version__))

    shown = words(rendered(path))

    assert shown.count(first) == 2  # its NAME begins small, as all do
    assert shown.count(f"{second} 'quoted .TH x") == 2
