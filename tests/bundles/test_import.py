"""An import: what was exported comes out the same, from a file, a folder and a pipe, by whoever wrote it."""

import asyncio
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from blake3 import blake3

from syncd.download.journal import Journal
from syncd.errors import IntegrityError, InvalidManifestError, NoSpaceError, NotFoundError
from syncd.jobs.bundle import Stream
from syncd.jobs.policy import NO_POLICY, MaxSize, Patterns, Policy, PolicyError
from syncd.jobs.pull import HeldError
from syncd.jobs.received import Received
from syncd.oci.chunks import CHUNK_SIZE
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.store.archive import ArchiveError
from syncd.store.holds import Hold
from syncd.store.root import Store
from tests.bundles.world import (
    INDEX_TYPE,
    Layout,
    exported,
    index_of,
    member,
    piped,
    small,
    started,
    syncd,
    taken_in,
)
from tests.support.content import digest_of
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import Model, model_from
from tests.support.oracle import assert_store_whole, snapshot, unreferenced_blobs

FULL = "registry.ollama.ai/library/mistral:7b"


@pytest.fixture
def host(other: Path) -> Iterator[Store]:
    """Another host's store, empty."""
    with Store.open(other, create=True) as store:
        yield store


def brought(store: Store, path: Path, **more: object) -> set[str]:
    """The names that an import of the bundle at ``path`` published."""
    return {str(name) for name in asyncio.run(taken_in(store, path, **more))}  # type: ignore[arg-type] - taken_in's own


def streamed(store: Store, content: bytes, **more: object) -> set[str]:
    """Likewise, through a pipe."""
    out, writer = piped(content)
    try:
        return {str(name) for name in asyncio.run(taken_in(store, None, stream=out, **more))}  # type: ignore[arg-type] - taken_in's own
    finally:
        os.close(out)
        writer.join(30)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "bundle.tar"
    path.write_bytes(content)
    return path


def test_what_was_exported_is_the_same_on_another_host(
    store_path: Path, host: Store, tmp_path: Path, mistral: Model, llava: Model
) -> None:
    bundle = written(tmp_path, exported(store_path, mistral, llava))

    assert brought(host, bundle) == {"mistral:7b", "llava:7b"}

    assert snapshot(host.path) == snapshot(store_path)
    assert exported(host.path, mistral, llava) == bundle.read_bytes()


def test_from_one_host_to_another_through_a_pipe(store_path: Path, other: Path) -> None:
    with started(store_path, "export", "mistral:7b", "llava:7b", "-o", "-", "-q") as exporter:
        assert exporter.stdout is not None
        importer = started(other, "import", "-", streams=(exporter.stdout.fileno(), None, None))
        exporter.stdout.close()
        _, errors = importer.communicate()

        assert exporter.wait(30) == 0
    assert importer.returncode == 0, errors
    assert snapshot(other) == snapshot(store_path)


@pytest.mark.parametrize("backwards", [False, True], ids=["index first", "index last"])
def test_a_pipe_brings_blobs_in_whatever_order(host: Store, mistral: Model, llava: Model, backwards: bool) -> None:
    layout = Layout.of(mistral, llava)

    streamed(host, (layout.reversed() if backwards else layout).tar())

    assert set(assert_store_whole(host.path).values()) == {mistral.digest, llava.digest}
    assert not unreferenced_blobs(host.path)
    assert not list((host.path / ".syncd" / "staging").iterdir())


def test_a_pipe_that_breaks_off_leaves_the_store_as_it_was(host: Store, mistral: Model) -> None:
    before = snapshot(host.path)
    content = Layout.of(mistral).reversed().tar()

    with pytest.raises(Exception, match="cut off"):
        streamed(host, content[: len(content) // 2])

    assert snapshot(host.path) == before
    assert not list((host.path / ".syncd" / "staging").iterdir())


def test_what_a_pipe_brings_that_no_model_needs_is_not_kept(host: Store) -> None:
    stray = os.urandom(5 << 20)
    layout = Layout.of(small("one:1b")).having(member(digest_of(stray)), stray)

    streamed(host, layout.reversed().tar())

    assert not unreferenced_blobs(host.path)
    assert not list((host.path / ".syncd" / "staging").iterdir())


def test_big_blobs_of_a_pipe_whose_index_comes_last_are_not_written_twice(host: Store) -> None:
    big = Layout.of(model := small_with(os.urandom(9 << 20)))

    streamed(host, big.reversed().tar())

    assert set(assert_store_whole(host.path).values()) == {model.digest}


def small_with(weights: bytes) -> Model:
    return model_from("big:1b", [("model", weights), ("template", b"shared")])


def test_a_folder_is_imported_as_its_archive_is(host: Store, tmp_path: Path, mistral: Model) -> None:
    with tarfile.open(written(tmp_path, Layout.of(mistral).tar())) as archive:
        archive.extractall(tmp_path / "layout", filter="data")

    assert brought(host, tmp_path / "layout") == {"mistral:7b"}
    assert set(assert_store_whole(host.path).values()) == {mistral.digest}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_is_read(host: Store, tmp_path: Path, format: int) -> None:  # noqa: A002 - tarfile's word
    content = Layout.of(small("one:1b")).tar(format=format, prefix="./")

    assert brought(host, written(tmp_path, content)) == {"one:1b"}


def test_a_bundle_whose_blobs_are_here_already_takes_none(store_path: Path, tmp_path: Path, mistral: Model) -> None:
    bundle = written(tmp_path, Layout.of(mistral).tar())

    ended = syncd(store_path, "import", "--json", str(bundle))

    assert ended.returncode == 0
    assert b'"current":true' in ended.stdout


def test_history_says_which_bundle_it_came_from(other: Path, tmp_path: Path, mistral: Model) -> None:
    bundle = written(tmp_path, Layout.of(mistral).tar())

    assert syncd(other, "import", str(bundle)).returncode == 0

    with Store.open(other, create=False) as store:
        assert store.models.history(ModelName.parse("mistral:7b"))[0].origin == f"bundle {bundle}"


# Names


def test_an_image_without_a_models_name_needs_one(host: Store, tmp_path: Path) -> None:
    bundle = written(tmp_path, Layout.of(small("one:1b"), refs=["latest"]).tar())

    with pytest.raises(InvalidManifestError, match="full name"):
        brought(host, bundle)

    assert brought(host, bundle, name=ModelName.parse("mine:1b")) == {"mine:1b"}


def test_one_of_several_models_is_taken_by_its_name(host: Store, tmp_path: Path) -> None:
    bundle = written(tmp_path, Layout.of(small("one:1b"), small("two:1b")).tar())

    with pytest.raises(NotFoundError, match="more than one") as error:
        brought(host, bundle, name=ModelName.parse("three:1b"))
    assert error.value.hint == "it holds one:1b, two:1b"

    assert brought(host, bundle, name=ModelName.parse("two:1b")) == {"two:1b"}


def test_a_list_of_one_manifest_counts_as_that_one(host: Store, tmp_path: Path) -> None:
    model = small("one:1b")
    nested = index_of([(model.manifest, None)])
    outer = index_of([(nested, FULL)], mediaType=INDEX_TYPE)
    layout = Layout.of(model).having("index.json", outer).having(member(digest_of(nested)), nested)

    assert brought(host, written(tmp_path, layout.tar())) == {"mistral:7b"}
    assert streamed(host, layout.reversed().tar()) == {"mistral:7b"}
    assert set(assert_store_whole(host.path).values()) == {model.digest}


# Rules


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize(
    "policy", [Policy(deny_names=Patterns(("*/one:*",))), Policy(max_size=MaxSize(100))], ids=["name", "size"]
)
def test_what_the_policy_refuses_does_not_come_in(host: Store, tmp_path: Path, policy: Policy, pipe: bool) -> None:
    content = Layout.of(small("one:1b")).tar()

    with pytest.raises(PolicyError):
        streamed(host, content, policy=policy) if pipe else brought(host, written(tmp_path, content), policy=policy)

    assert snapshot(host.path) == {}
    assert not list((host.path / ".syncd" / "staging").iterdir())


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_a_full_disk_is_said_before_anything_is_written(host: Store, tmp_path: Path, pipe: bool) -> None:
    content = Layout.of(small_with(os.urandom(5 << 20))).tar()
    floor = host.free_bytes() - (1 << 20)

    with pytest.raises(NoSpaceError):
        streamed(host, content, floor=floor) if pipe else brought(host, written(tmp_path, content), floor=floor)

    assert not list((host.path / ".syncd" / "staging").iterdir())


def test_a_pinned_name_keeps_its_version(host: Store, tmp_path: Path) -> None:
    first, second = small("one:1b", "first"), small("one:1b", "second")
    (tmp_path / "a").mkdir()
    brought(host, written(tmp_path / "a", Layout.of(first).tar()))
    name = ModelName.parse("one:1b")
    manifest = host.models.read(name)
    assert manifest is not None
    host.holds.put(Hold(name, manifest, 0.0, "somebody", "here"))

    with pytest.raises(HeldError):
        brought(host, written(tmp_path, Layout.of(second).tar()))

    assert set(assert_store_whole(host.path).values()) == {first.digest}


def test_another_version_takes_the_place_of_the_one_before(host: Store, tmp_path: Path) -> None:
    first, second = small("one:1b", "first"), small("one:1b", "second")
    brought(host, written(tmp_path, Layout.of(first).tar()))

    brought(host, written(tmp_path, Layout.of(second).tar()))

    assert set(assert_store_whole(host.path).values()) == {second.digest}


# Beside others


def test_eight_imports_of_one_bundle_at_once(other: Path, tmp_path: Path, mistral: Model, llava: Model) -> None:
    content = Layout.of(mistral, llava).tar()
    bundle = written(tmp_path, content)
    with ExitStack() as running:
        processes = []
        for number in range(8):
            if number % 2:
                cat = running.enter_context(subprocess.Popen(["cat", str(bundle)], stdout=subprocess.PIPE))
                assert cat.stdout is not None
                processes.append(started(other, "import", "-", streams=(cat.stdout.fileno(), None, None)))
                cat.stdout.close()
            else:
                processes.append(started(other, "import", str(bundle)))
            running.enter_context(processes[-1])
        ended = [(process.communicate(120), process.wait()) for process in processes]

    assert [code for _, code in ended] == [0] * 8, ended
    assert set(assert_store_whole(other).values()) == {mistral.digest, llava.digest}
    assert not unreferenced_blobs(other)
    assert not list((other / ".syncd" / "staging").iterdir())
    assert not list((other / ".syncd" / "leases").iterdir())


def test_a_running_daemon_serves_what_is_imported_beside_it(tmp_path: Path, mistral: Model) -> None:
    bundle = written(tmp_path, Layout.of(mistral).tar())
    daemon = RunningDaemon(tmp_path / "host")
    try:
        with daemon:
            ended = daemon.command("import", str(bundle))
            assert ended.returncode == 0, ended.stderr
            assert eventually(lambda: "mistral:7b" in daemon.command("list").stdout)
            out = tmp_path / "again.tar"
            assert daemon.command("export", "mistral:7b", "-o", str(out)).returncode == 0
    finally:
        daemon.stop(signal.SIGKILL)
    assert out.exists()
    assert mistral.digest in assert_store_whole(daemon.store).values()


def test_beside_a_daemon_it_says_how_servers_get_the_version_that_took_anothers_place(tmp_path: Path) -> None:
    first, second = small("one:1b", "first"), small("one:1b", "second")
    bundles = [tmp_path / "first.tar", tmp_path / "second.tar"]
    for bundle, model in zip(bundles, (first, second), strict=True):
        bundle.write_bytes(Layout.of(model).tar())
    daemon = RunningDaemon(tmp_path / "host")
    try:
        with daemon:
            new, changed, same = (daemon.command("import", str(one)) for one in (*bundles, bundles[1]))
    finally:
        daemon.stop(signal.SIGKILL)
    alone = syncd(daemon.store, "import", str(bundles[0]))

    assert [one.returncode for one in (new, changed, same, alone)] == [0, 0, 0, 0]
    assert "'syncd reload one:1b' has them load this one" in changed.stderr
    assert "syncd reload" not in f"{new.stderr}{same.stderr}{alone.stderr!r}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_becomes_the_owner_and_reads_and_writes_where_only_root_may(
    mistral: Model,
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        store = Path(made) / "store"
        store.mkdir()
        shutil.chown(store, "nobody", "nogroup")
        mine = Path(made) / "private"
        mine.mkdir(mode=0o700)
        bundle = written(mine, Layout.of(mistral).tar())
        bundle.chmod(0o600)

        taken = syncd(store, "import", str(bundle))
        assert taken.returncode == 0, taken.stderr
        given = syncd(store, "export", "mistral:7b", "-o", str(mine / "out.tar"))
        assert given.returncode == 0, given.stderr

        assert {path.owner() for path in (store / "blobs").iterdir()} == {"nobody"}
        folder = mine / "folder"
        for name, content in Layout.of(small("one:1b")).entries:
            (folder / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o600)
        closed = syncd(store, "import", str(folder))
        assert closed.returncode == 4
        assert f"'tar -C {folder} -c . | syncd import -'".encode() in closed.stderr
        shutil.rmtree(folder)
        assert (mine / "out.tar").owner() == "root"
        refused = syncd(store, "export", "absent:1b", "-o", str(mine / "none.tar"))
        assert refused.returncode == 3
        assert sorted(path.name for path in mine.iterdir()) == ["bundle.tar", "out.tar"]


def test_an_import_from_a_pipe_in_which_nothing_comes_can_be_interrupted(other: Path, mistral: Model) -> None:
    content = Layout.of(mistral).tar()
    assert len(content) // 2 > 1 << 16, "a pipe takes all of it: nobody has to be reading"
    reading, writing = os.pipe()
    with (
        os.fdopen(writing, "wb", buffering=0) as pipe,
        started(other, "import", "-", streams=(reading, None, None)) as it,
    ):
        os.close(reading)
        pipe.write(content[: len(content) // 2])
        it.send_signal(signal.SIGTERM)
        assert it.wait(30) == 128 + signal.SIGTERM

    assert snapshot(other) == {}
    assert not list((other / ".syncd" / "staging").iterdir())


def test_a_partial_of_a_pull_is_not_given_up_for_bytes_that_are_wrong(host: Store, tmp_path: Path) -> None:
    weights = os.urandom(CHUNK_SIZE + 1000)
    model = small_with(weights)
    blob = Descriptor("a/b", Digest.parse(model.weights), len(weights))
    with host.blobs.partials.stage(blob) as partial:
        partial.write((weights[:CHUNK_SIZE],), 0)
        journal = Journal(partial.open_journal(), blob)
        journal.read()
        journal.claim(0, blake3(weights[:CHUNK_SIZE]).digest())
        journal.close()
        path = partial.path
    wrong = Layout.of(model).having(member(model.weights), b"?" * len(weights))

    with pytest.raises(IntegrityError, match="damaged"):
        brought(host, written(tmp_path, wrong.tar()))

    assert path.read_bytes()[:CHUNK_SIZE] == weights[:CHUNK_SIZE]
    brought(host, written(tmp_path, Layout.of(model).tar()))
    assert set(assert_store_whole(host.path).values()) == {model.digest}


def test_a_bundle_that_is_not_there_is_not_found(other: Path, tmp_path: Path) -> None:
    ended = syncd(other, "import", str(tmp_path / "none.tar"))

    assert ended.returncode == 3
    assert not other.exists(), "a store was made for nothing"


@pytest.mark.parametrize("backwards", [False, True], ids=["index first", "index last"])
def test_a_big_blob_of_other_bytes_in_a_pipe_is_refused(host: Store, backwards: bool) -> None:
    model = small_with(os.urandom(5 << 20))
    layout = Layout.of(model).having(member(model.weights), b"?" * (5 << 20))

    with pytest.raises(ArchiveError, match="damaged"):
        streamed(host, (layout.reversed() if backwards else layout).tar())

    assert snapshot(host.path) == {}
    assert not list((host.path / ".syncd" / "staging").iterdir())


def test_of_a_pipe_that_says_first_what_is_in_it_only_that_is_kept(host: Store) -> None:
    model, stray = small("one:1b"), os.urandom(5 << 20)
    out, writer = piped(Layout.of(model).having(member(digest_of(stray)), stray).tar())
    received = Received(host, None, NO_POLICY, 0)
    try:
        received.take(Stream(out), Path("a pipe"), on_bytes=lambda _: None, cancelled=lambda: False)

        assert received.size_of(Digest.parse(model.weights)) == model.weights_size
        assert received.size_of(Digest.parse(digest_of(stray))) is None
    finally:
        received.close()
        os.close(out)
        writer.join(30)
