"""The README's host: eight Ollama servers, each in a container on the host's network, over one store that syncd owns.

The servers are stand-ins; the Engine, the containers, their read-only mounts, the daemon and the registry are real.
"""

import http.client
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.docker.engine import DockerEngine
from tests.support.daemon import RunningDaemon, eventually, free_port
from tests.support.models import Model, build_model, five_models
from tests.support.registry import ModelHandle, ScriptedRegistry

EIGHT = range(1, 9)
_OLLAMAS = 11434
_INSIDE = "/models"  # where a container sees the store
_WEIGHTS = 256 * 1024  # bytes of each model's weights


@dataclass(slots=True)
class Host:
    """Everything on it. Servers are numbered from 1 to 8."""

    docker: DockerEngine
    daemon: RunningDaemon
    registry: ScriptedRegistry
    ports: dict[int, int]
    models: dict[str, ModelHandle] = field(default_factory=dict)

    # The registry

    def offer(self, models: Iterable[Model]) -> None:
        """Have the registry serve these, and the settings want them."""
        for model in models:
            self.models[model.name] = self.registry.add(model)

    def offer_update(self, name: str, *, seed: int = 2) -> ModelHandle:
        """Have the registry serve another version, with other weights."""
        self.offer([build_model(name, _WEIGHTS, seed)])
        return self.models[name]

    def pull(self, name: str) -> None:
        """As an operator does."""
        done = self.daemon.command("pull", self.models[name].name)
        assert done.returncode == 0, done.stderr

    # The servers

    def name(self, number: int) -> str:
        return f"ollama-server-{number}"

    def run(self, number: int, *, store: Path | None = None) -> None:
        """Make a server's container anew. ``store``: another one than syncd's."""
        with suppress(AssertionError):
            self.docker.remove(self.name(number))
        port = self.ports[number]
        self.docker.run(
            self.name(number),
            (sys.executable, "-m", "tests.support.standin", "--models", _INSIDE, "--port", str(port)),
            labels={"syncd.instance": "true", "syncd.port": str(port)},
            environment=["OLLAMA_NOPRUNE=1"],
            binds=[f"{store or self.daemon.store}:{_INSIDE}:ro"],
            restart="unless-stopped",
        )

    def wait_for(self, numbers: Iterable[int] = EIGHT) -> None:
        """Until these servers answer."""
        for number in numbers:
            eventually(lambda number=number: self.ask(number, "GET", "/api/version"), seconds=60.0)

    def ask(self, number: int, method: str, path: str, body: object = None) -> Any:
        """One request to a server; the JSON of a good answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[number], timeout=30)
        try:
            raw = None if body is None else json.dumps(body)
            connection.request(method, path, raw, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, (number, path, answer.status, content)
        return json.loads(content)

    def order(self, number: int, what: str, **more: object) -> None:
        """Have a server do something wrong."""
        self.ask(number, "POST", "/_standin/orders", {"what": what, **more})

    def heal(self, number: int) -> None:
        """Have it do nothing wrong any more."""
        self.ask(number, "DELETE", "/_standin/orders")

    def digests(self, number: int) -> dict[str, str]:
        """What a server lists: names and digests."""
        return {one["name"]: one["digest"] for one in self.ask(number, "GET", "/api/tags")["models"]}

    def answers(self, number: int, name: str) -> bool:
        """Whether a server makes something of a model, without a second try."""
        model = self.models[name].name
        if name.startswith("nomic"):
            return bool(self.ask(number, "POST", "/api/embed", {"model": model, "input": "x"})["embeddings"])
        body = {"model": model, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
        return bool(self.ask(number, "POST", "/api/generate", body)["response"])


@contextmanager
def host(docker: DockerEngine, folder: Path, settings: str = "") -> Iterator[Host]:
    """The host with its five models wanted, nothing published yet and no server running."""
    with ExitStack() as stack:
        registry = stack.enter_context(ScriptedRegistry())
        made = Host(docker, RunningDaemon(folder), registry, _ports())
        stack.callback(docker.clear)
        made.offer(five_models(_WEIGHTS))
        wanted = "".join(f'[[models]]\nname = "{one.name}"\n' for one in made.models.values())
        made.daemon.settings = f'{wanted}[docker]\nurl = "{docker.url}"\ndiscover = true\n{settings}'
        stack.enter_context(made.daemon)
        yield made


def _ports() -> dict[int, int]:
    """11434 to 11441 as in the README, or others where somebody has those."""
    usual = range(_OLLAMAS, _OLLAMAS + len(EIGHT))
    return {number: port if _is_free(port) else free_port() for number, port in zip(EIGHT, usual, strict=True)}


def _is_free(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.connect()
    except OSError:
        return True
    finally:
        connection.close()
    return False
