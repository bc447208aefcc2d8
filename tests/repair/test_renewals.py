"""A file under the same digest takes a damaged one's place: servers that have the old one loaded are to hear of it."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from syncd.daemon.renewals import Renewals, noting
from syncd.errors import StoreError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store.files import Folder
from syncd.store.root import Store
from syncd.store.state import StateFiles
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


class Kept(StateFiles):
    """Nothing of it can be removed, as on a disk that is read-only by now."""

    tries = 0

    def remove(self, name: str, mark: tuple[int, int] | None = None) -> None:  # noqa: ARG002 - as the real one is called
        self.tries += 1
        raise StoreError(f"{name}: Read-only file system")


async def test_a_note_that_cannot_be_removed_is_seen_to_once_and_again_when_it_is_made_anew(
    store: Store, mistral: Model
) -> None:
    put(store, mistral)
    noted = noting(store)
    heard: list[ModelName] = []

    async def replaced(names: Iterable[ModelName]) -> None:
        heard.extend(names)

    def note() -> None:
        with noted(Digest.parse(mistral.weights)):
            pass

    await asyncio.to_thread(note)
    with Folder.open(store.path / ".syncd" / "state") as folder, capture_logs() as logs:
        store.state = kept = Kept(folder, folder)
        service = asyncio.create_task(Renewals(store, replaced, look_every=0.01).run())
        await until(lambda: kept.tries > 3)
        assert heard == [ModelName.parse(mistral.name)]

        await asyncio.to_thread(note)
        await until(lambda: len(heard) > 1)
        tries = kept.tries
        await until(lambda: kept.tries > tries + 3)

        service.cancel()
        await asyncio.wait((service,))
    assert 2 <= len(heard) <= 3  # a process beside the daemon notes it twice: a look may come in between
    assert len([one for one in logs if one["event"] == "renewal.not_forgotten"]) == len(heard)


def test_a_file_that_came_is_noted_though_what_followed_it_failed(store: Store, mistral: Model) -> None:
    def come_and_fail() -> None:
        with noting(store)(Digest.parse(mistral.weights)):
            (note,) = notes(store.path)
            store.state.remove(note)  # the daemon has looked, before the file came
            raise StoreError("its record cannot be written")

    with pytest.raises(StoreError):
        come_and_fail()

    assert notes(store.path) == [f"renewed-{mistral.weights.removeprefix('sha256:')}"]


async def test_a_note_that_is_made_anew_while_the_servers_load_is_seen_to_as_well(store: Store, mistral: Model) -> None:
    put(store, mistral)
    digest = Digest.parse(mistral.weights)
    loads = 0

    def note() -> None:
        with noting(store)(digest):
            pass

    async def replaced(_names: Iterable[ModelName]) -> None:
        nonlocal loads
        loads += 1
        if loads == 1:
            await asyncio.to_thread(note)  # by another process, for another file yet

    await asyncio.to_thread(note)
    service = asyncio.create_task(Renewals(store, replaced, look_every=0.01).run())
    await until(lambda: loads and not notes(store.path))
    service.cancel()
    await asyncio.wait((service,))

    assert loads == 2


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
