"""Scrubs and verifications beside others who look at the same blob."""

import asyncio
import os

import pytest

from syncd.jobs.verify import verify
from syncd.oci.digest import Digest
from syncd.store.blobs import BlobStatus
from syncd.store.root import Store
from tests.pull.world import until
from tests.scrub.world import KIB, blob_file, blob_of, book_of, put, scrubbed
from tests.support.models import synthetic_model

_SIZE = 64 * KIB


@pytest.mark.parametrize("kind", ["scrub", "verify"])
async def test_what_is_found_while_somebody_else_looks_at_the_blob_is_not_forgotten(store: Store, kind: str) -> None:
    model = synthetic_model(weights_bytes=_SIZE)
    weights = blob_of(put(store, model), model.weights)
    path = blob_file(store, model.weights)
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(bytes(_SIZE))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # rot: nothing but reading tells
    book = book_of(store)
    hashed = [0]
    lock = store.locks.try_digest(Digest.parse(model.weights))
    assert lock

    with lock:
        if kind == "scrub":
            task: asyncio.Task[object] = asyncio.create_task(scrubbed(store, book=book))
            await until(lambda: book.read >= 2 * _SIZE)  # by its map, and then whole
        else:
            looking = verify(store, None, on_progress=lambda now: hashed.append(now.done))
            task = asyncio.create_task(looking)
            await until(lambda: max(hashed) >= _SIZE)
        await asyncio.wait((task,), timeout=0.5)
    await asyncio.wait_for(task, 30)

    assert store.blobs.look(weights) == (BlobStatus.ABSENT, True)
