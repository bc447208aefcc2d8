"""The README's story, in containers: eight servers, one store, five models."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pytest

from syncd.instances.docker import Engine
from tests.docker.eight import EIGHT, Host, host
from tests.docker.engine import DockerEngine
from tests.support.daemon import eventually


@pytest.fixture(scope="module")
def eight(running_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """All five models published, all eight servers up. Tests leave it as they found it."""
    with host(running_engine, tmp_path_factory.mktemp("host") / "host") as made:
        for number in EIGHT:
            made.run(number)
        made.wait_for()
        eventually(lambda: all(one["state"] == "published" for one in made.daemon.status()["models"]), seconds=60.0)
        yield made


def test_what_is_pulled_once_is_served_by_all_eight(eight: Host) -> None:
    published = {model.name: model.digest.removeprefix("sha256:") for model in eight.models.values()}

    with ThreadPoolExecutor(len(EIGHT)) as pool:
        listed = list(pool.map(eight.digests, EIGHT))
        answered = list(pool.map(lambda number: [eight.answers(number, name) for name in eight.models], EIGHT))

    assert listed == [published] * len(EIGHT)
    assert all(all(answers) for answers in answered)


async def test_the_servers_can_only_read_the_store(eight: Host) -> None:
    engine = Engine(eight.docker.url)

    seen = [(await engine.inspect(eight.name(number))).sees(PurePosixPath(eight.daemon.store)) for number in EIGHT]

    assert seen == [(PurePosixPath("/models"), True)] * len(EIGHT)
