"""The order in which a pull makes things durable, read from what it asks of the kernel."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash import strace
from tests.crash.scene import Scene
from tests.crash.strace import Call, TracedEnding

pytestmark = pytest.mark.crash

_WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2", "fallocate", "ftruncate", "copy_file_range"}
_SYNCS = {"fsync", "fdatasync"}
_RENAMES = {"rename", "renameat", "renameat2"}
_LINKS = {"link", "linkat"}
_REMOVALS = {"unlink", "unlinkat", "rmdir"}


class Order:
    """The calls of one pull that succeeded, to be asked which came when."""

    def __init__(self, store: Path, ending: TracedEnding) -> None:
        self.store = store
        self.calls = [call for call in ending.calls if call.ok]

    def all(self, names: set[str], where: Callable[[Call], bool]) -> list[int]:
        """Where in the trace such calls are."""
        return [at for at, call in enumerate(self.calls) if call.name in names and where(call)]

    def only(self, names: set[str], where: Callable[[Call], bool]) -> int:
        found = self.all(names, where)
        assert len(found) == 1, f"{len(found)} calls of {names}"
        return found[0]

    def synced(self, path: Path, *, after: int) -> int:
        """Where ``path`` is next made durable."""
        found = [at for at in self.all(_SYNCS, lambda call: call.paths == (str(path),)) if at > after]
        assert found, f"{path} is never synced after call {after}"
        return found[0]


@pytest.fixture(scope="module", params=["an update", "a first pull"])
def order(request: pytest.FixtureRequest, scene: Scene) -> Order:
    strace.needs_strace()
    store = scene.store() if request.param == "an update" else scene.path()
    ending = scene.puller.traced(store, scene.new.name, scene.path("trace"), "-e", f"trace={strace.CHANGING}")
    assert ending.done, ending.result
    return Order(store, ending)


def _new_blobs(order: Order) -> list[Path]:
    """The blobs that this pull put into the store."""
    blobs = order.store / "blobs"
    return [
        Path(order.calls[at].paths[1]) for at in order.all(_RENAMES, lambda call: Path(call.paths[1]).parent == blobs)
    ]


def _partial(order: Order, blob: Path) -> str:
    return str(order.store / ".syncd/staging" / f"{blob.name}.partial")


def _renamed(order: Order, source: str, target: Path) -> int:
    return order.only(_RENAMES, lambda call: call.paths == (source, str(target)))


def test_a_blob_is_written_then_synced_then_kept_then_named_and_then_its_names_are_synced(order: Order) -> None:
    blobs = _new_blobs(order)
    assert len(blobs) >= 2
    for blob in blobs:
        _assert_in_order(order, blob)


def _assert_in_order(order: Order, blob: Path) -> None:
    partial, kept = _partial(order, blob), order.store / ".syncd/keep" / blob.name
    changed = max(order.all({*_WRITES, "fchmod"}, lambda call: call.paths == (partial,)))
    linked = order.only(_LINKS, lambda call: call.paths == (partial, str(kept)))
    renamed = _renamed(order, partial, blob)
    recorded = order.only(_RENAMES, lambda call: call.paths[1].endswith(f"/records/{blob.name}"))

    assert changed < order.synced(Path(partial), after=changed) < linked < renamed
    assert order.synced(kept.parent, after=linked) < recorded
    assert order.synced(blob.parent, after=renamed) < recorded


def test_the_manifest_comes_after_every_blob_with_its_bytes_and_its_folders_durable(order: Order) -> None:
    manifests = order.store / "manifests"
    published = order.only(_RENAMES, lambda call: call.paths[1].startswith(f"{manifests}/"))
    staged, named = (Path(path) for path in order.calls[published].paths[:2])

    written = order.all(_WRITES, lambda call: Path(call.paths[0]).is_relative_to(staged))
    synced = order.all(_SYNCS, lambda call: Path(call.paths[0]).is_relative_to(staged))
    folders = order.all({"mkdirat"}, lambda call: Path(call.paths[0]).is_relative_to(staged))
    assert max(written) < order.synced(Path(order.calls[written[0]].paths[0]), after=max(written)) < published
    # A new folder is prepared in staging: its own names are durable before it gets into Ollama's tree.
    for at in folders:
        order_of_folder = [sync for sync in synced if order.calls[sync].paths == order.calls[at].paths]
        assert order_of_folder, f"{order.calls[at].paths} is not synced"
        assert max(order_of_folder) < published
    for blob in _new_blobs(order):
        assert order.synced(blob.parent, after=_renamed(order, _partial(order, blob), blob)) < published
    assert published < order.synced(named.parent, after=published)


def test_the_lease_is_durable_before_the_first_byte_and_goes_last(order: Order) -> None:
    leases = order.store / ".syncd/leases"
    taken = order.only(_RENAMES, lambda call: Path(call.paths[1]).parent == leases)
    dropped = order.only(_REMOVALS, lambda call: Path(call.paths[0]).parent == leases)
    first_byte = min(order.all(_WRITES, lambda call: call.paths[0].endswith(".partial")))
    published = order.only(_RENAMES, lambda call: call.paths[1].startswith(f"{order.store}/manifests/"))

    assert order.synced(leases, after=taken) < first_byte
    assert order.synced(Path(order.calls[published].paths[1]).parent, after=published) < dropped


def test_ollamas_trees_change_by_rename_and_link_only(order: Order) -> None:
    trees = (order.store / "blobs", order.store / "manifests")

    def in_a_tree(path: str) -> bool:
        return any(path.startswith(f"{tree}/") for tree in trees)

    def changes(call: Call) -> bool:
        to_write = any(flag in call.args for flag in ("O_CREAT", "O_WRONLY", "O_RDWR", "O_TRUNC"))
        return call.name in {"mkdir", "mkdirat"} | _WRITES | _REMOVALS or (call.name.startswith("open") and to_write)

    assert not [call for call in order.calls if changes(call) and in_a_tree(call.paths[0])]
