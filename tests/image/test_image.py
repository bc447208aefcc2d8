"""The image, built and run as docs/image.md says: nobody's root, nothing that can be written but what is mounted."""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.image.world import BASES_PIP, IMAGE, OWNER, STORE, Docker, base_name
from tests.support.daemon import ROOT
from tests.support.models import build_model
from tests.support.registry import ModelHandle, ScriptedRegistry

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("image")]

_MIB = 1024 * 1024
_MOST = 70 * _MIB  # that the image is larger than its base
_WEIGHTS = 4 * _MIB
_COMPILERS = ("cc", "gcc", "g++", "clang", "make", "ld", "as", "cargo", "rustc")


@dataclass(frozen=True, slots=True)
class Service:
    """A container that runs the daemon, its settings, the volume of its store, and a model that it could pull."""

    docker: Docker
    settings: Path
    model: ModelHandle
    name: str = "syncd"
    volume: str = "models"

    def start(self) -> None:
        """As an operator would, except that health is looked at more often."""
        self.docker(
            *("run", "--detach", "--name", self.name, "--network", "host", "--read-only", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--health-interval", "1s", "--health-start-period", "5m"),
            *("--volume", f"{self.volume}:{STORE}", "--volume", f"{self.settings}:/etc/syncd:ro"),
            IMAGE,
        )

    def command(self, *words: str, check: bool = True) -> str:
        """A command of syncd's, beside the daemon."""
        return self.docker("exec", self.name, "syncd", *words, check=check)

    def shell(self, line: str) -> str:
        return self.docker("exec", self.name, "sh", "-c", line)

    def store(self) -> Path:
        """Where the volume is on the host."""
        return Path(self.docker("volume", "inspect", "--format", "{{.Mountpoint}}", self.volume))

    def log(self) -> str:
        return self.docker("logs", self.name, check=False)

    def write(self, settings: str) -> None:
        """As an editor does: a new file, renamed over the old one."""
        fresh = self.settings / "syncd.new"
        fresh.write_text(settings)
        fresh.rename(self.settings / "syncd.toml")

    def until_health_is(self, wanted: str) -> None:
        self.docker.until(lambda: self.docker.health(self.name) == wanted, self.log)


@pytest.fixture(scope="module")
def service(docker: Docker, near: ScriptedRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Started, with the model pulled."""
    settings = tmp_path_factory.mktemp("etc") / "syncd"
    settings.mkdir(mode=0o755)
    made = Service(docker, settings, near.add(build_model("mistral:7b", _WEIGHTS, 1)))
    made.write("")
    made.start()
    try:
        made.until_health_is("healthy")
        made.command("pull", made.model.name)
        yield made
    finally:
        docker.remove(made.name)
        docker("volume", "rm", made.volume, check=False)


@pytest.fixture(scope="module")
def listing(docker: Docker, image: str) -> dict[str, tuple[int, int]]:  # noqa: ARG001 - the image is there
    """Everything in the image: mode and owner by path."""
    find = ("find", "/", "-xdev", "!", "-type", "l", "-printf", r"%m %U %p\n")
    lines = docker("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", *find[:1], IMAGE, *find[1:])
    told = (line.split(" ", 2) for line in lines.splitlines())
    return {path: (int(mode, 8), int(uid)) for mode, uid, path in told}


# What it is made of


def test_it_is_small(docker: Docker) -> None:
    sizes = {name: docker.inspect(name)["Size"] for name in (IMAGE, base_name())}

    added = sizes[IMAGE] - sizes[base_name()]

    print(f"{IMAGE}: {sizes[IMAGE] / _MIB:.0f} MiB, of which {added / _MIB:.0f} are not of the base image")
    assert added <= _MOST


def test_its_labels_say_what_it_is(docker: Docker) -> None:
    labels = docker.inspect(IMAGE)["Config"]["Labels"]

    said = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert said == {
        "title": "syncd",
        "description": "Owns the shared model store of a host's Ollama servers.",
        "licenses": "MIT",
        "version": "1.2.3",
        "revision": "abc",
        "created": "2026-01-02T03:04:05Z",
        "base.name": base_name(),
    }


def test_nothing_is_left_of_how_it_was_made(docker: Docker, image: str, listing: dict[str, tuple[int, int]]) -> None:
    programs = {Path(path).name for path in listing if Path(path).parent.name in {"bin", "sbin"}}
    packages = {Path(path).name for path in listing if Path(path).parent.name == "site-packages"}
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)

    assert not programs & {*_COMPILERS, "pip", "pip3"}
    assert "syncd" in packages
    assert not packages & {"pip", "setuptools", "wheel", "hatchling"}
    assert not listing.keys() & {*BASES_PIP, "/etc/pip.conf", "/root/.cache", "/build", "/src"}
    assert "find-links" not in history + image


def test_its_byte_code_is_in_it(listing: dict[str, tuple[int, int]]) -> None:
    ours = [Path(path) for path in listing if path.startswith("/opt/syncd/lib/") and "/site-packages/syncd/" in path]
    modules = [path for path in ours if path.suffix == ".py"]
    compiled = {path.name.partition(".")[0] for path in ours if path.suffix == ".pyc"}

    assert len(modules) > 100
    assert {path.stem for path in modules} <= compiled


def test_its_user_owns_where_it_writes_and_nothing_else(listing: dict[str, tuple[int, int]]) -> None:
    owned = {path for path, (_, uid) in listing.items() if uid == OWNER}
    open_to_all = {
        path
        for path, (mode, _) in listing.items()
        if path.startswith(("/opt/", "/etc/syncd", "/srv/")) and mode & stat.S_IWOTH
    }

    assert owned == {STORE, "/run/syncd"}
    assert open_to_all == set()


def test_only_what_is_named_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]

    assert rules[0] == "*"
    assert all((ROOT / rule.removeprefix("!")).exists() for rule in rules[1:] if rule.startswith("!"))


# How it runs


def test_a_model_is_pulled_into_the_volume(service: Service) -> None:
    listed = json.loads(service.command("list", "--json"))

    assert service.model.name in json.dumps(listed)
    service.command("verify", service.model.name)


def test_what_is_in_the_volume_can_be_read_by_any_server_and_written_by_syncd(service: Service) -> None:
    found = {path: path.lstat() for path in (service.store(), *service.store().rglob("*"))}
    public = {path: file for path, file in found.items() if ".syncd" not in path.parts}

    modes = {
        kind: {stat.S_IMODE(file.st_mode) for path, file in public.items() if is_one(path, file)}
        for kind, is_one in (
            ("folder", lambda _, file: stat.S_ISDIR(file.st_mode)),
            ("blob", lambda path, _: path.parent.name == "blobs"),
            ("manifest", lambda path, file: "manifests" in path.parts and stat.S_ISREG(file.st_mode)),
        )
    }

    assert {(file.st_uid, file.st_gid) for file in found.values()} == {(OWNER, OWNER)}
    assert modes == {"folder": {0o755}, "blob": {0o444}, "manifest": {0o644}}
    assert stat.S_IMODE(found[service.store() / ".syncd"].st_mode) == 0o700


def test_it_is_a_user_without_rights_on_a_system_that_cannot_be_written(service: Service) -> None:
    status = service.shell("cat /proc/1/status")

    state = dict(line.split(":\t", 1) for line in status.splitlines())
    assert state["Uid"].split() == [str(OWNER)] * 4
    assert [int(state[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0]
    assert "Read-only" in service.docker("exec", service.name, "touch", "/opt/syncd/x", check=False)


def test_what_a_health_check_leaves_behind_is_taken_away(service: Service) -> None:
    orphan = service.shell("sleep 0.5 >/dev/null 2>&1 & echo $!")

    parent = service.shell(f"cut -d ' ' -f 4 /proc/{orphan}/stat")

    assert parent == "1"
    service.docker.until(lambda: service.shell(f"test -e /proc/{orphan} || echo gone") == "gone", service.log)


def test_its_health_says_when_something_fails(service: Service) -> None:
    service.write("nonsense = true\n")
    service.until_health_is("unhealthy")

    service.write("")

    service.until_health_is("healthy")


def test_sighup_reaches_syncd(service: Service) -> None:
    before = service.log().count("settings.applied")

    service.docker("kill", "--signal", "HUP", service.name)

    service.docker.until(lambda: service.log().count("settings.applied") > before, service.log)


def test_sigterm_ends_it_in_time(service: Service) -> None:
    service.docker("stop", "--time", "10", service.name)

    state = service.docker.inspect(service.name)["State"]
    assert state["ExitCode"] == 0, service.log()  # 137: it had to be killed
    service.docker("start", service.name)
    service.until_health_is("healthy")


def test_a_new_container_goes_on_with_the_store(service: Service, near: ScriptedRegistry) -> None:
    service.docker.remove(service.name)
    near.forget_requests()

    service.start()

    service.until_health_is("healthy")
    service.command("pull", service.model.name)
    assert near.blob_requests() == []


def test_a_single_command_needs_no_daemon(docker: Docker, near: ScriptedRegistry) -> None:
    model = near.add(build_model("llama3.2:3b", _WEIGHTS, 2))

    printed = docker("run", "--rm", "--network", "host", "--read-only", IMAGE, "pull", "--json", model.name)

    last: Any = json.loads(printed.splitlines()[-1])
    assert last["digest"] == model.digest


def test_another_user_can_own_the_store(docker: Docker, near: ScriptedRegistry, tmp_path: Path) -> None:
    model = near.add(build_model("codellama:7b", _WEIGHTS, 3))
    store = tmp_path / "models"
    store.mkdir()
    store.chmod(0o755)
    os.chown(store, 4711, 4711)

    docker(
        *("run", "--rm", "--network", "host", "--read-only", "--user", "4711:4711", "--volume", f"{store}:{STORE}"),
        *("--tmpfs", "/run/syncd:uid=4711,gid=4711,mode=0750", IMAGE, "pull", model.name),
    )

    assert {path.lstat().st_uid for path in store.rglob("*")} == {4711}


def test_a_folder_full_of_models_is_taken_over(docker: Docker, near: ScriptedRegistry, tmp_path: Path) -> None:
    model = near.add(build_model("llava:7b", _WEIGHTS, 4))
    store = tmp_path / "models"
    there = ("--volume", f"{store}:{STORE}")
    docker(*("run", "--rm", "--network", "host", "--user", "0", *there, IMAGE, "pull", model.name))
    assert (store / "manifests").stat().st_uid == 0

    docker(
        *(
            "run",
            "--rm",
            "--user",
            "0",
            "--network",
            "none",
            *there,
            IMAGE,
            "init",
            "--owner",
            "10001",
            "--store",
            STORE,
        )
    )

    docker("run", "--rm", "--network", "none", "--read-only", *there, IMAGE, "verify", model.name)
    assert {path.lstat().st_uid for path in (store, *store.rglob("*"))} == {OWNER}


def test_dockers_socket_is_of_use_to_whom_it_is_given(docker: Docker, tmp_path: Path) -> None:
    tmp_path.joinpath("syncd.toml").write_text('[docker]\nurl = "unix:///run/docker.sock"\ndiscover = true\n')
    tmp_path.chmod(0o755)
    group = docker.engine.socket.stat().st_gid
    docker.engine.run("ollama-1", ("sleep", "600"), labels={"syncd.instance": "true"})
    docker(
        *("run", "--detach", "--name", "friend", "--read-only", "--cap-drop", "ALL", "--network", "none"),
        *("--volume", f"{docker.engine.socket}:/run/docker.sock", "--group-add", str(group)),
        *("--volume", f"{tmp_path}:/etc/syncd:ro", IMAGE),
    )
    try:
        docker.until(
            lambda: "ollama-1" in docker("exec", "friend", "syncd", "status", "--json", check=False),
            lambda: docker("logs", "friend", check=False),
        )
    finally:
        docker.remove("friend", "ollama-1")
