"""An adoption that is killed at any of its steps loses nothing, and the next one gets there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncd.store.root import Store
from tests.adopt.world import adopted, blob_file, lay, tag_file
from tests.support.content import digest_of
from tests.support.forks import Forker
from tests.support.models import Model, model_from
from tests.support.one_thread import run_in_one_thread
from tests.support.oracle import assert_store_whole

pytestmark = pytest.mark.crash

_MODELS = (
    model_from("one:1b", [("model", b"weights of one" * 99), ("template", b"shared")]),
    model_from("two:1b", [("model", b"weights of two" * 99), ("template", b"shared")]),
)


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    with Forker("tests.adopt.adopter") as started:
        yield started


def is_somewhere(model: Model, *stores: Path) -> bool:
    """Whether all bytes of a model, and its manifest, are in these stores together."""
    files = [blob_file(store, digest) for store in stores for digest in model.blobs]
    files += [tag_file(store, model.name) for store in stores]
    found = {digest_of(file.read_bytes()) for file in files if file.is_file()}
    return found >= {*model.blobs, model.digest}


@pytest.mark.parametrize("delete", [False, True], ids=["copied", "moved"])
def test_a_kill_at_any_step_loses_nothing_and_the_next_run_gets_there(
    quick_path: Path, forker: Forker, delete: bool
) -> None:
    published = {f"registry.ollama.ai/library/{model.name}": model.digest for model in _MODELS}
    for number in range(1, 1000):
        place = quick_path / str(number)
        store, source = place / "store", lay(place / "source", *_MODELS)
        arguments = {"store": str(store), "source": str(source), "number": number, "delete": delete}
        ending = forker.fork("tests.adopt.adopter:adopt_and_die", arguments).go().wait()
        assert ending.killed or ending.done, ending.result

        visible = assert_store_whole(store) if (store / "blobs").exists() else {}
        assert visible.items() <= published.items()
        assert all(is_somewhere(model, store, source) for model in _MODELS), f"lost at change {number}"
        with Store.open(store, create=True) as opened:
            run_in_one_thread(adopted(opened, source, delete=delete))
        assert assert_store_whole(store) == published
        own = store / ".syncd"
        assert {path.name for path in (own / "records").iterdir()} == {
            path.name for path in (store / "blobs").iterdir()
        }
        assert not [path for path in (own / "staging").iterdir() if path.suffix == ".partial"]
        assert not list((own / "leases").iterdir())
        left = [path for path in source.rglob("*") if path.is_file()]
        assert bool(left) is not delete, f"killed at change {number}, {left} stayed"
        shutil.rmtree(place)
        if ending.done:
            assert number > 50  # it was killed at every change there is
            return
    pytest.fail("it never came to an end")
