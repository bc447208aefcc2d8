"""What a user waits for: ``syncd --version``, and ``syncd list`` over many models."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Goal, Sample, Section
from benchmarks.world import BenchmarkError, World, manifest, small_blob

_VERSION_ROUNDS = 20
_VERSION_SECONDS = 0.150
_MODELS = 10_000
_FAMILIES = 100
_LIST_SECONDS = 1.5


def measure(world: World) -> Iterator[Section]:
    version = Sample(tuple(world.timed(world.syncd("--version")) * 1000 for _ in range(_VERSION_ROUNDS)))
    world.say(f"syncd --version: {version.spread('ms', 0)}")
    with world.fresh("many") as store:
        world.call(world.syncd("init", "--store", store))
        _fill(store)
        command = world.syncd("list", "--store", store)
        lines = world.call(command).splitlines()
        if len(lines) < _MODELS:
            raise BenchmarkError(f"syncd list shows {len(lines)} lines for {_MODELS} models")
        listing = Sample(tuple(world.timed(command) for _ in range(world.rounds)))
        as_json = Sample(tuple(world.timed([*command, "--json"]) for _ in range(world.rounds)))
    world.say(f"syncd list: {listing.spread('s')}")
    yield _section(version, listing, as_json)


def _fill(store: Path) -> None:
    """Models as an Ollama would have left them: each its own config, 100 of them with the same weights and template."""
    template = b"{{ .Prompt }}"
    for number in range(_MODELS):
        config = f'{{"model_format":"gguf","model_family":"llama","number":{number}}}'.encode()
        weights = hashlib.sha256(str(number % _FAMILIES).encode()).digest() * 8
        raw = manifest(small_blob("config", config), (small_blob("model", weights), small_blob("template", template)))
        folder = store / "manifests/registry.ollama.ai/library" / f"family{number % _FAMILIES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"v{number}").write_bytes(raw)
        for content in (config, weights, template):
            (store / "blobs" / f"sha256-{hashlib.sha256(content).hexdigest()}").write_bytes(content)


def _section(version: Sample, listing: Sample, as_json: Sample) -> Section:
    return Section(
        title="Commands",
        goals=(
            Goal(
                f"`syncd --version` within {_VERSION_SECONDS * 1000:.0f} ms",
                version.spread("ms", 0),
                version.median <= _VERSION_SECONDS * 1000,
            ),
            Goal(
                f"`syncd list` over {_MODELS:,} models within {_LIST_SECONDS} s",
                listing.spread("s"),
                listing.median <= _LIST_SECONDS,
            ),
            Goal(f"`syncd list --json` over {_MODELS:,} models", as_json.spread("s"), None),
        ),
        notes=(
            (
                f"Wall time of whole processes: median (min to max) of {_VERSION_ROUNDS} and {len(listing.values)}"
                f" runs. {_MODELS:,} manifests of three blobs each, {_FAMILIES} tags to a model's name."
            ),
        ),
    )
