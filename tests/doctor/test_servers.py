"""Servers that do not serve what is here, seen by asking them; and containers, as the Docker Engine describes them."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.instances.containers import Container
from syncd.instances.model import Instance
from syncd.jobs.doctor_around import on_servers, version
from syncd.jobs.doctor_exam import Exam, ServerSeen
from syncd.jobs.rules import KnownServers, Rules
from syncd.jobs.surroundings import Surroundings
from syncd.store.ground import Ground
from tests.docker.engine import DockerEngine, needs_docker
from tests.docker.sleepers import COMMAND
from tests.doctor.world import Patient, Visit, visit
from tests.pull.world import blob_file, pulled
from tests.support import ollama_store
from tests.support.models import build_model, model_from
from tests.support.ports import free_port
from tests.support.standin import StandIn


def known(*servers: StandIn, discovered: bool = False) -> KnownServers:
    instances = tuple(Instance(name=f"ollama-{index}", url=one.url) for index, one in enumerate(servers, 1))
    return KnownServers(instances=instances, discovered=discovered)


async def asked(patient: Patient, *servers: StandIn) -> Visit:
    return await visit(patient.path, rules=Rules(floor=0, servers=known(*servers)))


async def test_a_server_that_lists_what_is_published_is_no_finding(patient: Patient) -> None:
    async with StandIn(patient.path, prune=False) as server:
        seen = await asked(patient, server)

    assert seen.ids() == ["never-scrubbed"]


async def test_a_server_over_another_folder_is_told_by_what_it_lists(patient: Patient, tmp_path: Path) -> None:
    ollama_store.put(tmp_path / "other", build_model("llama3.2:3b"))
    async with StandIn(tmp_path / "other", prune=False) as server:
        seen = await asked(patient, server)

    assert seen.of("server-sees-another-folder").what == "it lists llama3.2:3b, which this store does not have"
    assert seen.of("server-lacks-models").what == f"it does not list {patient.model.name}"


async def test_a_server_over_an_empty_folder_lists_none_of_ours(patient: Patient, tmp_path: Path) -> None:
    for name in ("manifests", "blobs"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    async with StandIn(tmp_path / "empty", prune=False) as server:
        seen = await asked(patient, server)

    assert seen.bad == ["server-sees-another-folder"]
    assert seen.of("server-sees-another-folder").what == "it lists none of the 1 models of this store"


async def test_a_server_over_a_copy_with_another_version_is_told(patient: Patient, tmp_path: Path) -> None:
    shutil.copytree(patient.path, tmp_path / "copy", ignore=shutil.ignore_patterns(".syncd"))
    patient.registry.add(build_model("mistral:7b", seed=2))
    await pulled(patient.model.name, patient.path)
    async with StandIn(tmp_path / "copy", prune=False) as server:
        seen = await asked(patient, server)

    assert f"another version of {patient.model.name}" in seen.of("server-sees-another-folder").what


async def test_a_server_that_does_not_answer_is_told_with_the_reason(patient: Patient) -> None:
    instance = Instance(name="gone", url=f"http://127.0.0.1:{free_port()}")

    seen = await visit(patient.path, rules=Rules(floor=0, servers=KnownServers(instances=(instance,))))

    assert seen.of("server-down").subject == "gone"
    assert "cannot connect" in seen.of("server-down").what


async def test_a_server_older_than_a_models_config_requires(patient: Patient) -> None:
    needy = patient.registry.add(model_from("needy:1b", [("license", b"none")], {"requires": "0.14.0"}))
    await pulled(needy.name, patient.path)
    async with (
        StandIn(patient.path, prune=False, version="0.12.6") as old,
        StandIn(patient.path, prune=False, version="0.14.0-rc1") as new,
    ):
        seen = await asked(patient, old, new)

    assert seen.of("server-too-old").subject == f"ollama-1 {needy.name}"
    assert seen.of("server-too-old").what == f"it runs 0.12.6, and {needy.name} requires 0.14.0"
    assert seen.of("server-versions-differ").what == "ollama-1 0.12.6, ollama-2 0.14.0-rc1"


@pytest.mark.parametrize(
    ("text", "found"),
    [("0.12.6", (0, 12, 6)), ("v0.14", (0, 14, 0)), ("0.14.2-rc1", (0, 14, 2)), ("latest", None), ("", None)],
)
def test_versions_are_compared_as_numbers(text: str, found: tuple[int, int, int] | None) -> None:
    assert version(text) == found


# What Docker says


def container(*, mode: str = "ro", source: str = "/srv/models", environment: tuple[str, ...] = ()) -> Container:
    mount = {"Source": source, "Destination": "/models", "RW": mode == "rw"}
    return Container.of({"Id": "1", "Name": "/ollama-1", "Config": {"Env": list(environment)}, "Mounts": [mount]})


def judged(one: Container, *, local: bool = True) -> dict[str, str]:
    exam = Exam(
        store=Path("/srv/models"),
        owner=0,
        now=0.0,
        ground=Ground(path=Path("/srv/models")),
        local_engine=local,
        servers=(ServerSeen(name="ollama-1", container=one),),
    )
    return {found.kind.id: found.what for found in on_servers(exam)}


_GOOD = ("OLLAMA_MODELS=/models", "OLLAMA_NOPRUNE=1")


def test_a_container_as_the_readme_has_it_is_no_finding() -> None:
    assert judged(container(environment=_GOOD)) == {}
    assert judged(container(source="/srv", environment=("OLLAMA_MODELS=/models/models", "OLLAMA_NOPRUNE=true"))) == {}


@pytest.mark.parametrize(
    ("one", "kind", "sentence"),
    [
        (container(mode="rw", environment=_GOOD), "server-can-write", "mounts it at /models for writing"),
        (container(environment=_GOOD[:1]), "server-prunes", "container ollama-1 does not have it"),
        (container(environment=(_GOOD[0], "OLLAMA_NOPRUNE=0")), "server-prunes", "does not have it"),
        (container(source="/other", environment=_GOOD), "server-sees-another-folder", "mounts /other, and not"),
        (
            container(environment=("OLLAMA_MODELS=/root/.ollama/models", "OLLAMA_NOPRUNE=1")),
            "server-sees-another-folder",
            "sees it at /models, and has OLLAMA_MODELS=/root/.ollama/models",
        ),
    ],
)
def test_how_a_container_sees_the_store_is_judged(one: Container, kind: str, sentence: str) -> None:
    found = judged(one)

    assert list(found) == [kind]
    assert sentence in found[kind]
    assert judged(one, local=False) == {}, "another host's paths mean nothing here"


def test_escapes_in_a_containers_words_reach_nobody() -> None:
    bad = replace(container(environment=("OLLAMA_MODELS=/\x1b[2J", "OLLAMA_NOPRUNE=1")), name="\x1b]0;x")

    assert "\x1b" not in json.dumps(list(judged(bad).values()), ensure_ascii=False)


async def test_an_engine_that_is_not_there_is_told_of_and_stops_nothing(patient: Patient, tmp_path: Path) -> None:
    around = Surroundings(docker_url=f"unix://{tmp_path / 'docker.sock'}")

    seen = await visit(patient.path, rules=Rules(floor=0, servers=known(discovered=True), around=around))

    assert "there is no such socket" in seen.of("engine-unreachable").what


async def test_containers_of_a_real_engine_are_judged(patient: Patient) -> None:
    """One is named by the settings, one is found by its label, and one is not there."""

    needs_docker()
    with DockerEngine() as docker:
        docker.run("writes", COMMAND, binds=(f"{patient.path}:/models",), environment=_GOOD)
        docker.run(
            "prunes",
            COMMAND,
            binds=(f"{patient.path}:/models:ro",),
            environment=_GOOD[:1],
            labels={"syncd.instance": "true", "syncd.port": str(free_port())},
        )
        docker.run("elsewhere", (sys.executable, "-c", "import time; time.sleep(600)"), environment=_GOOD)
        instances = tuple(
            Instance(name=name, url=f"http://127.0.0.1:{free_port()}", container=name)
            for name in ("writes", "elsewhere", "nowhere")
        )
        rules = Rules(
            floor=0,
            servers=KnownServers(instances=instances, discovered=True),
            around=Surroundings(docker_url=docker.url),
        )

        seen = await visit(patient.path, rules=rules)

    found = {(one.kind.id, one.subject) for one in seen.found if one.kind.id != "server-down"}
    assert found == {
        ("server-can-write", "writes"),
        ("server-prunes", "prunes"),
        ("server-sees-another-folder", "elsewhere"),
        ("container-missing", "nowhere"),
        ("never-scrubbed", str(patient.path)),
    }


async def test_a_model_whose_config_is_gone_requires_nothing(patient: Patient) -> None:
    (patient.path / "blobs" / blob_file(patient.model.config)).write_bytes(b"{" * 483)

    seen = await visit(patient.path)

    assert "server-too-old" not in seen.ids()
