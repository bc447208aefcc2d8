"""The README's story, in containers: eight servers, one store, five models, and what goes wrong with them."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from syncd.instances.docker import Engine
from tests.docker.eight import EIGHT, Host, host
from tests.docker.engine import DockerEngine
from tests.support.daemon import eventually

ALL = [f"ollama-server-{number}" for number in EIGHT]


@pytest.fixture(scope="module")
def eight(running_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """All five models published and rolled out. Every test leaves all eight servers well."""
    with host(running_engine, tmp_path_factory.mktemp("eight") / "host") as made:
        made.want_all_five()
        for name in made.models:
            made.ends(name, "done")
        yield made


def test_what_is_pulled_once_is_served_and_proved_by_all_eight(eight: Host) -> None:
    published = {model.name: model.digest.removeprefix("sha256:") for model in eight.models.values()}

    with ThreadPoolExecutor(len(EIGHT)) as pool:
        listed = list(pool.map(eight.digests, EIGHT))
        answered = list(pool.map(lambda number: [eight.answers(number, name) for name in eight.models], EIGHT))

    assert listed == [published] * len(EIGHT)
    assert all(all(answers) for answers in answered)
    assert [eight.rollout(name)["done"] for name in eight.models] == [ALL] * len(eight.models)
    eventually(lambda: {eight.stands(number, name)["state"] for number in EIGHT for name in eight.models} == {"proved"})
    assert all(eight.registry.bytes_served(model.weights) == model.weights_size for model in eight.models.values())


async def test_the_servers_can_only_read_the_store(eight: Host) -> None:
    engine = Engine(eight.docker.url)

    seen = [(await engine.inspect(eight.name(number))).sees(PurePosixPath(eight.daemon.store)) for number in EIGHT]

    assert seen == [(PurePosixPath("/models"), True)] * len(EIGHT)


def test_an_update_goes_from_server_to_server_and_no_request_fails(eight: Host) -> None:
    with requests(eight, "mistral:7b") as failed:
        eight.update("mistral:7b")
        rollout = eight.ends("mistral:7b", "done")

    assert rollout["done"] == ALL
    assert failed == []
    assert all(is_current(eight, number, "mistral:7b") for number in EIGHT)


async def test_a_container_whose_label_says_so_is_restarted_for_new_weights(eight: Host) -> None:
    eight.replace(6, reload="restart")
    assert eight.answers(6, "mistral:7b")  # the old weights are in its memory
    before = await Engine(eight.docker.url).inspect(eight.name(6))

    eight.update("mistral:7b")

    assert done(eight, "mistral:7b") == ALL
    after = await Engine(eight.docker.url).inspect(eight.name(6))
    assert (after.id, after.started) > (before.id, before.started)
    assert is_current(eight, 6, "mistral:7b")
    eight.replace(6)


def test_a_server_that_hangs_halts_the_rollout_and_it_goes_on_when_told(eight: Host) -> None:
    eight.order(5, "hang", paths=["/api/generate"])

    eight.update("codellama:7b")
    halted = eight.ends("codellama:7b", "halted")

    assert halted["done"] == ALL[:4]
    assert halted["failed"] == ["ollama-server-5"]
    assert halted["waiting"] == ALL[5:]
    eight.heal(5)
    eight.resume()
    assert done(eight, "codellama:7b") == ALL


def test_a_server_that_dies_in_the_rollout_halts_it_and_it_goes_on_when_told(eight: Host) -> None:
    eight.order(2, "slow_load", seconds=2.0)

    eight.update("llama3.2:3b")
    eventually(lambda: eight.rollout("llama3.2:3b").get("done") == ALL[:1])
    eight.docker.kill(eight.name(3))
    halted = eight.ends("llama3.2:3b", "halted")

    assert halted["done"] == ALL[:2]
    assert halted["failed"] == ["ollama-server-3"]
    assert halted["waiting"] == ALL[3:]
    eventually(lambda: eight.stands(3, "llama3.2:3b")["reason"] == "refused")
    eight.heal(2)
    eight.docker.start_container(eight.name(3))
    eight.wait_for()
    eight.resume()
    assert done(eight, "llama3.2:3b") == ALL


def test_a_server_on_an_old_store_halts_the_rollout(eight: Host, tmp_path: Path) -> None:
    shutil.copytree(eight.daemon.store, tmp_path / "old", ignore=shutil.ignore_patterns(".syncd"))
    eight.replace(7, store=tmp_path / "old")

    eight.update("llava:7b")
    halted = eight.ends("llava:7b", "halted")

    assert halted["failed"] == ["ollama-server-7"]
    eventually(lambda: eight.stands(7, "llava:7b")["reason"] == "wrong_digest")
    assert not eight.stands(7, "llava:7b")["available"]
    eight.replace(7)
    eight.resume()
    assert done(eight, "llava:7b") == ALL


def test_all_go_on_when_the_engine_was_restarted(eight: Host) -> None:
    eight.docker.stop()
    eight.docker.start()
    eight.wait_for()

    eight.update("mistral:7b")

    assert done(eight, "mistral:7b") == ALL


def done(eight: Host, name: str) -> list[str]:
    """Who serves the newest version, once its rollout has come to its end."""
    return sorted(eight.ends(name, "done")["done"])


def is_current(eight: Host, number: int, name: str) -> bool:
    return eight.digests(number)[eight.models[name].name] == eight.models[name].digest.removeprefix("sha256:")


@contextmanager
def requests(eight: Host, name: str) -> Iterator[list[str]]:
    """One request after another to each server; what failed."""
    failed: list[str] = []
    ended = threading.Event()

    def ask(number: int) -> None:
        while not ended.wait(0.05):
            try:
                assert eight.answers(number, name)
            except (AssertionError, OSError) as error:
                failed.append(f"{number}: {error}")

    with ThreadPoolExecutor(len(EIGHT)) as pool:
        running = [pool.submit(ask, number) for number in EIGHT]
        try:
            yield failed
        finally:
            ended.set()
    for one in running:
        one.result()
