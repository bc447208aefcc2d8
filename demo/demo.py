"""The main job, shown with no internet, GPU or Docker: ``make demo``.

A registry on loopback serves five small but real models. The real ``syncd`` command pulls them, through a broken
connection and a SIGKILL. Every step says what the reader sees and checks that it is so; the exit code is 1 where it
is not.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.oracle import assert_store_whole

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = CHECKOUT / ".demo"
STORE = FOLDER / "models"
MIB = 1 << 20
CHUNK = 16 * MIB
WEIGHTS_MIB = 64
SLOW = 12_000_000  # bytes per second and connection: slow enough to be watched
HEAD = 96  # columns of a heading


class UnexpectedError(Exception):
    """Something was not as this demo says it is."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry's process, as it introduced itself."""

    control: str
    models: dict[str, dict[str, Any]]  # by short name, such as "mistral:7b"

    def tell(self, what: str, **arguments: object) -> None:
        """Steer it: ``throttle``, ``drop_after`` and the like."""
        self._ask(what, json.dumps(arguments).encode())

    def counts(self) -> dict[str, Any]:
        """What it was asked so far, and how many bytes of blobs it sent."""
        return self._ask("", None)

    def name(self, short: str) -> str:
        """What ``syncd pull`` takes."""
        name: str = self.models[short]["name"]
        return name

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.control}/{path}", body, timeout=10) as answer:
            value: dict[str, Any] = json.load(answer)
            return value


def main() -> int:
    """Run every step; 0 if all was as promised."""
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    try:
        with registry() as running:
            pull_most(running)
            pull_through_a_broken_connection(running)
            kill_and_resume(running)
            pull_what_is_current(running)
            look_at_the_store(running)
    except UnexpectedError as error:
        say(f"\nThis is not what should have happened: {error}")
        return 1
    say(f"\nAll of it was as promised, in {time.monotonic() - began:.0f} s. The store is still there: {STORE}")
    return 0


def pull_most(running: Registry) -> None:
    """Three models, one after another, at a speed that can be watched."""
    heading("1. Pull three models")
    say("One bar per blob. Each model becomes visible when all of its blobs are in and verified, not before.")
    say("Two of them share their licence: a blob that is stored is not fetched again.\n")
    names = ["mistral:7b", "llama3.2:3b", "nomic-embed-text:v1.5"]
    running.tell("throttle", bytes_per_second=SLOW)
    syncd("pull", *(running.name(short) for short in names))
    wanted = {digest: size for short in names for digest, size in running.models[short]["blobs"].items()}
    served, size = running.counts()["bytes"], sum(wanted.values())
    say(f"\nThe registry sent {megabytes(served)} for {len(wanted)} different blobs of {megabytes(size)}.")
    expect(served == size, "each blob crosses the network once")


def pull_through_a_broken_connection(running: Registry) -> None:
    """One model, one connection dropped in mid-blob."""
    heading("2. Break a connection in the middle")
    say("The registry hangs up after 10 MiB of one answer. What had arrived is kept; the rest is asked for again.\n")
    before = running.counts()["bytes"]
    running.tell("drop_after", after=10 * MIB, times=1)
    syncd("pull", running.name("codellama:7b"))
    counts = running.counts()
    weights = running.models["codellama:7b"]["blobs"][running.models["codellama:7b"]["weights"]]
    served = counts["bytes"] - before
    say(f"\nConnections broken: {counts['fired'][-1]}. Sent: {megabytes(served)}, for weights of {megabytes(weights)}.")
    expect(counts["fired"][-1] == 1, "one connection was broken")
    expect(served < weights + 10 * MIB, "what had arrived before the break was not fetched again")


def kill_and_resume(running: Registry) -> None:
    """SIGKILL at about half; the next run fetches only the rest."""
    heading("3. Kill a pull with SIGKILL at about half, and run it again")
    say("No handler runs at a SIGKILL: what survives is what the disk holds.\n")
    model = running.models["llava:7b"]
    before = running.counts()["bytes"]
    with started_pull(running.name("llava:7b"), "--connections", "1") as process:
        while running.counts()["bytes"] - before < model["size"] // 2:
            expect(process.poll() is None, "the pull is still running at half")
            time.sleep(0.02)
        process.kill()
    first = running.counts()["bytes"] - before
    say(f"{show_cursor()}\n\nKilled after {megabytes(first)} of {megabytes(model['size'])}. What servers see now:\n")
    syncd("list")
    visible = check_store()
    expect(not any("llava" in name for name in visible), "no half model is visible")
    say("\nllava:7b is not there, and all that is there is whole. The same command again:\n")
    syncd("pull", running.name("llava:7b"))
    second = running.counts()["bytes"] - before - first
    say(f"\nThe first run took {megabytes(first)}, the second {megabytes(second)}, of {megabytes(model['size'])}.")
    expect(first + second <= model["size"] + CHUNK + MIB, "at most one chunk (16 MiB) per connection is fetched again")


def pull_what_is_current(running: Registry) -> None:
    """A model that is current costs one manifest request."""
    heading("4. Pull a model that is already there")
    before = running.counts()
    syncd("pull", running.name("mistral:7b"))
    after = running.counts()
    manifests = after["manifest_requests"] - before["manifest_requests"]
    blobs = after["blob_requests"] - before["blob_requests"]
    say(f"\nIt cost {manifests} request for the manifest, and {blobs} for blobs.")
    expect((manifests, blobs) == (1, 0), "a current model costs one manifest request")


def look_at_the_store(running: Registry) -> None:
    """List and verify; then check with other eyes."""
    heading("5. What the store holds")
    syncd("list")
    say("\nEvery byte hashed again, by syncd:\n")
    syncd("verify")
    visible = check_store()
    expect(len(visible) == len(running.models), "all five models are visible")
    expect(
        set(visible.values()) == {model["digest"] for model in running.models.values()},
        "each manifest is the registry's own, byte by byte",
    )
    say(
        "\nAnd by a script that shares no code with syncd: every manifest is the registry's, every blob has its digest."
    )


@contextmanager
def registry() -> Iterator[Registry]:
    """Start the registry's process; end it afterwards."""
    heading("0. A registry on loopback, with five models")
    command = [sys.executable, "-m", "tests.support.registry", "--like-ollama", "--weights-mib", str(WEIGHTS_MIB)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise UnexpectedError("the registry did not start")
            introduction = json.loads(line)
            models = {model["name"].rpartition("/")[2]: model for model in introduction["models"]}
            say(f"It answers as Ollama's registry does, at {introduction['url']}:")
            for short, model in models.items():
                say(f"  {short:24}{megabytes(model['size']):>9}  {len(model['blobs'])} blobs")
            yield Registry(introduction["control"], models)
        finally:
            process.terminate()


def syncd(*arguments: str) -> None:
    """Run the real command in the foreground, its output on this terminal."""
    show_command(arguments)
    code = subprocess.run(command_line(arguments), env=environment(), cwd=CHECKOUT, check=False).returncode
    expect(code == 0, f"'syncd {arguments[0]}' ends with exit code 0 (it was {code})")


@contextmanager
def started_pull(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The same in the background."""
    show_command(("pull", *arguments))
    with subprocess.Popen(command_line(("pull", *arguments)), env=environment(), cwd=CHECKOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def command_line(arguments: tuple[str, ...]) -> list[str]:
    """``syncd`` of this checkout."""
    return [sys.executable, "-m", "syncd.cli.main", *arguments]


def environment() -> dict[str, str]:
    """This one's, with the demo's store and without the user's own settings."""
    inherited = {name: value for name, value in os.environ.items() if name != "SYNCD_CONFIG"}
    return inherited | {
        "SYNCD_STORE": str(STORE),
        "SYNCD_SOCKET": str(FOLDER / "syncd.sock"),
        "XDG_CONFIG_HOME": str(FOLDER / "config"),
    }


def check_store() -> dict[str, str]:
    """What is visible, name -> manifest digest, after everything was hashed."""
    try:
        return assert_store_whole(STORE)
    except (AssertionError, ValueError) as error:
        raise UnexpectedError(f"the store is not whole: {error}") from error


def expect(is_so: bool, what: str) -> None:
    """Go on only if it is so."""
    if not is_so:
        raise UnexpectedError(f"expected that {what}")
    sys.stdout.flush()


def heading(text: str) -> None:
    """Begin a step."""
    say(f"\n── {text} {'─' * (HEAD - len(text))}\n")


def show_command(arguments: tuple[str, ...]) -> None:
    """What a reader would type."""
    say(f"$ syncd {' '.join(arguments)}")


def say(text: str) -> None:
    """To the reader."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def show_cursor() -> str:
    """A progress bar hides the cursor, and a killed one does not bring it back."""
    return "\x1b[?25h" if sys.stdout.isatty() else ""


def megabytes(size: int) -> str:
    """``12.3 MB``."""
    return f"{size / 1_000_000:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
