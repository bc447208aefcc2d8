"""The README's host: eight Ollama servers, each in a container on the host's network, over one store that syncd owns.

The servers are stand-ins; the Engine, the containers, their read-only mounts, the daemon and the registry are real.
"""

import http.client
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.docker.engine import DockerEngine
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import build_model, five_models
from tests.support.ports import free_port
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
    _seed: int = 1

    # The registry and the daemon

    def settings(self) -> str:
        """Every model that the registry has is wanted."""
        wanted = "".join(f'[[models]]\nname = "{one.name}"\n' for one in self.models.values())
        return (
            f'{wanted}[docker]\nurl = "{self.docker.url}"\ndiscover = true\n'
            '[probes]\nevery = "1s"\ntimeout = "5s"\nproof_timeout = "4s"\n[reload]\nsettle = "100ms"\n'
        )

    def want_all_five(self) -> None:
        """The registry has them, and the settings ask for them."""
        for model in five_models(_WEIGHTS):
            self.models[model.name] = self.registry.add(model)
        self.daemon.write_settings(self.settings())

    def update(self, name: str) -> ModelHandle:
        """The registry gets other weights under this name, and an operator pulls them."""
        self._seed += 1
        self.models[name] = self.registry.add(build_model(name, _WEIGHTS, self._seed))
        done = self.daemon.command("pull", self.models[name].name)
        assert done.returncode == 0, done.stderr
        return self.models[name]

    def rollout(self, name: str) -> Any:
        """How the version that the registry has now is rolled out; empty: not yet."""
        wanted = self.models[name]
        told = self.daemon.status()["rollouts"]
        return next((one for one in told if one["name"] == wanted.name and one["digest"] == wanted.digest), {})

    def ends(self, name: str, state: str, *, seconds: float = 60.0) -> Any:
        """Its rollout, once it has come to that."""
        try:
            eventually(lambda: self.rollout(name).get("state") == state, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"{self.rollout(name)}\n{self.daemon.log()[-6000:]}") from None
        return self.rollout(name)

    def stands(self, number: int, name: str) -> Any:
        """How a model stands on a server, in the status."""
        server = next(one for one in self.daemon.status()["instances"] if one["name"] == self.name(number))
        return next(one for one in server["models"] if one["name"] == self.models[name].name)

    def resume(self) -> None:
        """As ``syncd reload --resume``."""
        with self.daemon.connection() as connection:
            connection.request("POST", "/syncd/v1/reload", '{"resume": true}', {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status == 200, content

    # The servers

    def name(self, number: int) -> str:
        return f"ollama-server-{number}"

    def run(self, number: int, *, store: Path | None = None, **labels: str) -> None:
        """Make a server's container anew. ``store``: another one than syncd's."""
        with suppress(AssertionError):
            self.docker.remove(self.name(number))
        port = self.ports[number]
        self.docker.run(
            self.name(number),
            (sys.executable, "-m", "tests.support.standin", "--models", _INSIDE, "--port", str(port)),
            labels={"syncd.instance": "true", "syncd.port": str(port), **_prefixed(labels)},
            environment=["OLLAMA_NOPRUNE=1"],
            binds=[f"{store or self.daemon.store}:{_INSIDE}:ro"],
            restart="unless-stopped",
        )

    def replace(self, number: int, *, store: Path | None = None, **labels: str) -> None:
        """Make a server's container anew, and wait until it answers and the daemon knows of it."""
        before = self._restarts(number)
        self.run(number, store=store, **labels)
        self.wait_for([number])
        eventually(lambda: self._restarts(number) > before)

    def _restarts(self, number: int) -> int:
        told = (line for line in self.daemon.log().splitlines() if '"docker.restarted"' in line)
        return sum(f'"{self.name(number)}"' in line for line in told)

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

    def asked(self, number: int, path: str) -> dict[str, int]:
        """How often a server was asked this for each model, and answered well."""
        told = self.ask(number, "GET", "/_standin/requests")["requests"]
        return Counter(one["model"] for one in told if one["path"] == path and one["status"] == 200)

    def answers(self, number: int, name: str) -> bool:
        """Whether a server makes something of a model, without a second try."""
        model = self.models[name].name
        if name.startswith("nomic"):
            return bool(self.ask(number, "POST", "/api/embed", {"model": model, "input": "x"})["embeddings"])
        body = {"model": model, "prompt": "x", "stream": False, "options": {"num_predict": 1}}
        return bool(self.ask(number, "POST", "/api/generate", body)["response"])


@contextmanager
def host(docker: DockerEngine, folder: Path) -> Iterator[Host]:
    """The host with all servers up and known to the daemon, and no model wanted yet."""
    with ExitStack() as stack:
        registry = stack.enter_context(ScriptedRegistry())
        made = Host(docker, RunningDaemon(folder), registry, _ports())
        made.daemon.settings = made.settings()
        stack.enter_context(made.daemon)
        stack.callback(docker.clear)
        for number in EIGHT:
            made.run(number)
        made.wait_for()
        eventually(lambda: made.name(8) in made.daemon.log(), seconds=30.0)  # discovered, which the log tells
        yield made


def _prefixed(labels: Mapping[str, str]) -> dict[str, str]:
    return {f"syncd.{key}": value for key, value in labels.items()}


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
