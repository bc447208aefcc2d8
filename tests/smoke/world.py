"""What the tests of the smoke test share: stores that stand-ins read, and the command run beside them."""

import contextlib
import json
import os
import pty
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import commands
from tests.support.models import Model
from tests.support.standin.names import Name

PATIENCE = 60.0


def place(store: Path, models: Iterable[Model]) -> Path:
    """Put models into a folder, as Ollama lays it out; the folder."""
    for model in models:
        blobs = store / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        for digest, blob in model.blobs.items():
            (blobs / digest.replace(":", "-")).write_bytes(blob.read(0, blob.size))
        manifest = store.joinpath("manifests", *Name.parse(model.name).parts)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_bytes(model.manifest)
    return store


@dataclass(frozen=True, slots=True)
class Done:
    """A ``syncd smoke --json`` that has ended."""

    code: int
    events: list[dict[str, Any]]
    errors: str

    @property
    def report(self) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == "report")

    def target(self, instance: str, model: str) -> dict[str, Any]:
        """What became of the requests to a model on a server."""
        found: dict[str, Any] = next(
            one for one in self.report["targets"] if (one["instance"], one["model"]) == (instance, model)
        )
        return found

    def failures(self, instance: str, model: str) -> dict[tuple[str, int | None], int]:
        return {(one["reason"], one["status"]): one["count"] for one in self.target(instance, model)["failures"]}


class Smoker:
    """Runs ``syncd smoke`` as a process, in a home folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def start(
        self,
        *arguments: str,
        streams: commands.Streams = commands.OWN,
        prepare: Callable[[int], object] | None = None,
    ) -> commands.Process:
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        environ = {**kept, "HOME": str(self.home), "TERM": "xterm"}
        return commands.Process.start(
            "smoke", *arguments, environ=environ, streams=streams, cwd=self.home, prepare=prepare
        )

    def __call__(self, *arguments: str, open_files: int | None = None) -> Done:
        """``open_files``: it may have no more than these."""
        limits = (open_files or 0, open_files or 0)
        lower = None if open_files is None else lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        with self.start(*arguments, "--json", prepare=lower) as process:
            return ended(process)

    def on_a_terminal(self, *arguments: str) -> str:
        """What one that ends well writes to a terminal."""
        terminal, its_end = pty.openpty()
        with self.start(*arguments, streams=(None, its_end, its_end)) as process:
            os.close(its_end)
            shown = b""
            # Reading ends with EIO when the last writer has gone.
            with os.fdopen(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):
                while part := file.read(65536):
                    shown += part
            assert process.wait(PATIENCE) == 0
        return shown.decode()

    def text(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr, of one for people."""
        with self.start(*arguments) as process:
            out, err = process.communicate(PATIENCE)
            return process.wait(), out, err


def ended(process: commands.Process) -> Done:
    """Wait for it."""
    out, err = process.communicate(PATIENCE)
    return Done(process.wait(), [json.loads(line) for line in out.splitlines()], err)
