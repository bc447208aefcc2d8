"""What the tests of the smoke test share: stores that stand-ins read, and the command run beside them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.models import Model
from tests.support.standin.names import Name

ROOT = Path(__file__).parents[2]
SYNCD = (sys.executable, "-m", "syncd.cli.main")
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

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        return subprocess.Popen(
            [*SYNCD, "smoke", *arguments],
            env={**kept, "HOME": str(self.home), "PYTHONPATH": str(ROOT)},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> Done:
        with self.start(*arguments, "--json") as process:
            return ended(process)

    def text(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr, of one for people."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=PATIENCE)
            return process.returncode, out, err


def ended(process: subprocess.Popen[str]) -> Done:
    """Wait for it."""
    out, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, [json.loads(line) for line in out.splitlines()], err)
