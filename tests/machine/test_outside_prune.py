"""An Ollama that prunes at the worst moment, two hundred times: the store is whole again, and nothing comes twice."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.jobs.pull import pull
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, Reference
from syncd.store.root import Store
from tests.pull.world import ActingAfter, blob_file, means, prune_as_ollama
from tests.support.models import Model, model_from
from tests.support.ollama_store import age
from tests.support.oracle import assert_store_whole, unreferenced_blobs
from tests.support.registry import ScriptedRegistry
from tests.support.standin.store import Store as OllamasStore

TIMES = 50
HOUR = 3600.0


def version(number: int) -> Model:
    """One of five weights, in turn; the parameters are always others."""
    weights = random.Random(number % 5).randbytes(48 * 1024)
    params = json.dumps({"seed": number}).encode()
    return model_from("mistral:7b", [("model", weights), ("template", b"{{ .Prompt }}"), ("params", params)])


class Outsider:
    """A server that starts between blobs and manifest; or one that looks then, and deletes when both are there."""

    def __init__(self, path: Path, *, grace: float, late: bool) -> None:
        self._path = path
        self._grace = grace
        self._late = late
        self._planned: set[str] = set()
        self.taken = 0

    async def before_publish(self, _name: ModelName, _old: Manifest | None, _new: Manifest) -> None:
        unused = unreferenced_blobs(self._path)
        if self._late:
            self._planned = unused
        else:
            OllamasStore(self._path, random.Random(0)).start(prune=True, grace=self._grace)
            self.taken += len(unused - unreferenced_blobs(self._path))

    def after_publish(self) -> None:
        there = {digest for digest in self._planned if (self._path / "blobs" / blob_file(digest)).exists()}
        prune_as_ollama(self._path, there)
        self.taken += len(there)


def hooked(store: Store, act: Callable[[], None]) -> Store:
    store.models = ActingAfter(store.models, "publish", act)
    return store


@pytest.mark.parametrize(
    ("grace", "late"),
    [(0.0, False), (HOUR, False), (0.0, True), (HOUR, True)],
    ids=["no grace", "an hour of grace", "no grace, late", "an hour of grace, late"],
)
async def test_an_outside_prune_between_blobs_and_manifest_is_healed_without_a_second_download(
    tmp_path: Path, registry: ScriptedRegistry, grace: float, late: bool
) -> None:
    path = tmp_path / "models"
    outsider = Outsider(path, grace=grace, late=late)
    sizes: dict[str, int] = {}
    for number in range(TIMES):
        model = registry.add(version(number))
        sizes |= {digest: blob.size for digest, blob in model.blobs.items()}
        with Store.open(path, create=True) as store:
            async with means(hooked(store, outsider.after_publish)) as everything:
                watched = replace(everything, before_publish=outsider.before_publish)
                await pull(Reference.parse(model.name), watched, lambda _: None)

        assert list(assert_store_whole(path).values()) == [str(model.digest)]
        for blob in (path / "blobs").iterdir():
            age(blob)  # what is found stored by the next one is two hours old

    # With an hour of grace a server that starts takes only what nobody wants: a pull makes what it finds young again.
    assert outsider.taken > 0
    for digest, size in sizes.items():
        assert registry.bytes_served(digest) == size, "it was on the disk, and was fetched again"
