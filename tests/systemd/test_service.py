"""syncd as a service: the unit as shipped, under a systemd that was booted for it, with a registry on loopback."""

import re
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.models import MIB, synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry
from tests.systemd.machine import Machine, eventually
from tests.systemd.service import SOCKET, STORE, UNIT, Service

# Making the tree takes a minute, once.
pytestmark = pytest.mark.timeout(400)

_CREDENTIALS = "/run/credentials/syncd.service"
_CHUNK = 16 * MIB
_UNITS = Path(__file__).parents[2] / "systemd"


def test_installing_makes_a_user_and_a_store_of_its_own(machine: Machine) -> None:
    seen = machine.run("stat", "--format=%U:%G %a", STORE, "/srv/ollama", "/etc/syncd")

    assert seen.splitlines() == ["syncd:syncd 755", "root:root 755", "root:root 755"]


def test_verify_has_nothing_to_say_of_the_installed_unit(machine: Machine) -> None:
    assert machine.run("systemd-analyze", "verify", UNIT) == ""


def test_it_is_active_only_when_it_answers(service: Service) -> None:
    service.start()

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(service.machine.path(SOCKET)))
    assert service.answers("/healthz") == 200
    assert service["StatusText"] != ""


def test_only_its_group_reaches_the_socket(service: Service) -> None:
    service.start()

    folder, sock = service.machine.path(SOCKET).parent, service.machine.path(SOCKET)
    ids = service.machine.run("id", "--user", "syncd"), service.machine.run("id", "--group", "syncd")
    assert (str(folder.stat().st_uid), str(folder.stat().st_gid)) == ids
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert (str(sock.stat().st_uid), str(sock.stat().st_gid)) == ids
    assert stat.S_IMODE(sock.stat().st_mode) == 0o660


def test_it_pulls_what_the_settings_name(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=20 * MIB))
    service.configure(model)

    service.start()

    service.until_it_has(model)
    assert list(assert_store_whole(service.store).values()) == [model.digest]
    assert registry.bytes_served() == model.size


def test_systemctl_status_tells_how_far_a_pull_is(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=4 * _CHUNK))
    registry.throttle(4 * MIB)
    service.configure(model)

    service.start()

    said = re.compile(rf"pulling {re.escape(model.name)} [1-9][0-9]? %")
    eventually(lambda: said.fullmatch(service["StatusText"]), "the status text tells of the pull")


def test_killed_in_mid_pull_it_comes_back_and_finishes(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=8 * _CHUNK))
    slow = registry.throttle(16 * MIB)
    service.configure(model, more="[download]\nconnections = 2")
    service.start()
    registry.wait_until(lambda it: it.bytes_served() > 5 * _CHUNK)
    killed = service.pid

    service.systemctl("kill", "--kill-whom=main", "--signal=KILL")

    assert not service.has(model)
    slow.lift()
    service.until_it_has(model)
    assert (service["NRestarts"], service["Result"]) == ("1", "success")
    assert service.pid != killed
    assert list(assert_store_whole(service.store).values()) == [model.digest]
    # Fetched twice: what two connections had of a chunk each, and what was still on its way.
    assert registry.bytes_served(model.weights) < model.weights_size + 3 * _CHUNK


@pytest.fixture(scope="session")
def alice(machine: Machine) -> tuple[str, ...]:
    """What runs a command as a user who is in syncd's group, and in no other way privileged."""
    machine.run("useradd", "--groups=syncd", "alice")
    return ("setpriv", "--reuid=alice", "--regid=alice", "--init-groups")


def test_a_member_of_the_group_pulls_and_the_journal_tells_who(
    service: Service, registry: ScriptedRegistry, alice: tuple[str, ...]
) -> None:
    model = registry.add(synthetic_model(weights_bytes=MIB))
    service.start()

    service.machine.run(*alice, "/usr/local/bin/syncd", "pull", model.name)

    assert service.has(model)
    uid = service.machine.run("id", "--user", "alice")
    assert re.search(rf"path=/syncd/v1/pull .*\buid={uid}\b.* user=alice", service.journal())


def test_who_is_not_of_the_group_is_refused(service: Service) -> None:
    service.start()

    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    said = service.machine.run(*nobody, "/usr/local/bin/syncd", "status", check=False)

    assert "this user may not speak to the daemon" in said


def test_a_reload_applies_new_settings(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=MIB))
    service.configure()
    service.start()
    before = service.pid

    service.configure(model)
    service.systemctl("reload")

    eventually(lambda: "Reloaded syncd.service" in service.journal(), "the journal tells of the reload")
    service.until_it_has(model)
    service.until("ActiveState", "active")
    assert (service.pid, service["NRestarts"]) == (before, "0")


def test_a_reload_to_broken_settings_changes_nothing(service: Service) -> None:
    service.start()
    before = service.pid

    service.configure(more="connectoins = 8")
    service.systemctl("reload")

    eventually(lambda: "connectoins" in service.journal(), "the journal tells of the fault")
    service.until("ActiveState", "active")
    assert (service.pid, service.answers("/healthz")) == (before, 200)


def test_stopped_in_mid_pull_it_leaves_within_ten_seconds(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=6 * _CHUNK))
    registry.throttle(4 * MIB)
    service.configure(model)
    service.start()
    registry.wait_until(lambda it: it.bytes_served() > MIB)
    began = time.monotonic()

    service.systemctl("stop")

    assert time.monotonic() - began < 10
    assert (service["Result"], service["ExecMainStatus"], service["ActiveState"]) == ("success", "0", "inactive")
    assert not service.machine.path(SOCKET).exists()


def test_the_watchdog_restarts_a_process_that_is_frozen(service: Service) -> None:
    service.drop_in("quick.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=1\n")
    service.start()
    frozen = service.pid

    service.systemctl("kill", "--kill-whom=main", f"--signal={signal.SIGSTOP}")

    eventually(lambda: service.pid not in {0, frozen}, "another process is started")
    service.until("ActiveState", "active")
    assert "Watchdog timeout" in service.journal()


def test_the_watchdog_leaves_a_busy_daemon_alone(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=4 * _CHUNK))
    registry.throttle(16 * MIB)
    service.drop_in("quick.conf", "[Service]\nWatchdogSec=2\n")
    service.configure(model)

    service.start()

    service.until_it_has(model)
    assert service["NRestarts"] == "0"


@pytest.fixture
def first(service: Service) -> Iterator[str]:
    """The unit of another daemon, which holds the store."""
    service.machine.path("/run/first.toml").write_text(
        f'store = "{STORE}"\n[control]\nsocket = "/run/first/first.sock"\n[ops]\nlisten = ""\n'
    )
    unit = ("--unit=first", "--uid=syncd", "--gid=syncd", "--service-type=notify", "--property=RuntimeDirectory=first")
    command = ("/usr/local/bin/syncd", "serve", "--config", "/run/first.toml")
    service.machine.run("systemd-run", "--quiet", "--collect", *unit, *command)
    yield "first.service"
    service.machine.run("systemctl", "stop", "first.service", check=False)


def test_a_second_daemon_is_tried_again_until_the_first_has_gone(service: Service, first: str) -> None:
    service.drop_in("quick.conf", "[Service]\nRestartSec=100ms\n")
    service.machine.run("systemctl", "start", "--no-block", UNIT)
    # systemd's own limit would have ended it after five.
    eventually(lambda: service.journal().count("code=exited, status=8") > 5, "it is tried again and again")
    assert "Started syncd.service" not in service.journal()

    service.machine.run("systemctl", "stop", first)

    service.until("ActiveState", "active")


def test_ollamas_key_in_the_credential_store_opens_private_models(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=MIB))
    made = Ed25519PrivateKey.generate()
    registry.require_token(keys=(made.public_key().public_bytes_raw(),))
    service.credential(
        "syncd.ollama_key", made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    )
    service.configure(model)

    service.start()

    service.until_it_has(model)


def test_a_password_in_the_credential_store_opens_a_registry(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=MIB))
    registry.require_basic("reader", "canary")
    service.credential("syncd.registry_password", "canary\n")
    table = f'[registries."{registry.host}"]\nusername = "reader"\npassword_file = "{_CREDENTIALS}/registry_password"'
    service.configure(model, more=table)

    service.start()

    service.until_it_has(model)
    assert "canary" not in service.journal()


def test_a_credential_is_open_to_the_service_alone(service: Service) -> None:
    service.credential("syncd.control_token", "canary\n")
    service.start()

    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    said = service.machine.run(*nobody, "cat", f"{_CREDENTIALS}/control_token", check=False)

    assert "Permission denied" in said


@pytest.fixture
def docker(machine: Machine) -> Iterator[Path]:
    """Docker's socket as Docker makes it; syncd is in its group, as hasty administrators may do."""
    machine.run("groupadd", "--force", "--system", "docker")
    machine.run("usermod", "--append", "--groups=docker", "syncd")
    path = machine.path("/run/docker.sock")
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(path))
        machine.run("chown", "root:docker", "/run/docker.sock")
        path.chmod(0o660)
        yield path
    path.unlink()
    machine.run("gpasswd", "--delete", "syncd", "docker")


@pytest.mark.usefixtures("docker")
def test_dockers_socket_is_hidden(service: Service) -> None:
    service.start()

    assert not _may_open(service, "/run/docker.sock")


@pytest.mark.usefixtures("docker")
def test_the_drop_in_grants_dockers_socket(service: Service) -> None:
    service.drop_in("docker.conf", (_UNITS / "docker.conf").read_text())

    service.start()

    assert _may_open(service, "/run/docker.sock")


def _may_open(service: Service, path: str) -> bool:
    """Whether a process with the service's user, groups and view of the disk may connect to a socket."""
    status = service.machine.run("cat", f"/proc/{service.pid}/status")
    found = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
    who = (f"--reuid={found['Uid'][0]}", f"--regid={found['Gid'][0]}", f"--groups={','.join(found['Groups'])}")
    there = ("nsenter", f"--target={service.pid}", "--mount", "setpriv", *who)
    return service.machine.run(*there, "sh", "-c", f"test -w {path} && echo yes", check=False) == "yes"


def test_a_drop_in_moves_the_store(service: Service, registry: ScriptedRegistry) -> None:
    model = registry.add(synthetic_model(weights_bytes=MIB))
    service.machine.run("/usr/local/bin/syncd", "init", "--owner", "syncd", "--store", "/data/ollama/models")
    service.drop_in("store.conf", (_UNITS / "store.conf").read_text())
    service.configure(model, store="/data/ollama/models")

    service.start()

    moved = service.machine.path("/data/ollama/models")
    eventually(lambda: model.digest in assert_store_whole(moved).values(), "the model is in the other store")
    assert list(service.store.iterdir()) == []
