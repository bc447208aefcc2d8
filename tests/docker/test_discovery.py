"""Containers are followed as they start, stop and move, and so is an Engine that goes and comes back."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.engine import DockerEngine, needs_docker
from tests.docker.sleepers import COMMAND, ready
from tests.docker.watcher import settings, watching
from tests.support.ports import free_port


def labels(**more: str) -> dict[str, str]:
    return {"syncd.instance": "true", **{f"syncd.{key}": value for key, value in more.items()}}


@pytest.fixture
def own_engine() -> Iterator[DockerEngine]:
    """An Engine that a test may end."""
    needs_docker()
    with DockerEngine() as engine:
        yield engine


async def test_what_runs_already_is_found_and_what_starts_is_added(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels(port="11434"))
    async with watching(docker) as watcher:
        await watcher.until(lambda: watcher.names == ("ollama-1",))

        docker.run("ollama-2", COMMAND, labels=labels(port="11435"))
        docker.run("postgres", COMMAND)

        await watcher.until(lambda: watcher.names == ("ollama-1", "ollama-2"))
    assert watcher.urls == ("http://127.0.0.1:11434", "http://127.0.0.1:11435")
    assert watcher.restarts == []


async def test_what_is_stopped_leaves_after_a_while(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels())
    docker.run("ollama-2", COMMAND, labels=labels(port="11435"))
    async with watching(docker) as watcher:
        await watcher.until(lambda: len(watcher.names) == 2)

        docker.stop_container("ollama-1")
        docker.remove("ollama-2")

        await watcher.until(lambda: watcher.names == ())


async def test_what_dies_stays_an_instance_that_is_down(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels())
    async with watching(docker) as watcher:
        await watcher.until(lambda: watcher.names == ("ollama-1",))

        docker.kill("ollama-1")
        await asyncio.sleep(1.0)  # nothing is to happen

        assert watcher.names == ("ollama-1",)
        docker.start_container("ollama-1")
        await watcher.until(lambda: watcher.restarts == ["ollama-1"])
    assert watcher.told == 1


async def test_a_restart_is_told_and_nobody_leaves_for_it(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels())
    ready(docker, "ollama-1")
    async with watching(docker) as watcher:
        await watcher.until(lambda: watcher.names == ("ollama-1",))

        docker.restart("ollama-1")

        await watcher.until(lambda: watcher.restarts)
    assert watcher.restarts == ["ollama-1"]
    assert watcher.told == 1


async def test_a_container_made_anew_is_a_restart_of_its_instance(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels(name="gpu-1"))
    async with watching(docker) as watcher:
        await watcher.until(lambda: watcher.names == ("gpu-1",))

        docker.remove("ollama-1")
        docker.run("ollama-1", COMMAND, labels=labels(name="gpu-1", port="11436"))

        await watcher.until(lambda: watcher.restarts == ["gpu-1"])
    assert watcher.urls == ("http://127.0.0.1:11436",)


async def test_a_new_name_is_followed(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels())
    async with watching(docker) as watcher:
        await watcher.until(lambda: watcher.names == ("ollama-1",))

        docker.rename("ollama-1", "ollama-9")

        await watcher.until(lambda: watcher.names == ("ollama-9",))


async def test_a_bad_label_is_reported_and_the_others_are_followed(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels(port="many"))
    docker.run("ollama-2", COMMAND, labels=labels())
    async with watching(docker) as watcher:
        await watcher.until(lambda: watcher.names == ("ollama-2",))

        (fault,) = (one for one in watcher.faults if "syncd.port" in one)
        assert "ollama-1" in fault


async def test_without_discovery_only_restarts_of_configured_containers_are_told(docker: DockerEngine) -> None:
    for name in ("ollama-1", "other"):
        docker.run(name, COMMAND, labels=labels())
        ready(docker, name)
    configured = {"name": "first", "url": "http://127.0.0.1:11434", "container": "ollama-1"}
    async with watching(docker, discover=False, instances=(configured,)) as watcher:
        await watcher.looked()

        docker.restart("other")
        docker.restart("ollama-1")

        await watcher.until(lambda: watcher.restarts)
    assert watcher.restarts == ["first"]
    assert watcher.told == 0


async def test_a_configured_container_is_no_second_instance(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels())
    docker.run("ollama-2", COMMAND, labels=labels(port="11435"))
    configured = {"name": "first", "url": "http://127.0.0.1:11434", "container": "ollama-1"}

    async with watching(docker, instances=(configured,)) as watcher:
        await watcher.until(lambda: watcher.names == ("ollama-2",))


async def test_a_configured_container_that_is_not_there_is_reported(docker: DockerEngine) -> None:
    configured = {"name": "first", "url": "http://127.0.0.1:11434", "container": "ollama-7"}

    async with watching(docker, instances=(configured,)) as watcher:
        await watcher.until(lambda: watcher.faults)

        assert watcher.faults == ("instance first: Docker has no container ollama-7",)


async def test_how_containers_see_the_store_is_looked_at(docker: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "disk" / "models").mkdir(parents=True)
    (tmp_path / "models").symlink_to(tmp_path / "disk" / "models")
    good = ["OLLAMA_NOPRUNE=1", "OLLAMA_MODELS=/models"]
    binds = {
        "good": f"{tmp_path}/models:/models:ro",
        "parent": f"{tmp_path}/disk:/disk:ro",
        "writes": f"{tmp_path}/disk/models:/models",
    }
    docker.run("good", COMMAND, labels=labels(), binds=[binds["good"]], environment=good)
    docker.run("parent", COMMAND, labels=labels(port="2"), binds=[binds["parent"]], environment=good)
    docker.run("prunes", COMMAND, labels=labels(port="3"), binds=[binds["good"]])
    docker.run("writes", COMMAND, labels=labels(port="4"), binds=[binds["writes"]], environment=good)
    docker.run("blind", COMMAND, labels=labels(port="5"), environment=good)

    async with watching(docker, store=tmp_path / "models") as watcher:
        await watcher.until(lambda: len(watcher.names) == 5)

    real = tmp_path / "disk" / "models"
    assert sorted(watcher.faults) == [
        f"container blind does not see the store {real}: mount it, read-only",
        "container parent sees the store at /disk/models, and has OLLAMA_MODELS=/models",
        "container prunes prunes the store when it starts: set OLLAMA_NOPRUNE=1",
        "container writes can write to the store: mount it read-only",
    ]


async def test_settings_turn_it_off_and_on(docker: DockerEngine) -> None:
    docker.run("ollama-1", COMMAND, labels=labels())
    async with watching(docker) as watcher:
        await watcher.until(lambda: watcher.names == ("ollama-1",))

        await watcher.given.put(settings(None, discover=False))
        await watcher.until(lambda: watcher.names == ())
        await watcher.given.put(settings(docker.url))

        await watcher.until(lambda: watcher.names == ("ollama-1",))
    assert watcher.restarts == []


async def test_an_engine_that_restarts_is_followed_again(own_engine: DockerEngine) -> None:
    own_engine.run("stays", COMMAND, labels=labels(), restart="always")
    own_engine.run("falls", COMMAND, labels=labels(port="11435"))
    async with watching(own_engine) as watcher:
        await watcher.until(lambda: watcher.names == ("falls", "stays"))

        await asyncio.to_thread(own_engine.stop)
        await watcher.until(lambda: watcher.fault)
        assert watcher.names == ("falls", "stays")
        own_engine.start()

        await watcher.until(lambda: watcher.restarts == ["stays"])
        assert watcher.names == ("falls", "stays")
        await watcher.until(lambda: not watcher.fault)
        own_engine.run("added", COMMAND, labels=labels(port="11436"))
        await watcher.until(lambda: "added" in watcher.names)


async def test_an_engine_that_comes_late_is_found(own_engine: DockerEngine) -> None:
    own_engine.run("ollama-1", COMMAND, labels=labels(), restart="always")
    own_engine.stop()
    async with watching(own_engine) as watcher:
        await watcher.until(lambda: watcher.fault)

        own_engine.start()

        await watcher.until(lambda: watcher.names == ("ollama-1",))


async def test_a_stream_that_breaks_is_opened_again(docker: DockerEngine) -> None:
    """Through a proxy that is cut, as a connection to an Engine over TCP may be."""
    docker.run("ollama-1", COMMAND, labels=labels())
    port = free_port()
    pipes: list[asyncio.StreamWriter] = []

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(docker.socket)
        pipes.extend((writer, inner_writer))
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    async with await asyncio.start_server(through, "127.0.0.1", port), watching(docker) as watcher:
        await watcher.given.put(settings(f"tcp://127.0.0.1:{port}"))
        await watcher.until(lambda: watcher.names == ("ollama-1",))
        await watcher.looked()

        await watcher.until(lambda: cut(pipes) or watcher.fault)  # nobody tells when the stream is open
        docker.run("ollama-2", COMMAND, labels=labels(port="11435"))

        await watcher.until(lambda: watcher.names == ("ollama-1", "ollama-2"))
        for pipe in pipes:
            pipe.close()


def cut(pipes: list[asyncio.StreamWriter]) -> None:
    for pipe in pipes:
        pipe.transport.abort()


async def test_an_engine_that_may_not_be_followed_is_not_asked_all_the_time(tmp_path: Path) -> None:
    """As behind a proxy that lets through the list of containers, and not their events."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            while (await reader.readline()).strip():
                pass
            asked.append(line.split()[1])
            status, body = b"200 OK", b"[]"
            if b"/events" in line:
                status, body = b"403 Forbidden", b'{"message": "not for you"}'
            elif b"/version" in line:
                body = b'{"ApiVersion": "1.41"}'
            head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % (status, len(body)) + body)
        writer.close()

    async with await asyncio.start_unix_server(answer, tmp_path / "proxy.sock"), watching(None) as watcher:
        await watcher.given.put(settings(f"unix://{tmp_path}/proxy.sock"))
        await watcher.until(lambda: "does not allow" in watcher.fault)
        await asyncio.sleep(3.0)  # nothing much is to happen

    assert "does not allow" in watcher.fault
    assert 2 <= sum(b"/events" in path for path in asked) <= 5


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    except OSError:
        pass
    writer.close()
