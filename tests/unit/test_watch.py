"""The store's folders, watched: real events of a real kernel."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syncd.daemon.watch import Touched, watch
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName

NAME = ModelName.parse("mistral:7b")
BLOB, OTHER = Digest.of(b"blob"), Digest.of(b"other")
ROOT = Path("/srv/models")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    manifest(root).parent.mkdir(parents=True)
    manifest(root).write_text("{}")
    (root / "blobs").mkdir()
    return root


def manifest(root: Path) -> Path:
    return root.joinpath("manifests", *NAME.parts)


@asynccontextmanager
async def watched(root: Path) -> AsyncIterator[list[Touched]]:
    """What is told, from when the events have begun to come."""
    told: list[Touched] = []
    task = asyncio.create_task(watch(root, told.append))
    try:
        probe = root / "blobs" / f"sha256-{OTHER.hex}"
        async with asyncio.timeout(60):
            while not told:
                probe.write_bytes(b"")
                await asyncio.sleep(0.2)
        probe.unlink()
        await asyncio.sleep(0.9)
        told.clear()
        yield told
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def heard(told: list[Touched], what: Callable[[Touched], bool], *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not any(map(what, told)):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("path", "concerned"),
    [
        ("manifests/registry.ollama.ai/library/mistral/7b", True),
        ("manifests/registry.ollama.ai/library/mistral", True),
        ("manifests/registry.ollama.ai", True),
        ("manifests", True),
        ("manifests/registry.ollama.ai/library/mistral/8b", False),
        ("manifests/registry.ollama.ai/library/mistral/7b/below", False),
        (f"blobs/sha256-{BLOB.hex}", True),
        (f"blobs/sha256-{OTHER.hex}", False),
        ("blobs/sha256-partial", False),
        ("blobs", True),
        ("", True),
        ("../elsewhere", True),
    ],
)
def test_an_event_concerns_the_models_that_it_may_have_changed(path: str, concerned: bool) -> None:
    touched = Touched.by(ROOT, [str(ROOT / path) if not path.startswith("..") else "/srv/elsewhere"])

    assert touched.concerns(NAME, frozenset({BLOB})) is concerned


async def test_what_happens_to_a_manifest_and_to_a_blob_is_told(store: Path) -> None:
    async with watched(store) as told:
        manifest(store).unlink()
        await heard(told, lambda touched: touched.concerns(NAME, frozenset()))
        told.clear()

        (store / "blobs" / f"sha256-{BLOB.hex}").write_bytes(b"")
        await heard(told, lambda touched: BLOB in touched.digests)
        assert not any(touched.everything for touched in told)


async def test_a_storm_is_told_of_in_few_words(store: Path) -> None:
    async with watched(store) as told:
        for number in range(2000):
            (store / "blobs" / f"sha256-{Digest.of(b'%d' % number).hex}").write_bytes(b"")
        await heard(told, lambda _: len(frozenset().union(*(touched.digests for touched in told))) == 2000)

        assert len(told) < 20


async def test_folders_that_vanish_and_come_back_are_watched_again(store: Path) -> None:
    async with watched(store) as told:
        shutil.rmtree(store / "manifests")
        (store / "blobs").rename(store / "taken")
        await heard(told, lambda touched: touched.everything)
        told.clear()
        manifest(store).parent.mkdir(parents=True)
        (store / "blobs").mkdir()
        await heard(told, lambda touched: touched.everything)
        await asyncio.sleep(1.2)
        told.clear()

        manifest(store).write_text("{}")
        (store / "blobs" / f"sha256-{BLOB.hex}").write_bytes(b"")
        await heard(told, lambda touched: touched.concerns(NAME, frozenset()))
        await heard(told, lambda touched: BLOB in touched.digests)


async def test_what_is_made_in_a_new_folder_before_it_is_watched_is_found_by_a_second_look(store: Path) -> None:
    shutil.rmtree(store / "manifests" / NAME.host)
    async with watched(store) as told:
        manifest(store).parent.mkdir(parents=True)
        await heard(told, lambda touched: touched.concerns(NAME, frozenset()))
        told.clear()

        await heard(told, lambda touched: touched.concerns(NAME, frozenset()))


async def test_watching_ends_at_once(store: Path) -> None:
    task = asyncio.create_task(watch(store, lambda _: None))
    await asyncio.sleep(0.3)

    task.cancel()

    async with asyncio.timeout(20):
        await asyncio.wait((task,))
    assert task.cancelled()
