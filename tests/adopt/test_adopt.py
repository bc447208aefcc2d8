"""Models of other stores become ours: whole, once, and without harm to where they came from."""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.cli.main import run
from syncd.download.journal import Journal, claimed_bytes
from syncd.errors import ExitCode, IntegrityError, NoSpaceError
from syncd.jobs.adopt import Adopted, AdoptMeans, KeptError, adopt
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.store.hands import SourceDesk
from syncd.store.intake import Way
from syncd.store.root import Store
from syncd.store.source import SourceStore
from tests.adopt.world import Ending, adopted, blob_file, lay, photograph, planned, tag_file
from tests.support.models import MIB, Model, build_model, model_from, synthetic_model
from tests.support.oracle import assert_store_whole

FULL = "registry.ollama.ai/library/"


def took(ending: Ending, way: Way) -> int:
    """Bytes that came this way."""
    assert isinstance(ending, Adopted), ending
    return ending.ways.get(way, 0)


def published(*models: Model) -> dict[str, str]:
    return {FULL + model.name: model.digest for model in models}


async def test_models_are_adopted_whole_and_their_manifests_byte_for_byte(
    store: Store, source: Path, mistral: Model, llava: Model
) -> None:
    await adopted(store, source)

    assert assert_store_whole(store.path) == published(mistral, llava)
    assert tag_file(store.path, "mistral:7b").read_bytes() == mistral.manifest


async def test_a_source_that_stays_is_the_same_to_the_byte_and_to_the_mtime(store: Store, source: Path) -> None:
    before = photograph(source)

    await adopted(store, source)

    assert photograph(source) == before


async def test_adopting_twice_takes_nothing_twice(store: Store, source: Path, mistral: Model) -> None:
    await adopted(store, source)

    again = (await adopted(store, source))["mistral:7b"]

    assert isinstance(again, Adopted)
    assert again.outcome.current
    assert not again.ways
    assert mistral.digest == str(again.outcome.digest)


async def test_two_sources_with_one_model_give_its_bytes_once(
    store: Store, tmp_path: Path, source: Path, mistral: Model
) -> None:
    other = lay(tmp_path / "other", mistral)

    endings = await adopted(store, source, other)

    assert took(endings["mistral:7b"], Way.COPY) + took(endings["llava:7b"], Way.COPY) == sum(
        path.stat().st_size for path in (source / "blobs").iterdir()
    )


async def test_the_history_tells_where_a_model_came_from(store: Store, source: Path) -> None:
    await adopted(store, source)

    entry = store.models.history(ModelName.parse("mistral:7b"))[0]

    assert entry.origin == f"adopted from {source}"


async def test_a_home_or_a_volume_that_has_its_store_in_models_is_understood(
    store: Store, tmp_path: Path, mistral: Model
) -> None:
    lay(tmp_path / "volume" / "models", mistral)

    await adopted(store, tmp_path / "volume")

    assert assert_store_whole(store.path) == published(mistral)


async def test_blobs_with_the_colon_of_old_releases_are_taken(store: Store, tmp_path: Path, mistral: Model) -> None:
    source = lay(tmp_path / "source", mistral)
    blob_file(source, mistral.weights).rename(source / "blobs" / mistral.weights)

    await adopted(store, source)

    assert assert_store_whole(store.path) == published(mistral)


# What is wrong in a source


async def test_a_corrupt_blob_is_never_taken_and_the_other_models_are(
    store: Store, source: Path, mistral: Model, llava: Model
) -> None:
    path = blob_file(source, mistral.weights)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    before = photograph(source)

    endings = await adopted(store, source)

    assert isinstance(endings["mistral:7b"], IntegrityError)
    assert assert_store_whole(store.path) == published(llava)
    assert not blob_file(store.path, mistral.weights).exists()
    assert not list((store.path / ".syncd/staging").glob("*.partial"))
    assert photograph(source) == before


async def test_a_blob_that_is_corrupt_in_one_source_comes_from_the_other(
    store: Store, tmp_path: Path, source: Path, mistral: Model, llava: Model
) -> None:
    path = blob_file(source, mistral.weights)
    path.write_bytes(bytes(path.stat().st_size))
    other = lay(tmp_path / "other", mistral)

    await adopted(store, source, other)

    assert assert_store_whole(store.path) == published(mistral, llava)


async def test_a_corrupt_file_that_would_have_been_moved_stays_with_its_owner_and_mode(
    store: Store, source: Path, mistral: Model
) -> None:
    path = blob_file(source, mistral.weights)
    path.write_bytes(bytes(path.stat().st_size))
    path.chmod(0o640)
    before = photograph(source)

    endings = await adopted(store, source, delete=True)

    assert isinstance(endings["mistral:7b"], IntegrityError)
    after = photograph(source)
    assert after[str(path)] == before[str(path)]
    assert str(tag_file(source, "mistral:7b")) in after


@pytest.mark.parametrize("delete", [False, True], ids=["copied", "moved"])
async def test_an_unfinished_pulls_bytes_survive_a_corrupt_source(
    store: Store, source: Path, mistral: Model, delete: bool
) -> None:
    manifest = Manifest.parse(mistral.manifest)
    blob = manifest.weights[0]
    with store.blobs.partials.stage(blob) as partial:
        journal = Journal(partial.open_journal(), blob)
        journal.read()
        journal.claim(0, bytes(32))
        journal.close()
    blob_file(source, mistral.weights).write_bytes(bytes(blob.size))

    await adopted(store, source, delete=delete)

    assert claimed_bytes(store.blobs.partials.read_journal(blob.digest) or b"", blob) == blob.size


def _link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    path.rename(secret)
    path.symlink_to(secret)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _partial(path: Path) -> None:
    path.rename(path.with_name(path.name + "-partial"))


def _huge(path: Path) -> None:
    path.write_bytes(b" " * (5 * MIB))


def _no_json(path: Path) -> None:
    path.write_bytes(b"{")


@pytest.mark.parametrize("spoil", [_link, _fifo, _folder, _cut, _longer, _partial, Path.unlink])
def test_what_is_no_whole_blob_is_reported_and_its_model_is_not_taken(
    store: Store,
    source: Path,
    mistral: Model,
    llava: Model,
    spoil: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(blob_file(source, mistral.weights))
    before = photograph(source)

    code = run(["adopt", "--json", "--store", str(store.path), str(source)])

    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = [event for event in events if event["event"] == "error"]
    assert code == ExitCode.INTEGRITY
    assert [event["name"] for event in failed] == ["mistral:7b"]
    assert mistral.weights in failed[0]["message"]
    assert assert_store_whole(store.path) == published(llava)
    assert photograph(source) == before


@pytest.mark.parametrize("spoil", [_link, _fifo, _huge, _no_json])
def test_what_is_no_manifest_is_reported_and_the_others_are_taken(
    store: Store,
    source: Path,
    llava: Model,
    spoil: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(tag_file(source, "mistral:7b"))

    code = run(["adopt", "--store", str(store.path), str(source)])

    assert code == ExitCode.INTEGRITY
    assert "manifests/registry.ollama.ai/library/mistral/7b is no manifest" in capsys.readouterr().err
    assert assert_store_whole(store.path) == published(llava)


def test_a_folder_of_manifests_behind_a_link_is_reported_and_not_followed(
    store: Store, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = source / "manifests/registry.ollama.ai"
    host.rename(tmp_path / "elsewhere")
    host.symlink_to(tmp_path / "elsewhere")

    assert run(["adopt", "--store", str(store.path), str(source)]) == ExitCode.INTEGRITY

    assert "manifests/registry.ollama.ai" in capsys.readouterr().err
    assert assert_store_whole(store.path) == {}


def test_of_two_names_that_differ_only_in_case_one_is_taken(
    store: Store, tmp_path: Path, mistral: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lay(tmp_path / "source", mistral)
    other = tag_file(source, "Mistral:7b")
    other.parent.mkdir()
    other.write_bytes(mistral.manifest)

    assert run(["adopt", "--store", str(store.path), str(source)]) == ExitCode.USAGE

    assert len(assert_store_whole(store.path)) == 1
    assert "differs only in case" in capsys.readouterr().err


# What the store has already


def test_another_version_that_is_published_stays_and_so_does_the_source(
    store: Store, tmp_path: Path, mistral: Model
) -> None:
    asyncio.run(adopted(store, lay(tmp_path / "first", mistral)))
    older = build_model("mistral:7b", 64 * 1024, seed=2)
    second = lay(tmp_path / "second", older)
    before = photograph(second)

    code = run(["adopt", "--delete-source", "--store", str(store.path), str(second)])

    assert code == ExitCode.FAILED
    assert assert_store_whole(store.path) == published(mistral)
    assert photograph(second) == before


async def test_a_version_that_is_published_after_the_plan_stays(store: Store, tmp_path: Path, mistral: Model) -> None:
    older = lay(tmp_path / "older", build_model("mistral:7b", 64 * 1024, seed=2))
    with SourceStore.open(lay(tmp_path / "newer", mistral)) as newer:
        desk = SourceDesk.own([newer])
        plan = planned(store, desk, [newer], delete=True)
        await adopted(store, older)
        means = AdoptMeans(store=store, desk=desk, floor=0, delete=True)

        with pytest.raises(KeptError, match="another version"):
            await adopt(plan.models[0], plan, means, lambda _: None, set())

    assert tag_file(tmp_path / "newer", "mistral:7b").exists()


def test_the_store_itself_is_refused_as_a_source(
    store: Store, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(adopted(store, source))

    assert run(["adopt", "--store", str(store.path), str(store.path)]) == ExitCode.USAGE

    assert "is the store itself" in capsys.readouterr().err


async def test_bytes_that_an_ollama_left_in_the_store_are_hashed_there_and_mended_from_the_source(
    store: Store, source: Path, mistral: Model, llava: Model
) -> None:
    left = blob_file(store.path, mistral.weights)
    left.write_bytes(bytes(mistral.weights_size))

    await adopted(store, source)

    assert assert_store_whole(store.path) == published(mistral, llava)


# Room


async def test_a_disk_that_is_too_full_is_told_before_anything_is_taken(store: Store, source: Path) -> None:
    endings = await adopted(store, source, floor=store.free_bytes())

    assert all(isinstance(ending, NoSpaceError) for ending in endings.values())
    assert not list((store.path / ".syncd/staging").iterdir())
    assert not list((store.path / "blobs").iterdir())


async def test_a_full_disk_does_not_keep_models_from_being_moved(
    store: Store, source: Path, mistral: Model, llava: Model
) -> None:
    await adopted(store, source, delete=True, floor=store.free_bytes())

    assert assert_store_whole(store.path) == published(mistral, llava)


# --delete-source


async def test_moving_takes_the_very_files_and_leaves_an_empty_store(
    store: Store, source: Path, mistral: Model, llava: Model
) -> None:
    inode = blob_file(source, mistral.weights).stat().st_ino

    endings = await adopted(store, source, delete=True)

    moved = blob_file(store.path, mistral.weights).stat()
    assert moved.st_ino == inode
    assert moved.st_nlink == 2  # blobs/ and keep/
    assert took(endings["mistral:7b"], Way.COPY) == 0
    assert assert_store_whole(store.path) == published(mistral, llava)
    assert not [path for path in source.rglob("*") if path.is_file()]
    assert not list((source / "manifests").iterdir())


async def test_what_another_model_of_the_source_still_needs_stays_there(
    store: Store, source: Path, mistral: Model, llava: Model
) -> None:
    template = mistral.layers("template")[0]
    assert template in llava.blobs
    blob_file(source, llava.weights).unlink()

    await adopted(store, source, delete=True)

    assert assert_store_whole(store.path) == published(mistral)
    assert blob_file(source, template).exists()
    assert not blob_file(source, mistral.weights).exists()


async def test_a_file_with_another_name_elsewhere_is_copied_not_moved(
    store: Store, tmp_path: Path, source: Path, mistral: Model
) -> None:
    weights = blob_file(source, mistral.weights)
    os.link(weights, tmp_path / "kept by somebody")
    inode = weights.stat().st_ino

    await adopted(store, source, delete=True)

    assert blob_file(store.path, mistral.weights).stat().st_ino != inode
    assert (tmp_path / "kept by somebody").stat().st_mode & 0o777 != 0o444


async def test_a_file_that_somebody_can_still_write_into_is_copied_not_moved(
    store: Store, source: Path, mistral: Model, llava: Model
) -> None:
    weights = blob_file(source, mistral.weights)
    inode = weights.stat().st_ino
    with weights.open("r+b") as writer:
        await adopted(store, source, delete=True)
        writer.write(b"too late")

    assert blob_file(store.path, mistral.weights).stat().st_ino != inode
    assert assert_store_whole(store.path) == published(mistral, llava)


async def test_no_blob_of_a_source_goes_while_one_of_its_manifests_cannot_be_read(
    store: Store, source: Path, mistral: Model, llava: Model
) -> None:
    tag_file(source, "llava:7b").write_bytes(b"broken")

    ending = (await adopted(store, source, delete=True))["mistral:7b"]

    assert isinstance(ending, Adopted)
    assert "cannot be read" in ending.left[0]
    assert blob_file(source, mistral.weights).exists()
    assert not tag_file(source, "mistral:7b").exists()
    assert blob_file(source, llava.weights).exists()


async def test_what_a_killed_run_left_in_the_source_goes_with_the_next_one(store: Store, source: Path) -> None:
    await adopted(store, source)
    tag_file(source, "mistral:7b").unlink()  # as far as a killed --delete-source got

    await adopted(store, source, delete=True)

    assert not list((source / "blobs").iterdir())


async def test_what_the_store_does_not_have_stays_in_the_source(store: Store, source: Path) -> None:
    stray = source / "blobs" / f"sha256-{hashlib.sha256(b'mine').hexdigest()}"
    stray.write_bytes(b"mine")

    await adopted(store, source, delete=True)

    assert [path.name for path in (source / "blobs").iterdir()] == [stray.name]


# How it is told


def test_a_dry_run_says_what_would_be_done_and_makes_not_even_the_store(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = photograph(source)

    code = run(["adopt", "--dry-run", "--json", "--store", str(tmp_path / "none"), str(source)])

    event = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {model["name"]: model["decision"] for model in event["models"]} == {
        "mistral:7b": "adopt",
        "llava:7b": "adopt",
    }
    assert event["bytes"]["copy"] == sum(path.stat().st_size for path in (source / "blobs").iterdir())
    assert not (tmp_path / "none").exists()
    assert photograph(source) == before


def test_a_volume_is_found_by_its_name(tmp_path: Path, mistral: Model, capsys: pytest.CaptureFixture[str]) -> None:
    lay(tmp_path / "volumes" / "ollama-3" / "_data" / "models", mistral)
    arguments = ["adopt", "--volumes", str(tmp_path / "volumes"), "--store", str(tmp_path / "store")]

    assert run([*arguments, "ollama-3"]) == 0
    assert assert_store_whole(tmp_path / "store") == published(mistral)
    assert run([*arguments, "ollama-4"]) == ExitCode.NOT_FOUND
    assert "ollama-4: neither a folder here nor a Docker volume" in capsys.readouterr().err


def test_partial_downloads_are_listed_and_stay(store: Store, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partial = source / "blobs" / f"sha256-{'a' * 64}-partial"
    partial.write_bytes(b"half")

    assert run(["adopt", "--delete-source", "--store", str(store.path), str(source)]) == 0

    assert f"{partial}: partial download" in capsys.readouterr().err
    assert partial.exists()


def test_a_stub_for_a_hosted_model_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub = model_from("gpt-oss:120b-cloud", [("license", b"MIT")], {"remote_host": "https://ollama.com:443"})
    source = lay(tmp_path / "source", stub)

    assert run(["adopt", "--dry-run", "--store", str(tmp_path / "store"), str(source)]) == 0

    assert "a stub for a hosted model" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "manifests"])
def test_a_folder_without_a_store_is_not_found(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty" / content).mkdir(parents=True)

    assert run(["adopt", "--store", str(tmp_path / "store"), str(tmp_path / "empty")]) == ExitCode.NOT_FOUND

    assert "there is no Ollama store in it" in capsys.readouterr().err


# Reflinks


async def test_where_the_file_system_can_blocks_are_shared_and_take_no_room(btrfs: Path) -> None:
    model = synthetic_model(weights_bytes=40 * MIB)
    source = lay(btrfs / "source", model)
    with Store.open(btrfs / "store", create=True) as store:
        os.sync()
        before = store.free_bytes()
        endings = await adopted(store, source)
        os.sync()
        assert took(endings["mistral:7b"], Way.REFLINK) == model.size
        assert before - store.free_bytes() < model.size // 2
    assert assert_store_whole(btrfs / "store") == published(model)
