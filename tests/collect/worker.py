"""A process that brings a model into a store and takes it away again, over and over, and looks whether it is whole.

``python -m tests.collect.worker pull|adopt|restore STORE NAME SOURCE SECONDS``; ``SOURCE``: the folder to adopt from.
The last line of its output says how often it did so, and what was missing.
"""

import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path

import structlog

from syncd.jobs.remove import remove
from syncd.jobs.restore import Restoration, restore
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.adopt.world import adopted
from tests.pull.world import pulled


def missing(path: Path, name: ModelName) -> list[str]:
    """Blobs of this published model that are not there, or are not what they should be."""
    manifest = json.loads(path.joinpath("manifests", *name.parts).read_bytes())
    lost = []
    for blob in (manifest["config"], *manifest["layers"]):
        try:
            content = (path / "blobs" / blob["digest"].replace(":", "-")).read_bytes()
        except FileNotFoundError:
            content = b"nothing"
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != blob["digest"]:
            lost.append(blob["digest"])
    return lost


async def _bring(kind: str, path: Path, name: ModelName, source: Path) -> bool:
    """Whether it is there now."""
    if kind == "adopt":
        with Store.open(path, create=False) as store:
            endings = await adopted(store, source)
        for ending in endings.values():
            if isinstance(ending, Exception):
                raise ending
        return True
    await pulled(str(name), path)
    if kind == "restore":
        path.joinpath("manifests", *name.parts).unlink()  # as an outsider would, who leaves the folder
        with Store.open(path, create=False) as store:
            while (how := await restore(store, name, None)) is Restoration.BUSY:
                await asyncio.sleep(0.01)
        return how is not Restoration.GONE  # nothing named it, and the collections' clock is hours ahead
    return True


async def _work(kind: str, path: Path, name: ModelName, source: Path, seconds: float) -> tuple[int, list[str]]:
    until, rounds, lost = time.monotonic() + seconds, 0, list[str]()
    while time.monotonic() < until:
        if not await _bring(kind, path, name, source):
            continue
        lost += missing(path, name)
        with Store.open(path, create=False) as store:
            await remove(store, name, now=time.time())
        rounds += 1
    return rounds, lost


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    _kind, _store, _name, _source, _seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(_work(_kind, Path(_store), ModelName.parse(_name), Path(_source), float(_seconds)))))
