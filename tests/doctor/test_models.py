"""Each fault of Ollama's trees, made for real: found, explained, mended, and gone then; and nothing is lost by it."""

import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.oci.digest import Digest
from syncd.store.root import Store
from syncd.store.trees import Oddity
from tests.doctor.world import Patient, patient_at, visit
from tests.pull.world import as_root, blob_file, model_name, pulled, tag_file
from tests.repair.world import Scene, flipped, truncated, verified
from tests.support.content import whole
from tests.support.daemon import RunningDaemon
from tests.support.models import build_model
from tests.support.ollama_store import age
from tests.support.oracle import snapshot
from tests.support.registry import ScriptedRegistry

Fault = Callable[[Patient], object]


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)


def colon(patient: Patient) -> None:
    """As an Ollama of long ago named blobs: under that name only."""
    patient.weights.rename(patient.weights.with_name(patient.model.weights))
    (patient.path / ".syncd/keep" / patient.weights.name).unlink()


def stranger(patient: Patient) -> None:
    content = b"no model names this"
    (patient.path / "blobs" / f"sha256:{Digest.of(content).hex}").write_bytes(content)


def lost(patient: Patient) -> None:
    patient.weights.unlink()
    (patient.path / ".syncd/keep" / patient.weights.name).unlink()


def gone_from_blobs(patient: Patient) -> None:
    patient.weights.unlink()


def fifo_for_a_blob(patient: Patient) -> None:
    patient.weights.unlink()
    os.mkfifo(patient.weights)


def deep_stray(patient: Patient) -> None:
    folder = patient.tag.parent / "v2" / "deeper"
    folder.mkdir(parents=True)
    (folder / "file").write_text("four levels and one more")


def unfinished(patient: Patient) -> None:
    for name in (f"{patient.weights.name}-partial", f"{patient.weights.name}-partial-0", "sha256-1234567"):
        (patient.path / "blobs" / name).write_bytes(b"half")
        age(patient.path / "blobs" / name)


def chmod(mode: int, of: Callable[[Patient], Path]) -> Fault:
    return lambda patient: of(patient).chmod(mode)


# What is done, by which id it is found, and what is said of it.
FAULTS: dict[str, tuple[Fault, str, str]] = {
    "a stray file in blobs": (lambda it: (it.path / "blobs/notes.txt").write_text("x"), "stray-file", "no model"),
    "a dotfile beside tags": (lambda it: it.tag.with_name(".DS_Store").write_text("x"), "stray-file", "no model"),
    "a file above the models": (lambda it: (it.path / "manifests/README").write_text("x"), "stray-file", "no model"),
    "a folder in blobs": (lambda it: (it.path / "blobs/old").mkdir(), "stray-folder", "folder"),
    "a folder that is no tag": (deep_stray, "stray-folder", "folder"),
    "an empty folder": (lambda it: (it.path / "manifests/hf.co/me").mkdir(parents=True), "empty-folder", "empty"),
    "what an Ollama left": (unfinished, "unfinished-file", "left by an Ollama"),
    "a FIFO in blobs": (lambda it: os.mkfifo(it.path / "blobs/fifo"), "special-file", "FIFO"),
    "a FIFO beside tags": (lambda it: os.mkfifo(it.tag.with_name("fifo")), "special-file", "FIFO"),
    "a FIFO for a blob": (fifo_for_a_blob, "special-file", "FIFO"),
    "a socket": (lambda it: bind(it.path / "blobs/socket"), "special-file", "socket"),
    "a dead link in blobs": (lambda it: (it.path / "blobs/link").symlink_to("/nowhere"), "dead-link", "nowhere"),
    "a dead link as a tag": (lambda it: it.tag.with_name("link").symlink_to("nothing"), "dead-link", "nowhere"),
    "a link to itself": (lambda it: (it.path / "manifests/loop").symlink_to("loop"), "dead-link", "nowhere"),
    "a colon in a blob's name": (colon, "colon-in-name", "colon"),
    "a colon, and no model": (stranger, "colon-in-name", "colon"),
    "an empty manifest": (lambda it: os.truncate(it.tag, 0), "empty-manifest", "mistral:7b has a manifest of 0 bytes"),
    "a torn manifest": (lambda it: os.truncate(it.tag, 100), "broken-manifest", "cannot be used"),
    "a manifest of zeros": (lambda it: it.tag.write_bytes(bytes(400)), "broken-manifest", "cannot be used"),
    "a blob that others cannot read": (chmod(0o400, lambda it: it.weights), "not-readable", "0400, and should be 0444"),
    "a closed manifest": (chmod(0o600, lambda it: it.tag), "not-readable", "0600, and should be 0644"),
    "a closed folder": (chmod(0o700, lambda it: it.tag.parent), "not-readable", "0700, and should be 0755"),
    "a shut folder": (chmod(0o000, lambda it: it.tag.parents[1]), "not-readable", "0000, and should be 0755"),
    "a blob that all can write": (chmod(0o666, lambda it: it.weights), "writable-by-others", "should be 0444"),
    "a folder that all can write": (chmod(0o777, lambda it: it.tag.parent), "writable-by-others", "should be 0755"),
    "blobs that all can write": (chmod(0o777, lambda it: it.path / "blobs"), "writable-by-others", "should be 0755"),
    "tags that all can write": (chmod(0o777, lambda it: it.path / "manifests"), "writable-by-others", "should be 0755"),
    "a blob that was unlinked": (gone_from_blobs, "missing-blob", "mistral:7b needs it"),
    "a blob that is nowhere": (lost, "missing-blob", "mistral:7b needs it"),
    "a truncated blob": (lambda it: truncated(1000)(it.weights), "damaged-blob", "another size"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_found_explained_mended_and_gone(patient: Patient, fault: str) -> None:
    make, kind, sentence = FAULTS[fault]
    make(patient)

    seen = await visit(patient.path, fix=True)

    assert kind in seen.bad
    found = next(one for one in seen.found if one.kind.id == kind)
    assert sentence in found.what
    assert found.mends
    assert all(one.done for one in seen.treated), seen.treated
    assert not seen.left
    assert not (await visit(patient.path)).bad
    patient.assert_whole()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_look_and_a_plan_change_nothing(patient: Patient, fault: str) -> None:
    FAULTS[fault][0](patient)
    before = {} if "shut" in fault and os.geteuid() else snapshot_of_all(patient.path)

    seen = await visit(patient.path)
    planned = await visit(patient.path, fix=True, dry_run=True)

    assert seen.bad == planned.bad == planned.left
    assert not seen.planned
    assert planned.planned
    assert not planned.treated
    assert ({} if not before else snapshot_of_all(patient.path)) == before


def snapshot_of_all(path: Path) -> dict[str, object]:
    """But for FIFOs and sockets, which are none of the oracle's business."""
    return {place: found for place, found in snapshot(path).items() if "fifo" not in place}


async def test_all_faults_at_once_are_mended_in_one_call(patient: Patient) -> None:
    alone = {"a blob that is nowhere", "a truncated blob", "a FIFO for a blob", "a colon in a blob's name"}
    alone |= {"a blob that was unlinked", "a torn manifest", "a manifest of zeros", "a closed manifest"}
    alone |= {"a closed folder", "a shut folder"}
    for name, (make, *_) in FAULTS.items():
        if name not in alone:
            make(patient)

    seen = await visit(patient.path, fix=True)

    assert not seen.left
    assert seen.diagnosis.mended >= len(FAULTS) - len(alone) - 3  # some modes were set twice
    patient.assert_whole()


async def test_what_is_moved_is_in_quarantine_byte_by_byte(patient: Patient) -> None:
    (patient.path / "blobs/notes.txt").write_text("an afternoon's work")
    deep_stray(patient)
    stranger(patient)
    wrong = patient.path / "blobs" / ("sha256:" + "0" * 64)
    wrong.write_text("not zeros")

    await visit(patient.path, fix=True)

    kept = {path.name.rpartition(".")[0]: path for path in patient.quarantined}
    assert kept["notes.txt"].read_text() == "an afternoon's work"
    assert kept[wrong.name].read_text() == "not zeros"
    (folder,) = [path for name, path in kept.items() if name.endswith("+v2")]
    assert (folder / "deeper/file").read_text() == "four levels and one more"
    assert (patient.path / "blobs" / blob_file(str(Digest.of(b"no model names this")))).stat().st_mode & 0o777 == 0o444


async def test_a_manifest_comes_back_from_the_history_without_the_network(patient: Patient) -> None:
    os.truncate(patient.tag, 0)
    patient.registry.forget_requests()

    seen = await visit(patient.path, fix=True)

    assert [one.what for one in seen.treated] == ["what was published is back"]
    assert not patient.quarantined
    assert not patient.registry.requests
    patient.assert_whole()


async def test_a_broken_manifest_that_nobody_knows_is_kept_in_quarantine(patient: Patient) -> None:
    unknown = patient.path / "manifests/registry.ollama.ai/library/unknown/latest"
    unknown.parent.mkdir(parents=True)
    unknown.write_text('{"half":')

    seen = await visit(patient.path, fix=True)

    (treated,) = seen.treated
    assert "'syncd pull unknown:latest' brings the model again" in treated.what
    (kept,) = [path for top in patient.quarantined for path in top.rglob("*") if path.is_file()]
    assert kept.read_text() == '{"half":'
    assert not unknown.parent.exists()
    patient.assert_whole()


async def test_a_list_of_manifests_is_told_of_as_that_and_left_alone(patient: Patient) -> None:
    listed = patient.path / "manifests/registry.ollama.ai/library/many/latest"
    listed.parent.mkdir(parents=True)
    index = '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
    listed.write_text(index)
    listed.chmod(0o644)

    seen = await visit(patient.path, fix=True)

    (found,) = [one for one in seen.found if one.subject.endswith("many/latest")]
    assert found.kind.id == "manifest-list"
    assert "not one model" in found.what
    assert not seen.treated
    assert listed.read_text() == index
    assert not patient.quarantined


async def test_two_names_of_one_blob_stay_one_blob_and_one_in_quarantine(patient: Patient) -> None:
    twin = patient.weights.with_name(patient.model.weights)
    shutil.copy(patient.weights, twin)

    await visit(patient.path, fix=True)

    assert [path.read_bytes() for path in patient.quarantined] == [patient.weights.read_bytes()]
    patient.assert_whole()


async def test_what_an_ollama_may_be_at_is_left_alone(patient: Patient) -> None:
    young = patient.path / "blobs" / f"{patient.weights.name}-partial"
    young.write_bytes(b"half")

    seen = await visit(patient.path, fix=True)

    assert seen.of("unfinished-file").what == "an Ollama may be at it: it is younger than an hour"
    assert not seen.planned
    assert young.read_bytes() == b"half"


async def test_parts_that_were_through_hours_ago_stay_while_their_download_goes_on(patient: Patient) -> None:
    whole = patient.path / "blobs" / f"{patient.weights.name}-partial"
    parts = [whole.with_name(f"{whole.name}-{number}") for number in (0, 1)]
    for path in (whole, *parts):
        path.write_bytes(b"half")
    for part in parts:
        age(part)

    seen = await visit(patient.path, fix=True)

    assert not seen.planned
    assert all(part.exists() for part in parts)


async def test_a_download_that_went_on_after_the_look_is_left_alone(patient: Patient) -> None:
    whole = patient.path / "blobs" / f"{patient.weights.name}-partial"
    part = whole.with_name(f"{whole.name}-0")
    for path in (whole, part):
        path.write_bytes(b"half")
        age(path)

    with Store.open(patient.path, create=False) as store:
        spots = [one for one in store.trees.odd(os.geteuid()) if one.oddity is Oddity.UNFINISHED]
        whole.write_bytes(b"more than half")
        taken = [store.trees.take(spot) for spot in spots]

    assert taken == [False, False]
    assert part.exists()


async def test_a_name_as_long_as_names_can_be_is_moved(patient: Patient) -> None:
    long = patient.path / "blobs" / ("漢" * 85)
    long.write_bytes(b"no blob")

    await visit(patient.path, fix=True)

    assert [path.read_bytes() for path in patient.quarantined] == [b"no blob"]


async def test_a_link_that_a_server_can_follow_is_told_of_and_left(patient: Patient, tmp_path: Path) -> None:
    elsewhere = tmp_path / "big-disk"
    shutil.copy(patient.weights, elsewhere)
    patient.weights.unlink()
    patient.weights.symlink_to(elsewhere)

    seen = await visit(patient.path, fix=True)

    assert seen.of("link").what == f"it leads to {elsewhere}"
    assert not seen.planned
    assert seen.left == ["link"]
    assert patient.weights.read_bytes() == elsewhere.read_bytes()


@as_root
async def test_a_link_to_where_the_owner_may_not_look_is_not_taken_for_dead(registry: ScriptedRegistry) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        private = Path(folder) / "private"
        machine = RunningDaemon(Path(folder) / "host")
        machine.folder.mkdir()
        machine.write_settings("")
        patient = await patient_at(registry, machine.store)
        link = patient.path / "blobs" / "linked"
        private.mkdir(mode=0o700)
        (private / "there").write_text("a server that runs as root gets here")
        link.symlink_to(private / "there")
        Path(folder).chmod(0o755)
        for path in (patient.path, *patient.path.rglob("*")):
            os.lchown(path, 1234, 1234)

        told = machine.command("doctor", "--offline", "--fix")

        assert "it leads to where this user may not look" in told.stdout
        assert link.is_symlink()


async def test_nothing_is_followed_out_of_the_store(patient: Patient, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub" / "file").write_text("not ours")
    (outside / "sub").chmod(0o700)
    (patient.path / "manifests/linked").symlink_to(outside)
    (patient.path / "blobs/linked").symlink_to(outside)

    seen = await visit(patient.path, fix=True)

    assert seen.left == ["link", "link"]
    assert (outside / "sub").stat().st_mode & 0o777 == 0o700
    assert (outside / "sub/file").read_text() == "not ours"


@pytest.mark.parametrize("spelling", ["Mistral:7b", "mistral:7B", "library2/Mistral:7b", "hf.co/me/x:7B"])
async def test_names_that_differ_in_case_only_are_told_of_with_both_spellings(patient: Patient, spelling: str) -> None:
    other = tag_file(patient.path, spelling)
    other.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(patient.tag, other)

    seen = await visit(patient.path, fix=True)

    found = seen.of("case-conflict")
    assert found.subject in {str(model_name(spelling)), patient.model.name}
    assert re.search(r"'(.*)' differs from '(.*)' of \S+ in case only", found.what)
    assert not seen.planned
    assert other.exists()


async def test_what_was_found_rotten_is_mended_and_what_nobody_has_stays_published(
    patient: Patient,
) -> None:
    flipped(5000)(patient.weights)
    await verified(Scene(patient.registry, patient.model, patient.path))
    right = whole(patient.model.blobs[patient.model.weights])
    patient.registry.remove_blob(patient.model.weights)

    seen = await visit(patient.path, fix=True)

    assert seen.of("damaged-blob").subject == patient.model.weights
    assert seen.left == ["damaged-blob"]
    assert [one.done for one in seen.treated] == [False]
    assert patient.tag.exists()
    assert len(patient.weights.read_bytes()) == len(right)


async def test_a_doctor_beside_a_pull_finds_a_store_in_order(patient: Patient) -> None:
    """What is being fetched is no fault."""
    second = patient.registry.add(build_model("llama3.2:3b"))
    await pulled(second.name, patient.path)

    assert not (await visit(patient.path, fix=True)).bad


@as_root
async def test_files_of_another_user_are_told_of_once(patient: Patient) -> None:
    os.chown(patient.weights, 1234, 1234)
    os.chown(patient.tag, 1234, 1234)
    patient.tag.chmod(0o600)

    seen = await visit(patient.path, fix=True)

    found = seen.of("foreign-owner")
    assert found.subject == "uid 1234"
    assert found.what.startswith("2 files and folders belong to it")
    assert not seen.of("not-readable").mends, "only its owner may change its mode"


async def test_a_thousand_strays_take_seconds(patient: Patient) -> None:
    for number in range(1000):
        (patient.path / "blobs" / f"stray-{number}").write_text("x")
    begun = time.monotonic()

    seen = await visit(patient.path, fix=True)

    assert seen.diagnosis.mended == 1000
    assert time.monotonic() - begun < 120
    patient.assert_whole()
