"""The README's story in small: a folder that eight servers have spoilt, copies beside it, and what mends it."""

import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.adopt.world import blob_file, lay, tag_file
from tests.support import commands
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import Model, five_models, model_from
from tests.support.ollama_servers import ask
from tests.support.registry import ScriptedRegistry
from tests.support.standin import StandIn

SERVERS = 8
WEIGHTS = 64 * 1024  # bytes


def standing(server: dict[str, Any]) -> set[bool]:
    """Whether the models of a server, as the end tells of them, are proved."""
    return {one["proved"] for one in server["models"]}


@dataclass(frozen=True)
class Done:
    """A ``syncd migrate --json`` that has ended."""

    code: int
    events: list[dict[str, Any]]
    errors: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == kind]

    @property
    def plan(self) -> dict[str, Any]:
        return self.of("plan")[0]

    @property
    def end(self) -> dict[str, Any]:
        assert self.of("migrated"), self.errors
        return self.of("migrated")[0]

    @property
    def steps(self) -> list[str]:
        return [one["step"] for one in self.of("step")]


@dataclass
class Host:
    """A host with a shared folder of these: a whole model, one with corrupt weights, one that is half downloaded.

    And one with an empty manifest, none of the fifth, a corrupt blob that nobody names, and files that are none.

    Copies: the first container has the half downloaded one whole, the second the fifth with corrupt weights.
    """

    folder: Path
    registry: ScriptedRegistry
    models: list[Model] = field(default_factory=list)
    servers: list[StandIn] = field(default_factory=list)
    daemon: RunningDaemon | None = None

    @property
    def store(self) -> Path:
        return self.folder / "models"

    @property
    def copies(self) -> list[Path]:
        return [self.folder / "container-1", self.folder / "container-2"]

    @property
    def quarantine(self) -> Path:
        return self.store / ".syncd" / "quarantine"

    @property
    def published(self) -> dict[str, str]:
        return {model.name: model.digest for model in self.models}

    @property
    def published_names(self) -> list[str]:
        return [model.name for model in self.models]

    def use(self, server: StandIn, model: str) -> None:
        """As any user."""
        answer = ask(server, "/api/generate", {"model": model, "prompt": "hello", "stream": False})
        assert answer.status == 200, answer.body

    def wait_until_loaded(self, server: str, model: str) -> None:
        """Until the daemon has seen it."""
        daemon = self.daemon
        assert daemon is not None

        def seen() -> bool:
            one = next(one for one in daemon.status()["instances"] if one["name"] == server)
            return any((each["name"], each["state"]) == (model, "loaded") for each in one["models"])

        eventually(seen)

    def ruin(self) -> None:
        """Make it so."""
        self.models = [replace(model, name=self.registry.add(model).name) for model in five_models(WEIGHTS)]
        whole, corrupt, half, empty, absent = self.models
        lay(self.store, whole, corrupt, half, empty)
        flip(blob_file(self.store, corrupt.weights))
        half_file = blob_file(self.store, half.weights)
        half_file.rename(half_file.with_name(half_file.name + "-partial"))
        half_file.with_name(half_file.name + "-partial-0").write_text("{}")
        tag_file(self.store, empty.name).write_bytes(b"")
        (self.store / "blobs" / "12345.tmp").write_bytes(b"nobody knows")
        (self.store / "blobs" / f"sha256-{'0' * 64}").write_bytes(b"other bytes")
        lay(self.copies[0], whole, half)
        lay(self.copies[1], absent)
        flip(blob_file(self.copies[1], absent.weights))

    def arguments(self, *more: str, wanted: Sequence[str] | None = None) -> list[str]:
        """The copies for sources, all models wanted unless ``wanted`` says otherwise."""
        names = wanted if wanted is not None else [model.name for model in self.models]
        asked = [argument for name in names for argument in ("--model", name)]
        sources = [str(copy) for copy in self.copies if copy.exists()]
        return ["migrate", "--json", *sources, *asked, *more]

    def environment(self) -> dict[str, str]:
        if self.daemon is not None:
            return self.daemon.environment()
        home = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), "LANG": "C.UTF-8"}
        return {**home, "SYNCD_STORE": str(self.store), "XDG_RUNTIME_DIR": str(self.folder)}

    def migrate(self, *more: str, wanted: Sequence[str] | None = None) -> Done:
        """Run it to its end."""
        ended = commands.completed(*self.arguments(*more, wanted=wanted), environ=self.environment())
        return Done(ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr)

    def start(self) -> commands.Process:
        """Run it, and do not wait."""
        return commands.Process.start(*self.arguments(), environ=self.environment())

    def migrate_and_die(self, event: int) -> bool:
        """Run it, and kill it at the event of this number (from 1 on, progress aside); whether it came so far."""
        with self.start() as process:
            assert process.stdout is not None
            for line in process.stdout:
                event -= json.loads(line)["event"] != "progress"
                if event == 0:
                    process.kill()
                    return process.wait() == -signal.SIGKILL
        return False

    def quarantined(self) -> list[str]:
        """The names of what lies there, without their tokens."""
        return sorted(path.name.rpartition(".")[0] for path in self.quarantine.iterdir())


def flip(path: Path) -> None:
    """Change one byte, and neither size nor name."""
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def unknown_model(name: str) -> Model:
    """One that no registry has."""
    return model_from(name, [("model", b"weights that nobody else has" * 99)])


@contextmanager
def ruined(folder: Path, registry: ScriptedRegistry) -> Iterator[Host]:
    """The host, without daemon."""
    host = Host(folder, registry)
    host.ruin()
    yield host


@contextmanager
def with_daemon(
    folder: Path,
    registry: ScriptedRegistry,
    *,
    servers: int = SERVERS,
    prove: str = "always",
    more: str = "",
    prepared: Host | None = None,
) -> Iterator[Host]:
    """The host, its servers, and a daemon that wants no models by itself, unless ``more`` settings say so.

    ``prepared``: a host that there is already; it is moved here.
    """
    if prepared is not None:
        prepared.folder.rename(folder)
        prepared = replace(prepared, folder=folder)
    with nullcontext(prepared) if prepared else ruined(folder, registry) as host, ExitStack() as stack:
        host.servers = [stack.enter_context(StandIn(host.store, prune=False)) for _ in range(servers)]
        host.daemon = RunningDaemon(folder, settings_for(host.servers, prove) + more)
        try:
            with host.daemon:
                yield host
        finally:
            host.daemon.stop(signal.SIGKILL)


def settings_for(servers: Sequence[StandIn], prove: str) -> str:
    tables = [
        f'[[instances]]\nname = "gpu-{number}"\nurl = "{server.url}"\nprove = "{prove}"\n'
        for number, server in enumerate(servers)
    ]
    return "".join(tables) + '[reload]\nsettle = "1s"\n[probes]\nevery = "1s"\n'


@contextmanager
def requests(host: Host, model: str) -> Iterator[list[int]]:
    """One request after another to each server while it is entered; their statuses."""
    statuses: list[int] = []
    ended = threading.Event()

    def ask_on(server: StandIn) -> None:
        while not ended.wait(0.02):
            body = {"model": model, "prompt": "hello", "stream": False}
            statuses.append(ask(server, "/api/generate", body).status)

    with ThreadPoolExecutor(len(host.servers)) as pool:
        running = [pool.submit(ask_on, server) for server in host.servers]
        try:
            yield statuses
        finally:
            ended.set()
            for one in running:
                one.result(timeout=60)
