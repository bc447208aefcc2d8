"""Other programs' hands: skopeo reads and copies what is exported, and what it writes is imported."""

import asyncio
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.bundles.world import OCI_TYPE, Layout, exported, piped, taken_in
from tests.support.docker_registry import DockerRegistry
from tests.support.http import Client
from tests.support.models import MANIFEST_TYPE, Model
from tests.support.oracle import assert_store_whole

FULL = "registry.ollama.ai/library/mistral:7b"


@pytest.fixture(autouse=True)
def _installed() -> None:
    for program in ("skopeo", "umoci"):
        if shutil.which(program) is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed (Debian: apt install)")


@pytest.fixture
def bundle(store_path: Path, tmp_path: Path, mistral: Model, llava: Model) -> Path:
    path = tmp_path / "bundle.tar"
    path.write_bytes(exported(store_path, mistral, llava))
    return path


def skopeo(*arguments: str) -> bytes:
    return run("skopeo", *arguments)


def run(*command: str) -> bytes:
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout


def test_skopeo_reads_every_model_of_a_bundle(bundle: Path, mistral: Model, llava: Model) -> None:
    for model in (mistral, llava):
        name = ModelName.parse(model.name).qualified
        assert skopeo("inspect", "--raw", f"oci-archive:{bundle}:{name}") == model.manifest


def test_skopeo_takes_a_bundle_to_a_registry_byte_for_byte(
    bundle: Path, docker_registry: DockerRegistry, mistral: Model
) -> None:
    target = f"{docker_registry.host}/bundled/mistral:7b"

    skopeo("copy", "--dest-tls-verify=false", f"oci-archive:{bundle}:{FULL}", f"docker://{target}")

    with Client(docker_registry.host) as client:
        served = client.ask("GET", "/v2/bundled/mistral/manifests/7b", {"Accept": f"{MANIFEST_TYPE}, {OCI_TYPE}"})
    assert served.body == mistral.manifest


def test_umoci_lists_what_a_bundle_holds(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    run("tar", "-xf", str(bundle), "-C", str(tmp_path / "layout"))

    listed = run("umoci", "ls", "--layout", str(tmp_path / "layout")).decode().split()

    assert sorted(listed) == ["registry.ollama.ai/library/llava:7b", FULL]


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_what_skopeo_copies_from_a_bundle_is_imported(
    bundle: Path, tmp_path: Path, other: Path, mistral: Model, pipe: bool
) -> None:
    copy = tmp_path / "copy.tar"
    skopeo("copy", f"oci-archive:{bundle}:{FULL}", f"oci-archive:{copy}:{FULL}")

    imported(other, copy, pipe=pipe)

    assert assert_store_whole(other) == {FULL: mistral.digest}


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_what_skopeo_fetches_from_a_registry_is_imported(
    docker_registry: DockerRegistry, tmp_path: Path, other: Path, mistral: Model, pipe: bool
) -> None:
    # One that calls itself OCI's: of a registry, skopeo takes no manifest of Docker's type with Ollama's layers.
    model = replace(mistral, manifest=mistral.manifest.replace(MANIFEST_TYPE.encode(), OCI_TYPE.encode()))
    pushed, fetched = tmp_path / "pushed.tar", tmp_path / "fetched.tar"
    pushed.write_bytes(Layout.of(model).tar())
    target = f"docker://{docker_registry.host}/library/fetched:7b"
    skopeo("copy", "--dest-tls-verify=false", f"oci-archive:{pushed}:{FULL}", target)

    skopeo("copy", "--src-tls-verify=false", target, f"oci-archive:{fetched}:7b")
    imported(other, fetched, pipe=pipe, name=ModelName.parse("mistral:7b"))

    assert assert_store_whole(other) == {FULL: model.digest}


def test_a_folder_that_skopeo_wrote_is_imported(bundle: Path, tmp_path: Path, other: Path, mistral: Model) -> None:
    skopeo("copy", f"oci-archive:{bundle}:{FULL}", f"oci:{tmp_path / 'layout'}:{FULL}")
    assert json.loads((tmp_path / "layout" / "index.json").read_bytes())["manifests"]

    imported(other, tmp_path / "layout", pipe=False)

    assert assert_store_whole(other) == {FULL: mistral.digest}


def imported(store: Path, bundle: Path, *, pipe: bool, name: ModelName | None = None) -> None:
    with Store.open(store, create=True) as opened:
        if not pipe:
            asyncio.run(taken_in(opened, bundle, name=name))
            return
        out, writer = piped(bundle.read_bytes())
        try:
            asyncio.run(taken_in(opened, None, stream=out, name=name))
        finally:
            os.close(out)
            writer.join(30)
