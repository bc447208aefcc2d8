"""What is wrong around a store: sockets that anybody may open, clocks, units, secrets, registries without TLS."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from syncd.jobs.rules import Rules
from syncd.jobs.surroundings import RegistryPlace, SecretFile, Surroundings
from syncd.oci.name import Reference
from syncd.registry.clock import compare
from tests.doctor.world import Patient, visit
from tests.support.ports import free_port


@contextmanager
def listening(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        yield path


@pytest.mark.parametrize(
    ("mode", "folder_mode", "told"),
    [
        (0o660, 0o750, []),
        (0o666, 0o750, ["its mode is 0666"]),
        (0o660, 0o777, ["the mode of its folder is 0777"]),
        (0o660, 0o1777, []),
        (0o777, 0o777, ["the mode of its folder is 0777", "its mode is 0777"]),
    ],
)
async def test_a_socket_that_every_user_may_use_is_an_error(
    patient: Patient, tmp_path: Path, mode: int, folder_mode: int, told: list[str]
) -> None:
    with listening(tmp_path / "run" / "syncd.sock") as path:
        path.chmod(mode)
        path.parent.chmod(folder_mode)
        around = Surroundings(sockets=(tmp_path / "none" / "syncd.sock", path))

        seen = await visit(patient.path, around=around)

    assert [one.what for one in seen.found if one.kind.id == "open-socket"] == told


@contextmanager
def clock(ahead: float | None) -> Iterator[str]:
    """A registry whose clock is ``ahead`` seconds before this one's; None: it does not say what time it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, dict(self.headers)))
            self.send_response_only(401)
            if ahead is not None:
                self.send_header("Date", formatdate(time.time() + ahead, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    asked: list[tuple[str, dict[str, str]]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    assert all(path == "/v2/" and "Authorization" not in headers for path, headers in asked)


def wanting(host: str) -> Rules:
    """Settings that want two models of that registry, more than of any other."""
    return Rules(floor=0, wanted=tuple(Reference.parse(f"{host}/library/{name}:1b") for name in ("a", "b")))


@pytest.mark.parametrize(
    ("ahead", "told"),
    [
        (0.0, None),
        (200.0, None),
        (-3600.0, "this clock is 60 minutes ahead of that of 127.0.0.1"),
        (7200.0, "this clock is 120 minutes behind that of 127.0.0.1"),
        (None, None),
    ],
)
async def test_a_clock_that_is_far_from_the_registrys_is_told(
    patient: Patient, ahead: float | None, told: str | None
) -> None:
    with clock(ahead) as host:
        seen = await visit(patient.path, rules=wanting(host), offline=False)
        quiet = await visit(patient.path, rules=wanting(host), offline=True)

    assert [one.what.rpartition(":")[0] for one in seen.found if one.kind.id == "clock-off"] == ([told] if told else [])
    assert "clock-off" not in quiet.ids()


async def test_a_registry_that_cannot_be_reached_says_nothing(patient: Patient) -> None:
    host = f"127.0.0.1:{free_port()}"

    assert await compare(host, plain_http=None, ca_file=None, patience=5) is None
    assert await compare("not a host", plain_http=None, ca_file=None, patience=5) is None
    assert not (await visit(patient.path, rules=wanting(host), offline=False)).bad


UNIT = "[Service]\nExecStart=/usr/local/bin/syncd serve\nProtectSystem=strict\nReadWritePaths={}\n"


async def test_a_daemon_that_is_installed_and_does_not_run(patient: Patient, tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    unit = tmp_path / "units" / "syncd.service"
    unit.write_text(UNIT.format(patient.path))
    around = Surroundings(units=(tmp_path / "none", tmp_path / "units"))

    assert (await visit(patient.path, around=around)).of("daemon-not-running").subject == str(unit)
    assert not (await visit(patient.path, around=around, daemon=True)).bad


async def test_a_unit_that_may_not_write_to_this_store(patient: Patient, tmp_path: Path) -> None:
    units, dropins = tmp_path / "units", tmp_path / "etc" / "syncd.service.d"
    units.mkdir()
    dropins.mkdir(parents=True)
    (units / "syncd.service").write_text(UNIT.format("/srv/ollama/models"))
    around = Surroundings(units=(tmp_path / "etc", units))

    before = await visit(patient.path, around=around, daemon=True)
    (dropins / "store.conf").write_text(f"[Service]\nReadWritePaths=\nReadWritePaths=-{patient.path.parent}\n")
    after = await visit(patient.path, around=around, daemon=True)

    assert before.of("unit-of-another-store").what == f"it may write to /srv/ollama/models, not to {patient.path}"
    assert not after.bad


async def test_secrets_that_all_can_read_and_registries_without_tls_are_notes(patient: Patient, tmp_path: Path) -> None:
    for name, mode in (("open", 0o644), ("closed", 0o600)):
        (tmp_path / name).write_text("hunter2")
        (tmp_path / name).chmod(mode)
    around = Surroundings(
        secrets=tuple(SecretFile(tmp_path / name, "syncd.toml:3") for name in ("open", "closed", "missing")),
        registries={
            "registry.ollama.ai": RegistryPlace(mirrors=("http://mirror.lan:5000", "https://good.lan")),
            "reg.lan:5000": RegistryPlace(plain_http=True),
            "localhost:5000": RegistryPlace(),
        },
    )

    seen = await visit(patient.path, around=around)

    assert not seen.bad
    assert seen.of("secret-readable").subject == str(tmp_path / "open")
    assert seen.of("secret-readable").what == "its mode is 0644 (syncd.toml:3 names it)"
    plain = [(one.subject, one.what) for one in seen.found if one.kind.id == "plain-http"]
    assert plain == [
        ("http://mirror.lan:5000", "a mirror of registry.ollama.ai"),
        ("reg.lan:5000", "plain_http = true"),
    ]
