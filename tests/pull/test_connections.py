"""How many connections a pull opens at once: all where the network is slow, few where the hash is."""

import asyncio
import time
from pathlib import Path

import pytest

from syncd.download.means import FetchSettings
from syncd.download.prefix import PrefixHash
from syncd.oci.chunks import CHUNK_SIZE
from tests.pull.world import pulled
from tests.support.models import synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry

EIGHT = FetchSettings(connections=8, stall_timeout=60.0)


async def test_where_the_network_is_slow_all_of_them_are_used(registry: ScriptedRegistry, store_path: Path) -> None:
    large = registry.add(synthetic_model(weights_bytes=8 * CHUNK_SIZE))
    stalled = registry.stall(CHUNK_SIZE // 2, digest=large.weights)

    async with asyncio.TaskGroup() as group:
        group.create_task(pulled(large.name, store_path, settings=EIGHT))
        await registry.until(lambda r: len(r.requests_for(large.weights)) == EIGHT.connections)
        stalled.lift()

    assert_store_whole(store_path)


async def test_where_the_hash_is_slow_few_go_on_with_more_each(
    registry: ScriptedRegistry, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = 32
    large = registry.add(synthetic_model(weights_bytes=chunks * CHUNK_SIZE))
    advance = PrefixHash.advance

    def slowly(self: PrefixHash, frontier: int) -> None:
        time.sleep(0.11)
        advance(self, frontier)

    monkeypatch.setattr(PrefixHash, "advance", slowly)

    await pulled(large.name, store_path, settings=EIGHT)

    # Eight would have asked for a chunk each to the end.
    assert len(registry.requests_for(large.weights)) < chunks
    assert_store_whole(store_path)
