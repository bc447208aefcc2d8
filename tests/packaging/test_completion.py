"""Shell completion: what bash, zsh and fish offer, by the scripts that syncd writes for them."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from syncd.cli.main import syncd
from syncd.cli.options import stored_names

CHECKOUT = Path(__file__).parents[2]
MODELS = (
    "registry.ollama.ai/library/mistral/7b",
    "registry.ollama.ai/library/mistral/latest",
    "hf.co/me/m-GGUF/Q4_K_M",
)
_NOT_MODELS = {"smoke": "--instance"}  # a NAME that is no model's


class Place:
    """A home folder with a store, or an Ollama's models folder, in it, and a ``syncd`` on the PATH."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = home / "models"
        for model in MODELS:
            (self.store / "manifests" / model).parent.mkdir(parents=True, exist_ok=True)
            (self.store / "manifests" / model).write_text("{}")
        program = home / "bin" / "syncd"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m syncd.cli.main "$@"\n')
        program.chmod(0o755)
        self.variables = {
            "HOME": str(home),
            "PATH": f"{program.parent}:/usr/bin:/bin",
            "PYTHONPATH": str(CHECKOUT),
            "SYNCD_STORE": str(self.store),
            "LANG": "C.UTF-8",
        }

    def run(self, *command: str, **more: str) -> str:
        """Run it at home; what it printed, to stderr as well."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.home,
            env={**self.variables, **more},
            timeout=60,
            check=False,
        )
        return done.stdout

    def script(self, shell: str) -> Path:
        """The completion script for this shell."""
        path = self.home / f"completion.{shell}"
        path.write_text(self.run("syncd", _SYNCD_COMPLETE=f"{shell}_source"))
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


Offered = Callable[[str], set[str]]


@pytest.fixture
def bash(place: Place) -> Offered:
    """What bash offers after this text: its words are split as readline does it, at colons, too."""
    script = place.script(needs("bash"))

    def offered(line: str) -> set[str]:
        words = split_by_readline(line)
        code = (
            f"source {script}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
            f"COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}; "
            '_syncd_completion syncd; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        return set(place.run("bash", "--norc", "-c", code).split())

    return offered


def split_by_readline(line: str) -> list[str]:
    """Words as bash has them in COMP_WORDS, with its default COMP_WORDBREAKS; the last may be empty."""
    words: list[str] = []
    for part in line.split(" "):
        rest = part
        while (found := next((at for at, char in enumerate(rest) if char in ":=@"), None)) is not None:
            words += [word for word in (rest[:found], rest[found]) if word]
            rest = rest[found + 1 :]
        if rest or not part:
            words.append(rest)
    return words


def needs(shell: str) -> str:
    if shutil.which(shell) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"NOTHING WAS COMPLETED: {shell} is not installed")
    return shell


def test_bash_offers_commands_and_options(bash: Offered) -> None:
    assert bash("syncd pu") == {"pull"}
    assert bash("syncd config ") == {"check", "show"}
    assert bash("syncd rm --dry") == {"--dry-run"}
    assert {"list", "serve", "status"} <= bash("syncd ")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("syncd show mi", {"mistral:7b", "mistral:latest"}),
        ("syncd show mistral:", {"7b", "latest"}),  # what stands before the colon stays where it is
        ("syncd show mistral:l", {"latest"}),
        ("syncd rm --dry-run hf.co/me/", {"hf.co/me/m-GGUF:Q4_K_M"}),
        ("syncd rm mistral:7b hf", {"hf.co/me/m-GGUF:Q4_K_M"}),
        ("syncd rm mistral:7b ", {"mistral:7b", "mistral:latest", "hf.co/me/m-GGUF:Q4_K_M"}),
        ("syncd show nosuch", set()),
    ],
)
def test_bash_offers_the_models_of_the_store(bash: Offered, typed: str, offered: set[str]) -> None:
    assert bash(typed) == offered


def test_bash_heeds_the_store_that_was_typed(bash: Offered, place: Place) -> None:
    other = place.home / "other"
    (other / "manifests/registry.ollama.ai/library/llava").mkdir(parents=True)
    (other / "manifests/registry.ollama.ai/library/llava/7b").write_text("{}")

    assert bash(f"syncd --store {other} show ") == {"llava:7b"}
    assert bash(f"syncd --store={other} show ") == {"llava:7b"}


def test_the_tab_key_completes_in_a_real_bash(place: Place) -> None:
    assert typed_into(place, ("bash", "--norc", "-i"), place.script(needs("bash")), "mistral:7b")


def test_the_tab_key_completes_in_a_real_zsh(place: Place) -> None:
    script = place.script(needs("zsh"))
    prepared = place.home / "prepared.zsh"
    prepared.write_text(f"autoload -Uz compinit && compinit -u -D\nsource {script}\n")

    assert typed_into(place, ("zsh", "-f", "-i"), prepared, "mistral:7b")


def typed_into(place: Place, shell: tuple[str, ...], script: Path, expected: str) -> bool:
    """Whether `mistral:7<tab>` reaches a command as ``expected``. It goes through a pseudo-terminal, by script(1)."""
    ready, answer = place.home / "ready", place.home / "answer"
    # The program under completion notes what it is called with, once it is no longer asked for completions.
    real = place.home / "bin" / "syncd"
    real.write_text(real.read_text().replace("exec", f'[ -n "$_SYNCD_COMPLETE" ] || echo "$*" >{answer}\nexec'))
    command = ("script", "-qefc", shlex.join(shell), "/dev/null")
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=place.home,
        env={**place.variables, "TERM": "xterm"},
    ) as session:
        assert session.stdin is not None
        for line, done in ((f"source {script}; touch {ready}\n", ready), ("syncd show mistral:7\t\n", answer)):
            session.stdin.write(line.encode())
            session.stdin.flush()
            waited(done)
        session.stdin.write(b"exit\n")
        session.stdin.close()
        session.wait(30)
    return answer.read_text().split() == ["show", expected]


def waited(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and (path.stat().st_size or path.name == "ready")):
        if time.monotonic() > deadline:
            pytest.fail(f"nothing came to {path.name} within a minute")
        time.sleep(0.05)


def test_fish_offers_the_models_of_the_store(place: Place) -> None:
    script = place.script(needs("fish"))

    said = place.run("fish", "--no-config", "-c", f"source {script}; complete -C 'syncd show mistral:'")

    assert set(said.split()) == {"mistral:7b", "mistral:latest"}


def test_who_completes_sees_no_errors_and_makes_nothing(place: Place) -> None:
    broken = place.home / "broken.toml"
    broken.write_text("store = 7\n")
    asked = {"_SYNCD_COMPLETE": "bash_complete", "COMP_WORDS": "syncd show mi", "COMP_CWORD": "2"}
    before = sorted(place.home.rglob("*"))

    said = [
        place.run("syncd", **asked, SYNCD_STORE=str(place.home / "nowhere")),
        place.run("syncd", **asked, SYNCD_STORE=str(broken)),
        place.run("syncd", **asked, SYNCD_STORE="", SYNCD_CONFIG=str(broken)),
        place.run("syncd", **{**asked, "COMP_WORDS": "'", "COMP_CWORD": "x"}),
        place.run("syncd", _SYNCD_COMPLETE="nonsense"),
        place.run("syncd", _SYNCD_COMPLETE="tcsh_source"),
    ]

    assert [text.strip() for text in said] == [""] * len(said)
    assert sorted(place.home.rglob("*")) == before


def test_what_is_no_model_in_the_folder_is_not_offered(place: Place) -> None:
    library = place.store / "manifests/registry.ollama.ai/library"
    (library / "mistral/$(reboot)").write_text("{}")
    (library / "mistral/loop").symlink_to(library)
    (library / "minstrel").symlink_to(library / "mistral")
    (place.store / "manifests/mixed.txt").write_text("")

    said = place.run("syncd", _SYNCD_COMPLETE="bash_complete", COMP_WORDS="syncd show mi", COMP_CWORD="2")

    assert said.split() == ["plain,mistral:7b", "plain,mistral:latest"]


def test_every_command_that_takes_a_models_name_offers_those_of_the_store() -> None:
    context = click.Context(syncd, info_name="syncd")
    without = []
    for name in syncd.list_commands(context):
        command = syncd.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            takes_names = "NAME" in (parameter.metavar or "") or parameter.name in {"name", "names"}
            if takes_names and _NOT_MODELS.get(name) not in parameter.opts:
                given = parameter._custom_shell_complete
                without += [] if given is stored_names else [f"{name} {parameter.name}"]
    assert without == [], "give them shell_complete=stored_names"
