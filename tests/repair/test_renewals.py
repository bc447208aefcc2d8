"""A file under the same digest takes a damaged one's place: servers that have the old one loaded are to hear of it."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from syncd.daemon.renewals import Renewals, noting
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.bundles.world import syncd
from tests.pull.world import until
from tests.scrub.world import put
from tests.support.content import whole
from tests.support.models import Model, build_model
from tests.unit.store_world import commit


@pytest.fixture
def mistral() -> Model:
    return build_model("mistral:7b")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "models", create=True) as opened:
        yield opened


def notes(store: Path) -> list[str]:
    return sorted(path.name for path in (store / ".syncd" / "state").glob("renewed-*"))


async def test_a_file_that_a_process_beside_the_daemon_replaced_is_seen_to(store: Store, mistral: Model) -> None:
    put(store, mistral)
    heard: list[ModelName] = []

    async def replaced(names: Iterable[ModelName]) -> None:
        heard.extend(names)

    service = asyncio.create_task(Renewals(store, replaced, look_every=0.05).run())
    with Store.open(store.path, create=False) as other:
        other.blobs.renewing = noting(other)
        await asyncio.to_thread(commit, other, whole(mistral.blobs[mistral.weights]))
    await until(lambda: heard and not notes(store.path))

    assert set(heard) == {ModelName.parse(mistral.name)}
    service.cancel()
    await asyncio.wait((service,))


def test_an_import_that_replaces_a_damaged_file_notes_it_for_the_daemon(tmp_path: Path, mistral: Model) -> None:
    path, bundle = tmp_path / "models", tmp_path / "models.tar"
    with Store.open(path, create=True) as store:
        put(store, mistral)
    assert syncd(path, "export", mistral.name, "-o", str(bundle)).returncode == 0
    assert notes(path) == []
    weights = path / "blobs" / mistral.weights.replace(":", "-")
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.write(b"not what it was")
    assert syncd(path, "verify").returncode == 6

    assert syncd(path, "import", str(bundle)).returncode == 0

    assert notes(path) == [f"renewed-{mistral.weights.removeprefix('sha256:')}"]
    assert syncd(path, "verify").returncode == 0
