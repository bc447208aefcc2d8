"""Collections without a pause beside processes that pull, adopt, restore and remove what shares blobs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syncd.aio import in_thread
from syncd.jobs.collect import collect, plan, take_blobs
from syncd.store.root import Store
from tests.adopt.world import lay
from tests.support.models import Model, build_model, model_from
from tests.support.oracle import assert_store_whole, unreferenced_blobs
from tests.support.registry import ScriptedRegistry

_SECONDS = 6.0
_ROOT = Path(__file__).parents[2]
_PAST_THE_GRACE = 2 * 3600.0
_PAST_THE_LEASES = 8 * 86400.0


def renamed(model: Model, name: str, template: bytes) -> Model:
    """The same weights under another name, with a template of its own."""
    return model_from(name, [("model", model.blobs[model.weights]), ("template", template)])


@pytest.mark.timeout(180)
async def test_collections_beside_everything_never_take_what_a_model_needs(
    tmp_path: Path, store_path: Path, registry: ScriptedRegistry
) -> None:
    base = build_model("mistral:7b")
    with Store.open(store_path, create=True):
        pass
    names = {
        "pull": registry.add(renamed(base, "pulled:1", b"one")).name,
        "restore": registry.add(renamed(base, "restored:1", b"two")).name,
        "adopt": "adopted:1",
    }
    source = lay(tmp_path / "source", renamed(base, "adopted:1", b"three"))
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.collect.worker", kind, store_path, name, source, str(_SECONDS)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for kind, name in names.items()
    ]
    collected = 0
    try:
        with Store.open(store_path, create=False) as store:
            while any(worker.poll() is None for worker in workers):
                collected += await _collected(store)
            ends = [worker.communicate(timeout=60) for worker in workers]
            await collect(store, now=time.time() + _PAST_THE_LEASES)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()

    assert [worker.returncode for worker in workers] == [0, 0, 0], "\n".join(errors for _, errors in ends)
    for kind, (output, _) in zip(names, ends, strict=True):
        rounds, lost = json.loads(output)
        assert lost == [], kind
        assert rounds >= 1, kind
    assert collected >= 1
    assert assert_store_whole(store_path) == {}
    assert not unreferenced_blobs(store_path)
    assert list((store_path / ".syncd" / "trash").iterdir()) == []


async def _collected(store: Store) -> int:
    """A collection of blobs alone, two hours ahead: files that are being written now are not two hours old."""
    with await store.locks.references(shared=False):
        planned = await in_thread(plan, store, time.time() + _PAST_THE_GRACE)
        taken = await in_thread(take_blobs, store, planned)
        trash = store.sweep.trash()
    await in_thread(store.sweep.empty, trash)
    return len(taken.blobs)
