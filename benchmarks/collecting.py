"""What a collection costs that takes nothing yet: ``syncd gc --dry-run`` over many models and more blobs."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Goal, Sample, Section
from benchmarks.world import BenchmarkError, World, manifest, small_blob

_MODELS = 10_000
_BLOBS = 50_000
_FAMILIES = 100
_SECONDS = 2.0
_HOURS_OLD = 3


def measure(world: World) -> Iterator[Section]:
    with world.fresh("collected") as store:
        world.call(world.syncd("init", "--store", store))
        free = _fill(store, time.time() - _HOURS_OLD * 3600)
        command = world.syncd("gc", "--dry-run", "--json", "--store", store)
        found = len(json.loads(world.call(command).splitlines()[0])["blobs"])
        if found != free:
            raise BenchmarkError(f"syncd gc would take {found} blobs, and {free} are free")
        plan = Sample(tuple(world.timed(command) for _ in range(world.rounds)))
    world.say(f"syncd gc --dry-run: {plan.spread('s')}")
    yield _section(plan, free)


def _fill(store: Path, when: float) -> int:
    """Models of five blobs each, two of which a family shares, and as many blobs again that nobody names.

    How many those are. ``when``: seconds since the epoch, at which all of it was written.
    """
    held: set[str] = set()
    for number in range(_MODELS):
        family = f"family{number % _FAMILIES}"
        config = f'{{"model_format":"gguf","model_family":"llama","number":{number}}}'.encode()
        layers = {"model": f"{family} weights", "template": f"{family} template"}
        layers |= {"system": f"system {number}", "license": f"license {number}"}
        contents = {kind: content.encode() for kind, content in layers.items()}
        raw = manifest(small_blob("config", config), tuple(small_blob(*one) for one in contents.items()))
        folder = store / "manifests/registry.ollama.ai/library" / family
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"v{number}").write_bytes(raw)
        os.utime(folder / f"v{number}", (when, when))
        for content in (config, *contents.values()):
            _hold(store, content, when, held)
    named = len(held)
    for number in range(_BLOBS - named):
        _hold(store, f"of a model that is gone: {number}".encode(), when, held)
    return len(held) - named


def _hold(store: Path, content: bytes, when: float, held: set[str]) -> None:
    """A blob as syncd leaves it; but for what its record says, which no plan reads."""
    name = f"sha256-{hashlib.sha256(content).hexdigest()}"
    if name in held:
        return
    held.add(name)
    blob, record = store / "blobs" / name, store / ".syncd/records" / name
    blob.write_bytes(content)
    record.touch()
    for path in (blob, record):
        os.utime(path, (when, when))
    os.link(blob, store / ".syncd/keep" / name)


def _section(plan: Sample, free: int) -> Section:
    return Section(
        title="Collecting",
        goals=(
            Goal(
                f"`syncd gc --dry-run` over {_MODELS:,} models and {_BLOBS:,} blobs within {_SECONDS:.0f} s",
                plan.spread("s"),
                plan.median <= _SECONDS,
            ),
        ),
        notes=(
            (
                f"Wall time of whole processes: median (min to max) of {len(plan.values)} runs. {free:,} of the blobs"
                " are free, and each of those is looked at; of the others the name is enough."
            ),
        ),
    )
