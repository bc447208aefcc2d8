"""Whatever was done to a blob is found, and named: which blob, which models, which chunks."""

import os
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from syncd.jobs.damage import DamageKind
from syncd.jobs.scrub import ScrubWish
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.records import Record
from syncd.store.root import Store
from tests.scrub.world import FAULTS, KIB, KINDS, Heard, blob_file, blob_of, book_of, harm, put, restore, scrubbed
from tests.support.content import whole
from tests.support.models import Model, build_model, five_models, synthetic_model
from tests.unit.store_world import chunks_of, manifest_path

_FAULTS = 1000


@pytest.fixture
def light_store(store_path: Path) -> Iterator[Store]:
    """In memory where that is possible: each of so many writes would have to reach the disk before it is read."""
    memory = Path("/dev/shm")
    with (
        TemporaryDirectory(dir=memory if memory.is_dir() else store_path.parent) as folder,
        Store.open(Path(folder, "models"), create=True) as opened,
    ):
        yield opened


async def test_a_thousand_random_faults_are_found_each_by_model_and_blob(light_store: Store) -> None:
    store = light_store
    models = five_models(64 * KIB) + [build_model("mistral:7b", 64 * KIB, seed) for seed in (7, 8, 9)]
    models = [_renamed(model, f"model{number}:v1") for number, model in enumerate(models)]
    users: dict[str, set[ModelName]] = defaultdict(set)
    contents: dict[str, bytes] = {}
    for model in models:
        put(store, model)
        for digest, content in model.blobs.items():
            users[digest].add(ModelName.parse(model.name))
            contents[digest] = whole(content)
    chance, done, kinds = random.Random(11), 0, list(FAULTS)

    while done < _FAULTS:
        # Of the blobs one half is damaged, so that each pass also has to leave the others alone.
        chosen = chance.sample(sorted(contents), k=min(len(contents) // 2, _FAULTS - done))
        faults = {digest: chance.choice(kinds) for digest in chosen}
        for digest, fault in faults.items():
            harm(blob_file(store, digest), fault, chance)

        heard = Heard()
        result = await scrubbed(store, heard=heard)

        found = {str(one.blob.digest): (one.kind.value, set(one.models)) for one in heard.damages}
        assert found == {digest: (KINDS[fault], users[digest]) for digest, fault in faults.items()}
        assert result.damaged == len(faults)
        for digest in faults:
            restore(store, digest, contents[digest])
        done += len(faults)

    assert done == _FAULTS
    assert (await scrubbed(store)).damaged == 0


async def test_rot_behind_an_identity_that_matches_its_record_is_found_and_counts_as_stored_no_more(
    store: Store,
) -> None:
    model = build_model("mistral:7b")
    blob = blob_of(put(store, model), model.weights)
    harm(blob_file(store, model.weights), "flip", random.Random(1))
    assert store.blobs.status(blob) is BlobStatus.STORED  # as far as stat(2) can tell

    heard = Heard()
    await scrubbed(store, heard=heard)

    assert [one.kind for one in heard.damages] == [DamageKind.WRONG_BYTES]
    assert store.blobs.status(blob) is BlobStatus.ABSENT


async def test_the_chunks_that_are_wrong_are_named_and_no_others(store: Store) -> None:
    model = synthetic_model(weights_bytes=4 * CHUNK_SIZE + 5)
    put(store, model)
    path = blob_file(store, model.weights)
    for at in (CHUNK_SIZE, 4 * CHUNK_SIZE + 4):
        _write(path, at, b"\x00\xff")  # behind the end it also makes the file longer

    heard = Heard()
    await scrubbed(store, heard=heard)

    (damage,) = heard.damages
    assert (damage.kind, damage.chunks) == (DamageKind.WRONG_SIZE, (1, 4))


async def test_of_a_truncated_blob_what_is_left_is_known_to_be_good(store: Store) -> None:
    model = synthetic_model(weights_bytes=3 * CHUNK_SIZE + 5)
    put(store, model)
    os.truncate(blob_file(store, model.weights), 2 * CHUNK_SIZE + 7)

    heard = Heard()
    await scrubbed(store, heard=heard)

    assert [one.chunks for one in heard.damages] == [(2, 3)]


async def test_the_map_of_a_damaged_blob_stays_for_its_repair(store: Store) -> None:
    model = build_model("mistral:7b")
    blob = blob_of(put(store, model), model.weights)
    known = store.records.get(blob.digest)
    harm(blob_file(store, model.weights), "zero", random.Random(1))

    await scrubbed(store)

    record = store.records.get(blob.digest)
    assert record is not None
    assert known is not None
    assert record.chunks == known.chunks


async def test_where_the_map_lies_sha256_decides_and_the_map_is_made_anew(store: Store) -> None:
    model = build_model("mistral:7b")
    blob = blob_of(put(store, model), model.weights)
    known = store.records.get(blob.digest)
    assert known is not None
    store.records.put(Record(blob.digest, known.identity, chunks_of(bytes(blob.size))))

    result = await scrubbed(store)

    assert result.damaged == 0
    record = store.records.get(blob.digest)
    assert record is not None
    assert record.chunks == known.chunks


async def test_a_blob_without_a_map_is_judged_by_sha256_and_recorded_if_it_is_right(store: Store) -> None:
    right, wrong = build_model("mistral:7b"), build_model("nomic-embed-text:v1.5")
    blobs = [blob_of(put(store, model), model.weights) for model in (right, wrong)]
    for blob in blobs:
        store.records.remove(blob.digest)
    harm(blob_file(store, wrong.weights), "flip", random.Random(1))

    heard = Heard()
    await scrubbed(store, heard=heard)

    assert [(str(one.blob.digest), one.chunks) for one in heard.damages] == [(wrong.weights, None)]
    assert store.blobs.status(blobs[0]) is BlobStatus.STORED
    assert store.blobs.status(blobs[1]) is BlobStatus.ABSENT


async def test_a_fresh_mtime_is_no_damage(store: Store) -> None:
    model = build_model("mistral:7b")
    blob = blob_of(put(store, model), model.weights)
    os.utime(blob_file(store, model.weights))
    assert store.blobs.status(blob) is BlobStatus.UNVERIFIED

    result = await scrubbed(store)

    assert result.damaged == 0
    assert store.blobs.status(blob) is BlobStatus.STORED


async def test_only_the_named_models_are_read(store: Store) -> None:
    one, other = build_model("mistral:7b"), build_model("nomic-embed-text:v1.5")
    put(store, one)
    put(store, other)
    harm(blob_file(store, other.weights), "delete", random.Random(1))

    assert (await scrubbed(store, ScrubWish([ModelName.parse("MISTRAL:7b")], None))).damaged == 0
    assert (await scrubbed(store, ScrubWish([ModelName.parse("nomic-embed-text:v1.5")], None))).damaged == 1


@pytest.mark.parametrize("pruned", [False, True])
async def test_what_only_the_history_keeps_is_read_too_and_is_stored_no_more_if_it_has_rotted(
    store: Store, *, pruned: bool
) -> None:
    """``pruned``: an outside Ollama has taken it from blobs/, and a pull would put it back from keep/."""
    model = build_model("mistral:7b")
    blob = blob_of(put(store, model), model.weights)
    manifest_path(store, ModelName.parse(model.name)).unlink()
    harm(blob_file(store, model.weights), "flip", random.Random(1))
    if pruned:
        blob_file(store, model.weights).unlink()
    assert store.blobs.look(blob) == (BlobStatus.STORED, not pruned)

    result = await scrubbed(store)

    assert (result.models, result.damaged) == (0, 0)  # no model suffers from it
    assert store.blobs.status(blob) is BlobStatus.ABSENT


async def test_what_keep_alone_has_and_is_right_stays_as_it_is(store: Store) -> None:
    model = build_model("mistral:7b")
    blob = blob_of(put(store, model), model.weights)
    manifest_path(store, ModelName.parse(model.name)).unlink()
    blob_file(store, model.weights).unlink()

    await scrubbed(store)

    assert store.blobs.look(blob) == (BlobStatus.STORED, False)


async def test_a_damage_that_was_mended_otherwise_is_forgotten(store: Store) -> None:
    model = build_model("mistral:7b")
    put(store, model)
    harm(blob_file(store, model.weights), "flip", random.Random(1))
    book = book_of(store)
    await scrubbed(store, book=book)
    assert [one.digest for one in book_of(store).state.damaged] == [model.weights]

    restore(store, model.weights, whole(model.blobs[model.weights]))
    await book.review()

    assert book_of(store).state.damaged == ()


def _renamed(model: Model, name: str) -> Model:
    return Model(name, model.manifest, model.blobs, model.weights, model.config)


def _write(path: Path, at: int, content: bytes) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)
