"""A pull from a healthy registry, and what it leaves on the disk."""

import os
from pathlib import Path

import gguf
import pytest

from syncd.errors import InvalidNameError
from syncd.jobs.progress import BlobState, Phase, PullProgress
from syncd.oci.chunks import CHUNK_SIZE
from syncd.store.root import Store
from tests.pull.world import pulled
from tests.support.docker_registry import DockerRegistry
from tests.support.models import build_model, five_models, synthetic_model
from tests.support.oracle import assert_store_whole, snapshot
from tests.support.registry import ScriptedRegistry

MIB = 1 << 20


async def test_a_pulled_model_is_whole_and_says_what_it_took(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(build_model("mistral:7b", weights_bytes=3 * MIB))

    outcome = await pulled(model.name, store_path)

    assert assert_store_whole(store_path) == {model.name: model.digest}
    assert not outcome.current
    assert outcome.fetched_bytes == outcome.size == model.size == registry.bytes_served()
    assert outcome.found_bytes == 0
    assert outcome.fetched_blobs == outcome.blobs == len(model.blobs)


async def test_a_current_model_costs_one_manifest_request_and_no_blob_request(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    model = registry.add(build_model("mistral:7b"))
    await pulled(model.name, store_path)
    registry.forget_requests()
    before = snapshot(store_path)

    outcome = await pulled(model.name, store_path)

    assert outcome.current
    assert len(registry.manifest_requests()) == len(registry.requests) == 1
    assert snapshot(store_path) == before


async def test_the_weights_of_all_five_models_can_be_read_from_the_store(
    ollama_registry: ScriptedRegistry, store_path: Path
) -> None:
    for model in map(ollama_registry.add, five_models()):
        await pulled(model.name, store_path)

    assert len(assert_store_whole(store_path)) == 5
    with Store.open(store_path, create=False) as store:
        for stored in store.models.list():
            for layer in stored.manifest.layers:
                if layer.media_type.rpartition(".")[2] in {"model", "projector"}:
                    reader = gguf.GGUFReader(store_path / "blobs" / f"sha256-{layer.digest.hex}")
                    assert reader.tensors
                    assert reader.get_field("general.architecture") is not None


async def test_models_come_from_a_real_registry_too(docker_registry: DockerRegistry, store_path: Path) -> None:
    name = docker_registry.add(build_model("llava:7b", weights_bytes=2 * MIB)).name

    await pulled(name, store_path)

    assert list(assert_store_whole(store_path)) == [name]


async def test_shared_blobs_are_fetched_once(registry: ScriptedRegistry, store_path: Path) -> None:
    mistral, codellama = (registry.add(build_model(name)) for name in ("mistral:7b", "codellama:7b"))
    shared = set(mistral.blobs) & set(codellama.blobs)
    assert shared
    await pulled(mistral.name, store_path)
    registry.forget_requests()

    outcome = await pulled(codellama.name, store_path)

    assert not any(registry.requests_for(digest) for digest in shared)
    assert outcome.found_bytes == sum(codellama.blobs[digest].size for digest in shared)
    assert len(assert_store_whole(store_path)) == 2


async def test_a_moved_tag_replaces_the_model_and_keeps_its_history(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    old = registry.add(build_model("mistral:7b", seed=1))
    await pulled(old.name, store_path)
    new = registry.add(build_model("mistral:7b", seed=2))

    await pulled(new.name, store_path)

    assert assert_store_whole(store_path) == {new.name: new.digest}
    history = {path.name for path in (store_path / ".syncd" / "history").rglob("sha256-*")}
    assert history == {f"sha256-{one.digest.removeprefix('sha256:')}" for one in (old, new)}


async def test_a_large_blob_comes_in_segments_in_ascending_order(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(synthetic_model(weights_bytes=5 * CHUNK_SIZE + 17))

    await pulled(model.name, store_path)

    ranges = [request.range or "" for request in registry.requests_for(model.weights)]
    starts = [int(one.removeprefix("bytes=").partition("-")[0]) for one in ranges]
    assert starts == sorted(starts) == [index * CHUNK_SIZE for index in range(6)]
    assert registry.bytes_served(model.weights) == model.weights_size
    assert_store_whole(store_path)


async def test_a_blob_without_bytes_is_stored_without_a_request(registry: ScriptedRegistry, store_path: Path) -> None:
    empty = registry.put_blob(b"")
    config = registry.put_blob(b"{}")
    raw = (
        b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"%b","size":2},'
        b'"layers":[{"mediaType":"a/b","digest":"%b","size":0}]}' % (config.encode(), empty.encode())
    )

    await pulled(registry.put_manifest(raw), store_path)

    assert len(assert_store_whole(store_path)) == 1
    assert registry.requests_for(empty) == []


async def test_progress_rises_to_the_whole_and_ends_done(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(synthetic_model(weights_bytes=3 * CHUNK_SIZE))
    registry.throttle(40 * MIB)
    seen: list[PullProgress] = []

    await pulled(model.name, store_path, report=seen.append)

    done = [sum(blob.done for blob in one.blobs) for one in seen]
    assert done == sorted(done)
    assert done[-1] == model.size
    assert seen[0].phase is Phase.RESOLVING
    assert seen[-1].phase is Phase.DONE
    assert all(blob.state is BlobState.STORED for blob in seen[-1].blobs)
    assert any(0 < value < model.size for value in done)


async def test_a_pinned_digest_is_pulled_by_digest(registry: ScriptedRegistry, store_path: Path) -> None:
    old = registry.add(build_model("mistral:7b", seed=1))
    registry.add(build_model("mistral:7b", seed=2))

    await pulled(f"{old.name}@{old.digest}", store_path)

    assert assert_store_whole(store_path) == {old.name: old.digest}


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
async def test_other_users_containers_can_read_it_whatever_the_umask(
    umask: int, registry: ScriptedRegistry, store_path: Path
) -> None:
    model = registry.add(build_model("mistral:7b"))
    before = os.umask(umask)
    try:
        await pulled(model.name, store_path)
    finally:
        os.umask(before)

    assert_store_whole(store_path)  # which looks at the modes too
    assert (store_path / ".syncd").stat().st_mode & 0o777 == 0o700


async def test_staging_is_empty_and_no_lease_is_left_after_a_pull(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(build_model("mistral:7b"))

    await pulled(model.name, store_path)

    assert list((store_path / ".syncd" / "staging").iterdir()) == []
    assert list((store_path / ".syncd" / "leases").iterdir()) == []
    assert {path.name for path in (store_path / ".syncd" / "keep").iterdir()} == {
        path.name for path in (store_path / "blobs").iterdir()
    }


async def test_a_name_that_differs_only_in_case_is_refused(registry: ScriptedRegistry, store_path: Path) -> None:
    lower, upper = (registry.add(synthetic_model(name, weights_bytes=99)) for name in ("mistral:q8", "other:Q8"))
    await pulled(lower.name, store_path)
    before = snapshot(store_path)

    with pytest.raises(InvalidNameError, match="case"):
        await pulled(upper.name, store_path)

    assert snapshot(store_path) == before
