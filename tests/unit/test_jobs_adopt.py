"""What adopting would mean, decided from what sources and store have; and the hash that it rests on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import blake3
import pytest

from syncd.errors import StoreError
from syncd.jobs import adoption
from syncd.jobs.adoption import NOTHING, Decision, Find, Held, ModelPlan, Plan
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.blobs import BlobStatus
from syncd.store.hashing import HashingStoppedError, hash_file
from syncd.store.intake import Way
from syncd.store.source_scan import Scan, SourceBlob, SourceManifest

MISTRAL = ModelName.parse("mistral:7b")


def manifest_of(*contents: bytes) -> Manifest:
    blobs = [{"mediaType": "a/b", "digest": str(Digest.of(one)), "size": len(one)} for one in contents]
    return Manifest.parse(json.dumps({"schemaVersion": 2, "layers": blobs[:-1], "config": blobs[-1]}).encode())


ONE, TWO = manifest_of(b"weights", b"config"), manifest_of(b"other weights", b"config")


def scan(path: str, models: dict[ModelName, Manifest]) -> Scan:
    """A source with these models, whole."""
    return Scan(
        Path(path),
        (1, 1),
        tuple(SourceManifest("/".join(name.parts), name, manifest) for name, manifest in models.items()),
        {
            blob.digest: SourceBlob(f"sha256-{blob.digest.hex}", blob.size, alone=True)
            for manifest in models.values()
            for blob in manifest.blobs
        },
        frozenset(),
        (),
    )


def copied(_source: int, _file: SourceBlob) -> Way:
    return Way.COPY


def decisions(plan: Plan) -> list[Decision]:
    return [model.decision for model in plan.models]


def only(plan: Plan) -> ModelPlan:
    (model,) = plan.models
    return model


def test_a_whole_model_is_adopted_with_every_blob_new() -> None:
    model = only(adoption.plan([scan("/a", {MISTRAL: ONE})], NOTHING, copied))

    assert model.decision is Decision.ADOPT
    assert {blob.find for blob in model.blobs} == {Find.NEW}


def test_bytes_count_once_however_many_sources_have_them() -> None:
    sources = [scan(f"/{number}", {MISTRAL: ONE}) for number in range(8)]

    plan = adoption.plan(sources, NOTHING, copied)

    assert only(plan).sources == tuple(range(8))
    assert plan.bytes_by(Way.COPY) == ONE.size
    assert plan.shared_bytes == 7 * ONE.size


def test_what_the_store_has_is_not_taken_again() -> None:
    held = Held(frozenset(), {}, {ONE.blobs[0].digest: BlobStatus.STORED})

    plan = adoption.plan([scan("/a", {MISTRAL: ONE})], held, copied)

    assert plan.bytes_by(Way.COPY) == ONE.blobs[1].size


def test_a_published_and_whole_model_is_current() -> None:
    stored = {blob.digest: BlobStatus.STORED for blob in ONE.blobs}
    held = Held(frozenset({MISTRAL}), {MISTRAL: ONE.digest}, stored)

    assert decisions(adoption.plan([scan("/a", {MISTRAL: ONE})], held, copied)) == [Decision.CURRENT]
    torn = replace(held, blobs={})
    assert decisions(adoption.plan([scan("/a", {MISTRAL: ONE})], torn, copied)) == [Decision.ADOPT]


def test_the_stores_version_is_kept_and_so_is_that_of_the_source_named_first() -> None:
    held = Held(frozenset({MISTRAL}), {MISTRAL: TWO.digest}, {})
    assert decisions(adoption.plan([scan("/a", {MISTRAL: ONE})], held, copied)) == [Decision.KEPT]

    plan = adoption.plan([scan("/a", {MISTRAL: ONE}), scan("/b", {MISTRAL: TWO})], NOTHING, copied)

    assert decisions(plan) == [Decision.ADOPT, Decision.KEPT]
    assert plan.models[1].why == "/a has another version, and was named earlier"


def test_a_version_that_cannot_be_taken_does_not_stand_in_the_way_of_one_that_can() -> None:
    torn = replace(scan("/a", {MISTRAL: ONE}), blobs={})

    plan = adoption.plan([torn, scan("/b", {MISTRAL: TWO})], NOTHING, copied)

    assert decisions(plan) == [Decision.INCOMPLETE, Decision.ADOPT]


def test_blobs_that_one_source_lacks_come_from_another() -> None:
    torn = replace(scan("/a", {MISTRAL: ONE}), blobs={})

    model = only(adoption.plan([torn, scan("/b", {MISTRAL: ONE})], NOTHING, copied))

    assert model.decision is Decision.ADOPT
    assert {candidate.source for blob in model.blobs for candidate in blob.candidates} == {1}


@pytest.mark.parametrize(
    ("blobs", "partial", "find"),
    [
        ({}, frozenset(), Find.MISSING),
        ({}, frozenset({ONE.blobs[0].digest}), Find.PARTIAL),
        ({ONE.blobs[0].digest: SourceBlob("sha256-…", 3, alone=True)}, frozenset(), Find.TRUNCATED),
    ],
)
def test_a_model_without_one_of_its_blobs_is_incomplete_and_told_why(
    blobs: dict[Digest, SourceBlob], partial: frozenset[Digest], find: Find
) -> None:
    whole = scan("/a", {MISTRAL: ONE})
    rest = {digest: file for digest, file in whole.blobs.items() if digest != ONE.blobs[0].digest}

    model = only(adoption.plan([replace(whole, blobs=rest | blobs, partial=partial)], NOTHING, copied))

    assert model.decision is Decision.INCOMPLETE
    assert model.blobs[0].find is find
    assert str(ONE.blobs[0].digest) in (model.why or "")


def test_of_names_that_differ_only_in_case_the_first_counts() -> None:
    shouting = ModelName.parse("MISTRAL:7b")

    plan = adoption.plan([scan("/a", {MISTRAL: ONE, shouting: ONE})], NOTHING, copied)

    assert decisions(plan) == [Decision.ADOPT, Decision.CONFLICT]


# The hash


def reader(content: bytes) -> Callable[[memoryview, int], None]:
    def read(buffer: memoryview, offset: int) -> None:
        buffer[:] = content[offset : offset + len(buffer)]

    return read


@pytest.mark.parametrize(
    "size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1]
)
def test_both_hashes_are_those_of_the_content(size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    steps: list[int] = []

    hashed = hash_file(reader(content), size, on_bytes=steps.append, cancelled=lambda: False)

    assert hashed.digest == Digest.of(content)
    assert hashed.chunks.hashes == tuple(
        blake3.blake3(content[at : at + CHUNK_SIZE]).digest() for at in range(0, size, CHUNK_SIZE)
    )
    assert sum(steps) == size


def test_hashing_ends_soon_after_it_is_told_to() -> None:
    steps: list[int] = []

    with pytest.raises(HashingStoppedError):
        hash_file(reader(bytes(8 << 20)), 8 << 20, on_bytes=steps.append, cancelled=lambda: len(steps) == 2)

    assert len(steps) == 2


def test_what_reading_fails_with_comes_out() -> None:
    def fail(_buffer: memoryview, offset: int) -> None:
        if offset:
            raise StoreError("a bad sector")

    with pytest.raises(StoreError, match="a bad sector"):
        hash_file(fail, 8 << 20, on_bytes=lambda _: None, cancelled=lambda: False)
