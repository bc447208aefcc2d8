"""compose.yaml as shipped, on its own ports: a stand-in is in the place of Ollama, Debian's Prometheus of its image.

Reserved GPUs are seen as far as the containers that were to have them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from tests.docker.engine import IMAGE as HOSTS_SYSTEM
from tests.docker.engine import seen_inside
from tests.image.world import Docker
from tests.support.daemon import ROOT
from tests.support.models import build_model
from tests.support.registry import ModelHandle, ScriptedRegistry

pytestmark = pytest.mark.timeout(600)

_EIGHT = range(1, 9)
_COMPOSE = "docker-compose"
_WEIGHTS = 256 * 1024


def port(number: int) -> int:
    return 11433 + number


def server(number: int) -> str:
    return f"ollama-server-{number}"


@dataclass(frozen=True, slots=True)
class Compose:
    """The file, and ``over``: what takes the place of images that nobody can pull here."""

    docker: Docker
    over: Path
    settings: Path

    def __call__(self, *words: str) -> str:
        files = ("--file", str(ROOT / "compose.yaml"), "--file", str(self.over))
        done = subprocess.run(
            (_COMPOSE, "--project-name", "host", *files, *words),
            env=self.docker.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, where: int, path: str, body: object = None, method: str = "GET") -> Any:
        """JSON from a port of the containers' loopback."""
        data = None if body is None else json.dumps(body).encode()
        with self.docker.network():
            request = Request(f"http://127.0.0.1:{where}{path}", data, method=method)
            with urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")

    def query(self, expression: str) -> list[Any]:
        """What Prometheus has for it."""
        return list(self.ask(9090, f"/api/v1/query?{urlencode({'query': expression})}")["data"]["result"])

    def checks(self, number: int) -> tuple[str, str]:
        """A server's health, and what its last check said."""
        health = self.docker.inspect(server(number))["State"]["Health"]
        return health["Status"], health["Log"][-1]["Output"] if health["Log"] else ""

    def until(self, number: int, status: str, *, says: str = "") -> None:
        def so() -> bool:
            found, said = self.checks(number)
            return found == status and says in said

        self.docker.until(so, lambda: f"{server(number)} is not {status} {says}: {self.checks(number)}")


def needs_compose() -> None:
    """Skip, loudly, where there is none. In CI there must be."""
    if shutil.which(_COMPOSE) is None:
        missing = f"COMPOSE.YAML WAS NOT TRIED: {_COMPOSE} is missing (Debian: apt install docker-compose)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)


@pytest.fixture(scope="module")
def compose(
    docker: Docker,
    image: str,  # noqa: ARG001 - it is there
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Compose]:
    """Nothing runs yet."""
    needs_compose()
    folder = tmp_path_factory.mktemp("compose")
    shutil.copytree(ROOT / "compose" / "syncd", folder / "syncd")
    (folder / "syncd" / "conf.d").mkdir()
    made = Compose(docker, folder / "over.json", folder / "syncd")
    made.over.write_text(json.dumps({"services": overridden(made.settings)}))
    try:
        yield made
    finally:
        made("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def model(compose: Compose, near: ScriptedRegistry) -> Iterator[ModelHandle]:
    """The host is up; all servers but the last have proved this model, which was not to be had at first."""
    wanted = build_model("mistral:7b", _WEIGHTS, 1)
    name = f"{near.host}/library/mistral:7b"
    # The shipped settings, a model, and looks that see much in little time and wait for a machine that is busy.
    (compose.settings / "conf.d" / "models.toml").write_text(
        f'[[models]]\nname = "{name}"\n[probes]\nevery = "1s"\ntimeout = "30s"\n'
    )
    compose("up", "--detach", "--no-build")
    for number in _EIGHT:
        compose.until(number, "starting", says=f'syncd_model_present{{model="{name}"}}')
    compose.ask(port(8), "/_standin/orders", {"what": "status", "status": 500, "paths": ["/api/generate"]}, "POST")
    handle = near.add(wanted)
    assert handle.name == name
    compose("exec", "-T", "syncd", "syncd", "pull", name)
    return handle


def overridden(settings: Path) -> dict[str, Any]:
    """Of each service what is another one here. Health is looked at more often."""
    system = {
        "image": HOSTS_SYSTEM,
        "volumes": [f"{path}:{path}:ro" for path in seen_inside()],
        "environment": {"PATH": os.environ.get("PATH", os.defpath), "PYTHONDONTWRITEBYTECODE": "1"},
        "working_dir": str(ROOT),
        "healthcheck": {"interval": "3s", "timeout": "30s"},
    }
    # Where it listens is said as for Ollama itself.
    serve = (
        f'exec {sys.executable} -m tests.support.standin --host "$${{OLLAMA_HOST%:*}}" --port "$${{OLLAMA_HOST##*:}}"'
    )
    return {
        **{server(number): {**system, "entrypoint": ["sh", "-c", serve]} for number in _EIGHT},
        "prometheus": {**system, "entrypoint": ["prometheus"]},
        "syncd": {"volumes": [f"{settings}:/etc/syncd:ro"], "healthcheck": {"interval": "2s"}},
    }


# The file


def test_compose_takes_the_file() -> None:
    needs_compose()

    done = subprocess.run(
        (_COMPOSE, "--file", str(ROOT / "compose.yaml"), "config", "--services"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"syncd", "prometheus", *map(server, _EIGHT)}


def test_the_settings_name_the_servers_of_the_file() -> None:
    settings = tomllib.loads((ROOT / "compose" / "syncd" / "syncd.toml").read_text())

    told = {one["name"]: one["url"] for one in settings["instances"]}

    assert told == {server(number): f"http://127.0.0.1:{port(number)}" for number in _EIGHT}


def test_every_file_that_is_mounted_is_there() -> None:
    text = (ROOT / "compose.yaml").read_text()

    mounted = re.findall(r"^ +- (\./[^:]+):", text, re.MULTILINE)

    assert mounted
    assert [path for path in mounted if not (ROOT / path).exists()] == []


# The host


def test_a_server_is_healthy_once_it_has_proved_the_model(compose: Compose, model: ModelHandle) -> None:
    for number in _EIGHT[:-1]:
        compose.until(number, "healthy")

    compose.until(8, "starting", says=f'model="{model.name}"')  # it answers, and has proved nothing
    compose.docker.until(lambda: halted(compose), lambda: compose("logs", "syncd"))
    compose.ask(port(8), "/_standin/orders", method="DELETE")
    compose("exec", "-T", "syncd", "syncd", "reload", "--resume")
    compose.until(8, "healthy")


def test_every_server_has_the_gpu_and_the_key_folder_of_its_own(compose: Compose, model: ModelHandle) -> None:  # noqa: ARG001 - the host is up
    seen = [compose.docker("exec", server(number), "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ") for number in _EIGHT]
    mounts = [compose.docker.inspect(server(number))["Mounts"] for number in _EIGHT]

    gpus = [re.findall(r"^NVIDIA_VISIBLE_DEVICES=(.*)$", text, re.MULTILINE) for text in seen]
    keys = {one["Name"] for told in mounts for one in told if one["Destination"] == "/root/.ollama" and one["RW"]}
    assert gpus == [[str(number - 1)] for number in _EIGHT]
    assert len(keys) == len(_EIGHT)


def test_the_servers_can_only_read_the_store(compose: Compose, model: ModelHandle) -> None:
    tried = compose.docker("exec", server(1), "sh", "-c", "touch /models/x /models/blobs/x", check=False)
    listed = [compose.ask(port(number), "/api/tags")["models"] for number in _EIGHT]

    assert tried.count("Read-only") == 2
    assert [[one["digest"] for one in models] for models in listed] == [[model.digest.removeprefix("sha256:")]] * 8


def test_prometheus_has_the_metrics_and_the_rules(compose: Compose, model: ModelHandle) -> None:  # noqa: ARG001 - the host is up
    compose.docker.until(
        lambda: compose.docker.health("prometheus") == "healthy", lambda: compose("logs", "prometheus")
    )

    compose.docker.until(lambda: compose.query("syncd_instance_up"), lambda: compose("logs", "prometheus"))

    assert compose.ask(9090, "/api/v1/rules")["data"]["groups"]
    assert len(compose.query("syncd_instance_up")) == len(_EIGHT)


def test_a_server_that_was_restarted_is_not_called_proved_before_it_is(compose: Compose, model: ModelHandle) -> None:
    compose.until(3, "healthy")
    compose.docker("stop", "--time", "2", server(3))
    compose.docker.until(lambda: not up(compose, 3), lambda: compose("logs", "syncd"))

    compose.docker("start", server(3))
    compose.until(3, "healthy")

    asked = compose.ask(port(3), "/_standin/requests")["requests"]
    assert any(one["path"] == "/api/generate" and one["status"] == 200 for one in asked), model.name


def test_syncd_is_healthy_when_everything_is(compose: Compose, model: ModelHandle) -> None:  # noqa: ARG001 - the host is up
    compose.docker.until(lambda: compose.docker.health("syncd") == "healthy", lambda: compose("logs", "syncd"))


def up(compose: Compose, number: int) -> bool:
    return bool(next(one for one in status(compose)["instances"] if one["name"] == server(number))["up"])


def halted(compose: Compose) -> bool:
    return [one["state"] for one in status(compose)["rollouts"]] == ["halted"]


def status(compose: Compose) -> Any:
    return json.loads(compose.docker("exec", "syncd", "syncd", "status", "--json"))
