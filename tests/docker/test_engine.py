"""The Docker Engine as syncd asks it: a real one."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from syncd.errors import ExitCode, NotAuthorisedError, NotFoundError
from syncd.instances.docker import ContainerEvent, Engine, EngineError, EngineUnavailableError
from tests.docker.engine import DockerEngine
from tests.docker.sleepers import COMMAND, ready
from tests.support.daemon import ROOT

MARKED = {"syncd.instance": "true"}


async def test_containers_with_the_label_are_found_running_or_not(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=MARKED)
    docker.create("ollama-2", COMMAND, labels=MARKED)
    docker.run("postgres", COMMAND)

    found = await Engine(docker.url).containers()

    assert {one.name: one.running for one in found} == {"ollama-1": True, "ollama-2": False}


async def test_a_container_tells_when_it_was_started_and_what_it_sees(docker: DockerEngine, tmp_path: Path) -> None:
    store = tmp_path / "models"
    store.mkdir()
    before = time.time()
    docker.run(
        "ollama-1",
        COMMAND,
        binds=[f"{store}:/root/.ollama/models:ro"],
        environment=["OLLAMA_NOPRUNE=1", "OLLAMA_MODELS=/root/.ollama/models", "API_TOKEN=canary"],
    )

    found = await Engine(docker.url).inspect("ollama-1")

    assert found.started is not None
    assert before - 1 <= found.started <= time.time() + 1
    assert found.host_network
    assert found.sees(PurePosixPath(store / "blobs")) == (PurePosixPath("/root/.ollama/models/blobs"), True)
    assert found.sees(PurePosixPath(tmp_path)) is None
    assert found.environment == {"OLLAMA_NOPRUNE": "1", "OLLAMA_MODELS": "/root/.ollama/models"}


async def test_a_restart_is_a_new_start(docker: DockerEngine) -> None:
    engine = Engine(docker.url)
    docker.run("ollama-1", COMMAND)
    ready(docker, "ollama-1")
    before = await engine.inspect("ollama-1")

    await engine.restart("ollama-1", timeout=5.0)

    after = await engine.inspect("ollama-1")
    assert after.id == before.id
    assert before.started is not None
    assert after.started is not None
    assert after.started > before.started
    ready(docker, "ollama-1", times=2)


async def test_what_does_not_end_in_time_is_killed_and_started_again(docker: DockerEngine) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    docker.run("ollama-1", (sys.executable, "-c", stubborn))
    ready(docker, "ollama-1")

    await Engine(docker.url).restart("ollama-1", timeout=0.5)

    ready(docker, "ollama-1", times=2)


async def test_a_signal_reaches_the_first_process(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND)
    ready(docker, "ollama-1")

    await Engine(docker.url).signal("ollama-1", "SIGHUP")

    docker.until(lambda: "hung up" in docker.output("ollama-1"), "it got SIGHUP")
    assert docker.state("ollama-1")["Running"]


@pytest.mark.parametrize("name", ["nobody", "../../images/json", "", "a b", "-x", "a\nb"])
async def test_a_container_that_is_not_there_is_named(docker: DockerEngine, name: str) -> None:
    engine = Engine(docker.url)

    for call in (engine.inspect(name), engine.restart(name, 1.0), engine.signal(name, "SIGHUP")):
        with pytest.raises(NotFoundError) as caught:
            await call
        assert "\n" not in caught.value.message


async def test_a_stopped_container_gets_no_signal(docker: DockerEngine) -> None:
    docker.create("ollama-1", COMMAND)

    with pytest.raises(EngineError, match="not running") as caught:
        await Engine(docker.url).signal("ollama-1", "SIGHUP")

    assert caught.value.exit_code is ExitCode.SERVER_FAILED


async def test_a_missing_socket_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="no such socket") as caught:
        await Engine(f"unix://{tmp_path}/docker.sock").containers()

    assert caught.value.hint is not None


async def test_a_socket_that_nobody_listens_on_says_so(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    with pytest.raises(EngineUnavailableError, match="nobody listens"):
        await Engine(f"unix://{path}").containers()


async def test_a_port_that_nobody_listens_on_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(EngineUnavailableError, match="nobody listens"):
            await Engine(f"tcp://127.0.0.1:{taken.getsockname()[1]}").containers()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_user_who_may_not_is_told_what_to_do(docker: DockerEngine) -> None:
    program = (
        "import asyncio\n"
        "from syncd.errors import NotAuthorisedError\n"
        "from syncd.instances.docker import Engine\n"
        "import os\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        f"    asyncio.run(Engine({docker.url!r}).containers())\n"
        "except NotAuthorisedError as error:\n"
        "    print(error.message, '|', error.hint)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "permission denied" in done.stdout
    assert "group" in done.stdout
    assert NotAuthorisedError.exit_code is ExitCode.NOT_AUTHORISED


async def test_an_address_of_something_else_is_told_apart(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/html\r\n\r\nhi")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(answer, tmp_path / "other.sock"):
        with pytest.raises(EngineError, match="not what an Engine sends"):
            await Engine(f"unix://{tmp_path}/other.sock").containers()


@pytest.mark.parametrize("url", ["/run/docker.sock", "ftp://here"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(EngineError, match="no address"):
        await Engine(url).containers()


async def test_what_happens_to_containers_is_told(docker: DockerEngine) -> None:
    told: list[ContainerEvent] = []
    async with asyncio.TaskGroup() as group:
        following = group.create_task(Engine(docker.url).follow(told.append))
        await asyncio.sleep(0.5)  # until it is listened to, of which nobody tells

        started = docker.run("ollama-1", COMMAND, labels=MARKED)
        docker.remove("ollama-1")

        async with asyncio.timeout(20):
            while not any(event.action == "destroy" for event in told):
                await asyncio.sleep(0.02)
        following.cancel()
    actions = [event.action for event in told if event.name == "ollama-1"]
    assert actions == ["start", "die", "destroy"]
    assert all(event.marked for event in told if event.name)
    assert {event.container for event in told} == {started}
