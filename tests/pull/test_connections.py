"""How many connections a pull opens at once: all where the network is slow, few where the processors are."""

import asyncio
import itertools
from pathlib import Path

from syncd.download.crew import FEW, LOOK_EVERY
from syncd.download.means import FetchSettings
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


async def test_where_the_processors_are_busy_there_are_few(registry: ScriptedRegistry, store_path: Path) -> None:
    large = registry.add(synthetic_model(weights_bytes=8 * CHUNK_SIZE))
    stalled = registry.stall(CHUNK_SIZE // 2, digest=large.weights)
    busy = itertools.count(step=3600.0)

    async with asyncio.TaskGroup() as group:
        group.create_task(pulled(large.name, store_path, settings=EIGHT, processor=lambda: next(busy)))
        await registry.until(lambda r: len(r.requests_for(large.weights)) == FEW)
        await asyncio.sleep(5 * LOOK_EVERY)
        assert len(registry.requests_for(large.weights)) == FEW
        stalled.lift()

    assert_store_whole(store_path)
