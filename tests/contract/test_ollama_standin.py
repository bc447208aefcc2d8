"""What the stand-in does on command, as a process, on a read-only mount, and eight at a time on one folder.

Eight real servers were seen to do the same with one bad transfer of 1.5 GB: seven answer success, and the blob is gone.
On read-only mounts, too, the real one was seen to start and to refuse in the same cases.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.models import Model, build_model, five_models
from tests.support.ollama_servers import Answer, ask
from tests.support.ollama_store import blob_path, damage, put
from tests.support.registry import ScriptedRegistry
from tests.support.standin import StandIn

CHECKOUT = Path(__file__).parents[2]
MISTRAL, LLAMA, NOMIC = "mistral:7b", "llama3.2:3b", "nomic-embed-text:v1.5"


@pytest.fixture
def mistral(store: Path) -> Model:
    """mistral:7b, in the store."""
    model = build_model(MISTRAL)
    put(store, model)
    return model


@pytest.fixture
def server(store: Path, mistral: Model) -> Iterator[StandIn]:
    assert mistral.name
    with StandIn(store) as running:
        yield running


def generate(server: StandIn | str, model: str = MISTRAL, timeout: float = 30) -> Answer:
    return ask(server, "/api/generate", {"model": model, "prompt": "x", "stream": False}, timeout=timeout)


# On command


def test_a_status_is_answered_as_often_as_was_said(server: StandIn) -> None:
    server.answer(503, "/api/generate", times=2)

    assert [generate(server).status for _ in range(3)] == [503, 503, 200]


def test_a_fault_of_one_model_leaves_the_others_alone(server: StandIn, store: Path) -> None:
    put(store, build_model(LLAMA))
    server.answer(500, model="library/Mistral:7b")

    assert (generate(server).status, generate(server, LLAMA).status) == (500, 200)
    assert ask(server, "/api/tags").status == 200


def test_a_model_can_be_listed_and_yet_not_found(server: StandIn) -> None:
    server.not_found(MISTRAL, times=1)

    assert [model["name"] for model in ask(server, "/api/tags").json["models"]] == [MISTRAL]
    answer = generate(server)
    assert (answer.status, answer.json) == (404, {"error": f"model '{MISTRAL}' not found"})
    assert generate(server).status == 200


def test_answers_can_be_empty(server: StandIn, store: Path) -> None:
    put(store, build_model(NOMIC))
    server.empty_answers()

    assert (generate(server).status, generate(server).json["response"]) == (200, "")
    assert ask(server, "/api/embed", {"model": NOMIC, "input": "x"}).json["embeddings"] == []
    assert [line["done"] for line in ask(server, "/api/generate", {"model": MISTRAL, "prompt": "x"}).lines] == [True]


@pytest.mark.parametrize("paths", [("/api/generate",), ()])
def test_it_hangs_until_it_is_healed(server: StandIn, paths: tuple[str, ...]) -> None:
    server.hang(*paths)

    with pytest.raises(TimeoutError):
        generate(server, timeout=0.2)
    server.heal()

    assert generate(server).status == 200
    server.wait_until(lambda: all(asked.ended is not None for asked in server.requests()))


def test_it_breaks_connections(server: StandIn) -> None:
    server.drop("/api/tags", times=1)

    with pytest.raises(OSError, match=r"reset|closed|without response"):
        ask(server, "/api/tags")
    assert ask(server, "/api/tags").status == 200


def test_it_answers_slowly(server: StandIn) -> None:
    server.slow(0.2, "/api/version", times=1)

    began = time.monotonic()
    ask(server, "/api/version")

    assert time.monotonic() - began >= 0.2


def test_loads_are_slow_or_fail(server: StandIn) -> None:
    server.slow_load(0.2, model=MISTRAL, times=1)
    server.fail_load(times=1)

    began = time.monotonic()
    assert generate(server).status == 200
    assert time.monotonic() - began >= 0.2
    ask(server, "/api/generate", {"model": MISTRAL, "keep_alive": 0})
    answer = generate(server)

    assert (answer.status, "memory" in answer.json["error"]) == (500, True)
    assert [load.failed for load in server.loads] == [False, True]
    assert generate(server).status == 200


def test_it_dies_at_a_request_and_comes_back_on_its_port(server: StandIn) -> None:
    server.die_at("/api/generate")
    url = server.url

    with pytest.raises(OSError, match=r"reset|closed|without response"):
        generate(server)
    with pytest.raises(OSError, match="refused"):
        ask(server, "/api/version")
    server.restart()

    assert server.url == url
    assert generate(server).status == 200


def test_it_tells_what_it_was_asked(server: StandIn) -> None:
    generate(server)
    generate(server, "nope")

    (asked,) = server.requests("/api/generate", "registry.ollama.ai/library/mistral:7b")
    assert (asked.body["prompt"], asked.status) == ("x", 200)
    assert [each.status for each in server.requests("/api/generate")] == [200, 404]
    server.forget()
    assert server.requests() == []


def test_it_tells_when_a_request_has_come_in(server: StandIn) -> None:
    server.hang("/api/generate", times=1)
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(generate, server)

        server.wait_for_requests(1, "/api/generate")
        server.stop()

        assert isinstance(asking.exception(10), OSError)


# As a process


@contextmanager
def process(
    store: Path, *arguments: str, prefix: tuple[str, ...] = ()
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The process and its URL; the URL is empty where it did not start."""
    command = [*prefix, sys.executable, "-m", "tests.support.standin", "--models", str(store), *arguments]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            introduction = running.stdout.readline()
            yield running, json.loads(introduction)["url"] if introduction else ""
        finally:
            running.kill()


def test_a_process_is_steered_on_its_own_port(store: Path, mistral: Model) -> None:
    with process(store) as (running, url):
        order = {"what": "status", "paths": ["/api/generate"], "model": MISTRAL, "times": 1, "status": 503}
        assert ask(url, "/_standin/orders", order).status == 200
        assert [generate(url).status for _ in range(2)] == [503, 200]

        counts = ask(url, "/_standin/").json

        assert (counts["requests"], counts["failed"]) == ({"/api/generate": 2}, 1)
        assert [load["weights"] for load in counts["loads"]] == [blob_path(store, mistral.weights).name]
        assert [row["status"] for row in ask(url, "/_standin/requests").json["requests"]] == [503, 200]
        assert ask(url, "/_standin/orders", {"what": "nonsense"}).status == 400
        assert ask(url, "/_standin/nonsense").status == 404
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0


def test_a_process_dies_when_told_to(store: Path) -> None:
    with process(store) as (running, url):
        with pytest.raises(OSError, match=r"reset|closed|without response"):
            ask(url, "/_standin/die", "")
        assert running.wait(60) == 137


def test_a_process_takes_ollamas_own_settings_from_the_environment(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = store / "blobs" / f"sha256-{'0' * 64}"
    orphan.write_bytes(b"")
    os.utime(orphan, (0, 0))
    monkeypatch.setenv("OLLAMA_NOPRUNE", "1")

    with process(store) as (_, url):
        assert ask(url, "/api/version").status == 200

    assert orphan.exists()


def test_it_needs_nothing_but_aiohttp() -> None:
    code = "import sys, tests.support.standin.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = set(subprocess.check_output([sys.executable, "-c", code], cwd=CHECKOUT, text=True).split())

    assert "aiohttp" in imported
    assert not imported & {"syncd", "gguf", "numpy", "msgspec", "pytest", "blake3"}


# On a read-only mount

READ_ONLY = """mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@" """


@pytest.fixture
def read_only(store: Path) -> tuple[str, ...]:
    """Words before a command that sees the store read-only."""
    prefix = ("unshare", "--mount", "sh", "-c", READ_ONLY, str(store))
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting takes root")
    return prefix


@pytest.mark.usefixtures("mistral")
@pytest.mark.parametrize("arguments", [(), ("--no-prune",)])
def test_on_a_read_only_mount_it_serves(store: Path, read_only: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    with process(store, *arguments, prefix=read_only) as (_, url):
        assert generate(url).status == 200
        assert ask(url, "/api/delete", {"model": MISTRAL}, "DELETE").status == 500
    assert damage(store) == []


def colon(store: Path) -> None:
    (store / "blobs/sha256:0").write_bytes(b"")


def empty_folder(store: Path) -> None:
    (store / "manifests/registry.ollama.ai/library/empty").mkdir()


def no_blobs(store: Path) -> None:
    for path in (store / "blobs").iterdir():
        path.unlink()
    (store / "blobs").rmdir()


@pytest.mark.usefixtures("mistral")
@pytest.mark.parametrize("spoil", [colon, empty_folder, no_blobs])
def test_on_a_read_only_mount_it_does_not_start_where_it_has_something_to_change(
    store: Path, read_only: tuple[str, ...], spoil: Callable[[Path], None]
) -> None:
    spoil(store)

    with process(store, prefix=read_only) as (running, url):
        assert url == ""
        assert running.wait(60) == 1


# Eight on one folder


@contextmanager
def eight(store: Path, registry: ScriptedRegistry, verify_seconds: float) -> Iterator[list[StandIn]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                StandIn(
                    store,
                    registry=registry.url,
                    retry_seconds=0.05,
                    verify_seconds=verify_seconds,
                    seed=number,
                )
            )
            for number in range(8)
        ]


def pull(server: StandIn, name: str) -> str:
    """The last line: ``success``, or the error."""
    last = ask(server, "/api/pull", {"model": name}).lines[-1]
    return str(last.get("status") or last["error"])


def test_a_blob_that_is_named_before_it_is_verified_is_published_by_seven_and_then_removed(
    store: Path, ollama_registry: ScriptedRegistry
) -> None:
    mistral = build_model(MISTRAL)
    ollama_registry.add(mistral)
    ollama_registry.flip(1000, digest=mistral.weights, times=1)
    with eight(store, ollama_registry, verify_seconds=4) as (first, *others), ThreadPoolExecutor() as pool:
        failing = pool.submit(pull, first, MISTRAL)
        while not all(blob_path(store, digest).exists() for digest in mistral.blobs):
            assert not failing.done()
            time.sleep(0.01)  # another process's file is all that there is to see

        ends = [pull(other, MISTRAL) for other in others]

        assert ends == ["success"] * 7
        assert "digest mismatch" in failing.result()
    assert damage(store) == [f"registry.ollama.ai/library/mistral/7b: {blob_path(store, mistral.weights).name} is gone"]


def test_eight_that_pull_by_themselves_into_one_folder_corrupt_it(
    tmp_path: Path, ollama_registry: ScriptedRegistry
) -> None:
    models = five_models()
    delays = random.Random(8)  # containers do not start at the same instant

    # About nine rounds of ten do damage that stays; a few more than are needed, for other machines.
    for number in range(12):
        store = tmp_path / f"models{number}"
        (store / "blobs").mkdir(parents=True)
        for model in models:
            ollama_registry.add(model)
            ollama_registry.flip(1000, digest=model.weights, times=1)  # one bad transfer of each
        with eight(store, ollama_registry, verify_seconds=0.1) as servers, ThreadPoolExecutor(8) as pool:
            ends = list(pool.map(pull_all, servers, [models] * 8, [delays.uniform(0, 0.3) for _ in servers]))
        assert "success" in {end for each in ends for end in each}
        if damage(store):
            return
    pytest.fail("eight servers pulled into one folder twelve times, and nothing was corrupt")


def pull_all(server: StandIn, models: list[Model], delay: float) -> list[str]:
    time.sleep(delay)
    return [pull(server, model.name) for model in models]
