"""A thousand random faults: each is found by model and blob, and mended with no byte fetched that was right already."""

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from syncd.jobs.mend import Fate, mend
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.pull.world import means, pulled
from tests.scrub.world import FAULTS, KIB, KINDS, MIB, Heard, blob_file, harm, scrubbed
from tests.support.content import whole
from tests.support.models import Model, build_model, five_models
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry

_FAULTS = 1000
_PIECE = 256 * KIB  # divides a chunk


@pytest.fixture
def light_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: so many files are written, synced and read."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder, "models")


def wrong_bytes(path: Path, right: bytes) -> int:
    """Bytes of the chunks of a file that are not what they should be; of one that is gone none: keep/ has it."""
    if not path.exists():
        return 0
    wrong = {at // CHUNK_SIZE * CHUNK_SIZE for at in _wrong_pieces(path, right)}
    return sum(min(CHUNK_SIZE, len(right) - at) for at in wrong)


def _wrong_pieces(path: Path, right: bytes) -> Iterator[int]:
    """Where they begin. In pieces that fit a processor's cache: whole chunks are new memory each time."""
    with path.open("rb") as file:
        for at in range(0, len(right), _PIECE):
            if file.read(_PIECE)[: len(right) - at] != right[at : at + _PIECE]:
                yield at


@pytest.mark.timeout(600)
async def test_a_thousand_random_faults_are_found_and_mended(light_path: Path, registry: ScriptedRegistry) -> None:
    large = build_model("codellama:7b", CHUNK_SIZE + MIB, seed=5)  # a real GGUF file of two chunks
    models: list[Model] = [*five_models(64 * KIB), large]
    users: dict[str, set[ModelName]] = defaultdict(set)
    contents: dict[str, bytes] = {}
    for model in models:
        handle = registry.add(model)
        await pulled(handle.name, light_path)
        for digest, content in model.blobs.items():
            contents[digest] = whole(content)
    # The large one took the small one's tag, as an update does.
    visible = assert_store_whole(light_path)
    chance, done, kinds = random.Random(23), 0, list(FAULTS)

    with Store.open(light_path, create=False) as store:
        for one in store.models.list():
            for blob in one.manifest.blobs:  # type: ignore[union-attr]  # all were pulled just now
                users[str(blob.digest)].add(one.name)  # type: ignore[arg-type]  # likewise
        while done < _FAULTS:
            chosen = chance.sample(sorted(users), k=min(len(users) // 2, _FAULTS - done))
            faults = {digest: chance.choice(kinds) for digest in chosen}
            for digest, fault in faults.items():
                harm(blob_file(store, digest), fault, chance)
            most = {digest: wrong_bytes(blob_file(store, digest), contents[digest]) for digest in faults}
            registry.forget_requests()

            heard = Heard()
            await scrubbed(store, heard=heard)
            found = {str(one.blob.digest): (one.kind.value, set(one.models)) for one in heard.damages}
            assert found == {digest: (KINDS[fault], users[digest]) for digest, fault in faults.items()}

            async with means(store) as everything:
                for damage in heard.damages:
                    mended = await mend(store, everything, damage, keep=False, report=lambda _: None)
                    assert mended.fate is Fate.MENDED, mended.error
            for digest, fault in faults.items():
                assert blob_file(store, digest).stat().st_size == len(contents[digest]), fault
                assert not list(_wrong_pieces(blob_file(store, digest), contents[digest])), fault
                assert registry.bytes_served(digest) <= most[digest], fault
            done += len(faults)

        assert (await scrubbed(store)).damaged == 0
    assert done == _FAULTS
    assert assert_store_whole(light_path) == visible
