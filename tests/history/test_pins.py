"""Pins files: another host holds exactly the same bytes, whatever tags and registries do."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncd.errors import ConfigurationError
from syncd.jobs.pins import Pin, decoded, encoded, pins_of
from syncd.oci.manifest import Manifest
from tests.history.world import refused, run, told, version, versions, visible
from tests.pull.world import model_name, pulled, tag_file
from tests.support.daemon import RunningDaemon, eventually
from tests.support.models import build_model
from tests.support.registry import ModelHandle, ScriptedRegistry

FILE = Path("pins.json")


def another(tmp_path: Path, settings: str) -> RunningDaemon:
    host = RunningDaemon(tmp_path / "another")
    host.folder.mkdir()
    host.write_settings(settings)
    return host


def pin_of(handle: ModelHandle) -> Pin:
    return Pin(model_name(handle.name), Manifest.parse(handle.manifest))


async def test_another_host_holds_the_same_bytes_though_the_tag_has_moved_and_no_manifest_is_there_by_digest(
    ollama_registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    (first,) = await versions(ollama_registry, host.store, 1)
    assert told(host, "pin", "-o", str(tmp_path / FILE))["pinned"] == {first.name: first.digest}
    version(ollama_registry, 2)
    other = another(tmp_path, f'pins = "{tmp_path / FILE}"\n[[models]]\nname = "{first.name}"')
    ollama_registry.forget_requests()

    with other:
        eventually(lambda: other.model(f"{first.name}@{first.digest}")["state"] == "published")
        assert other.metric("syncd_pin_drift") == 0
        assert other.status()["pins"] == {"file": str(tmp_path / FILE), "models": 1, "drift": []}

    assert visible(other.store) == {first.name: first.digest}
    assert tag_file(other.store, first.name).read_bytes() == first.manifest
    assert not ollama_registry.manifest_requests()


async def test_a_pull_takes_the_pinned_version_and_another_one_is_refused_until_it_is_released(
    ollama_registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    (first,) = await versions(ollama_registry, host.store, 1)
    run(host, "pin", first.name, "-o", str(tmp_path / FILE))
    second = version(ollama_registry, 2)
    other = another(tmp_path, f'pins = "{tmp_path / FILE}"')

    run(other, "pull", first.name)
    assert visible(other.store) == {first.name: first.digest}
    error = refused(other, "pull", f"{first.name}@{second.digest}", code=8)
    assert f"is pinned by {tmp_path / FILE}" in error
    assert f"'syncd unpin {first.name}' releases it" in error

    assert told(other, "unpin", first.name)["from_file"] == [first.name]
    run(other, "pull", first.name)
    assert visible(other.store) == {first.name: second.digest}


async def test_a_model_that_the_pins_file_alone_names_is_held_too(
    registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    (first,) = await versions(registry, host.store, 1)
    run(host, "pin", "-o", str(tmp_path / FILE))
    other = another(tmp_path, f'pins = "{tmp_path / FILE}"')

    with other:
        eventually(lambda: other.model(f"{first.name}@{first.digest}")["state"] == "published")
        assert str(tmp_path / FILE) in refused(other, "rm", first.name, code=8)


async def test_the_pins_of_one_store_are_left_alone_by_what_is_done_to_another(
    registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    (first,) = await versions(registry, host.store, 1)
    run(host, "pin", "-o", str(tmp_path / FILE))
    before = (tmp_path / FILE).read_bytes()
    other = registry.add(build_model("codellama:7b"))
    await pulled(other.name, tmp_path / "other")
    host.write_settings(f'pins = "{tmp_path / FILE}"')
    beside = ("--store", str(tmp_path / "other"))

    assert run(host, "unpin", *beside) == "nothing is pinned\n"
    refused(host, "unpin", first.name, *beside, code=3)
    printed = run(host, "pin", *beside)

    assert (tmp_path / FILE).read_bytes() == before
    assert [one["name"] for one in json.loads(printed)["models"]] == [other.name]
    assert run(host, "unpin", first.name, "--store", str(host.store)).endswith(f"taken out of {tmp_path / FILE}\n")


async def test_a_daemon_of_another_store_is_refused_before_the_pins_file_is_changed(
    registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    (first,) = await versions(registry, host.store, 1)
    run(host, "pin", "-o", str(tmp_path / FILE))
    before = (tmp_path / FILE).read_bytes()
    other = another(tmp_path, f'pins = "{tmp_path / FILE}"')

    with host:
        error = other.command("unpin", first.name, "--store", str(other.store), SYNCD_SOCKET=str(host.socket))

    assert error.returncode == 2, error.stderr
    assert "is not the store of the daemon" in error.stderr
    assert (tmp_path / FILE).read_bytes() == before


async def test_status_and_its_check_tell_of_drift(
    registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    first, second = await versions(registry, host.store, 2)
    (tmp_path / FILE).write_bytes(encoded(pins_of([pin_of(first)])))
    host.write_settings(f'pins = "{tmp_path / FILE}"')

    found = told(host, "status")["pins"]["drift"]
    page = host.command("status", "--check")

    assert [(one["name"], one["pinned"], one["published"]) for one in found] == [
        (first.name, first.digest, second.digest)
    ]
    assert page.returncode == 1
    assert "and not" in page.stdout


async def test_the_file_is_the_same_for_the_same_models_and_holds_no_more_than_is_needed(
    registry: ScriptedRegistry, host: RunningDaemon
) -> None:
    (first,) = await versions(registry, host.store, 1)
    other = registry.add(build_model("codellama:7b"))
    await pulled(other.name, host.store)
    file = host.folder / FILE

    printed = run(host, "pin")
    run(host, "pin", other.name, "-o", str(file))
    run(host, "pin", first.name, "-o", str(file))

    assert file.read_text() == printed
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [path.name for path in host.folder.iterdir() if "tmp" in path.name] == []
    document = json.loads(printed)
    assert document.keys() == {"syncd_pins", "models"}
    assert [one["name"] for one in document["models"]] == sorted([first.name, other.name])
    assert {one["name"]: one["manifest"].encode() for one in document["models"]}[first.name] == first.manifest


async def test_what_the_settings_want_and_is_not_here_cannot_be_pinned(
    registry: ScriptedRegistry, host: RunningDaemon
) -> None:
    (first,) = await versions(registry, host.store, 1)
    host.write_settings(f'[[models]]\nname = "{first.name}"\n[[models]]\nname = "{registry.host}/library/none"')

    error = refused(host, "pin", "-o", str(host.folder / FILE), code=3)

    assert "none:latest cannot be pinned: it is not published here" in error
    assert not (host.folder / FILE).exists()


def _twice(document: Any) -> None:
    document["models"].append(document["models"][0])


def _other_bytes(document: Any) -> None:
    document["models"][0]["manifest"] += " "


def _no_name(document: Any) -> None:
    document["models"][0]["name"] = "a b"


def _version(document: Any) -> None:
    document["syncd_pins"] = 2


def _case(document: Any) -> None:
    document["models"].append({**document["models"][0], "name": document["models"][0]["name"].replace("mis", "MIS")})
    document["models"][1]["name"] = document["models"][1]["name"].replace(":7b", ":8b")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_twice, "there twice"),
        (_other_bytes, "has the digest"),
        (_no_name, "not a model name"),
        (_version, "no pins file"),
        (_case, "differ only in case"),
    ],
)
def test_a_broken_file_is_refused_with_what_is_wrong(
    registry: ScriptedRegistry, spoil: Callable[[Any], None], says: str
) -> None:
    document = json.loads(encoded(pins_of([pin_of(version(registry, 1))])))
    spoil(document)

    with pytest.raises(ConfigurationError, match=says):
        decoded(json.dumps(document).encode(), FILE)


def test_a_merge_that_left_two_lists_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'models' twice"):
        decoded(b'{"syncd_pins": 1, "models": [], "models": []}', FILE)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"null", b'{"syncd_pins": 1}'])
def test_what_is_no_pins_file_is_refused(raw: bytes) -> None:
    with pytest.raises(ConfigurationError, match="is no pins file"):
        decoded(raw, FILE)


def test_settings_whose_pins_file_is_missing_or_contradicts_them_are_refused(
    registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    first, second = version(registry, 1), version(registry, 2)
    file = tmp_path / FILE
    host.write_settings(f'pins = "{file}"\n[[models]]\nname = "{first.name}@{second.digest}"')

    missing = refused(host, "list", code=10)
    file.write_bytes(encoded(pins_of([pin_of(first)])))
    contradiction = refused(host, "list", code=10)

    assert f"the pins file {file} is not there" in missing
    assert f"'syncd pin -o {file}' writes it" in missing
    assert f"is pinned here to {second.digest}, and by {file} to {first.digest}" in contradiction


async def test_a_running_daemon_follows_its_pins_file_and_keeps_to_the_old_one_while_the_new_one_is_broken(
    registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    first, second = await versions(registry, host.store, 2)
    file = tmp_path / FILE
    file.write_bytes(encoded(pins_of([pin_of(first)])))
    host.write_settings(f'pins = "{file}"\n[[models]]\nname = "{first.name}"')

    with host:
        eventually(lambda: host.model(f"{first.name}@{first.digest}")["state"] == "published")
        assert visible(host.store) == {first.name: first.digest}

        file.write_bytes(b"{}")
        eventually(lambda: "pins file" in (host.status()["settings"]["fault"] or ""))
        assert host.model(f"{first.name}@{first.digest}")["state"] == "published"

        file.write_bytes(encoded(pins_of([pin_of(second)])))
        eventually(lambda: host.model(f"{first.name}@{second.digest}")["state"] == "published")
        assert visible(host.store) == {first.name: second.digest}


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can become another user")
async def test_root_writes_the_file_where_the_stores_owner_could_not(
    registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    (first,) = await versions(registry, host.store, 1)
    for path in (host.store, *host.store.rglob("*")):
        os.lchown(path, 65534, 65534)
    for path in (host.folder, *host.folder.parents):
        if stat.S_IMODE(path.stat().st_mode) & 0o005 == 0:
            path.chmod(path.stat().st_mode | 0o055)

    run(host, "pin", "-o", str(tmp_path / FILE))

    assert (tmp_path / FILE).stat().st_uid == 0
    assert decoded((tmp_path / FILE).read_bytes(), FILE).of(model_name(first.name)) == pin_of(first)
