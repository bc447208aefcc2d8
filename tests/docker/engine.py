"""A Docker Engine of the tests' own: Debian's dockerd as a real process, everything that it keeps below one folder.

Its image holds nothing but empty folders; containers see the host's system, its Python and this checkout through
read-only mounts.
"""

import http.client
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import pytest

from tests.support.daemon import ROOT, UnixConnection
from tests.support.needs import needs_root_and

IMAGE = "syncd-tests:latest"
_PROGRAMS = ("dockerd", "containerd", "runc", "setpriv")
_PATIENCE = 60.0  # seconds, for what takes one or two on an idle machine
# No bridge and no rules: the host's network stays as it is.
_OPTIONS = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")  # links into /usr, on Debian


def needs_docker() -> None:
    """Skip, loudly, where no Engine can be started. In CI it must be possible."""
    needs_root_and(_PROGRAMS, packages="docker.io", without="NO DOCKER ENGINE WAS STARTED")


@dataclass(slots=True)
class DockerEngine:
    """The process, and the containers in it. A context manager."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="syncd-docker-")))
    before: tuple[str, ...] = ()
    """A command that dockerd is started by, and that becomes it."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    @property
    def pid(self) -> int:
        """Of dockerd, which runs."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
            self._import()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    # The Engine

    def start(self) -> None:
        """Start it, and return once it answers."""
        configuration = self.folder / "daemon.json"
        configuration.write_text("{}")  # not the host's own
        where = {"data-root": "data", "exec-root": "exec", "pidfile": "pid", "config-file": configuration.name}
        command = (
            # Should the tests be killed, the Engine is told to end, and ends its containers.
            *("setpriv", "--pdeathsig", "TERM", *self.before, "dockerd", f"--host={self.url}", *_OPTIONS),
            *(f"--{option}={self.folder / name}" for option, name in where.items()),
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        self.until(self._answers, "the Engine answers")

    def stop(self) -> None:
        """End it as systemd would: its containers end with it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def ask(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """One request of the Engine's API; the JSON of a good answer."""
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
        connection = UnixConnection(self.socket, _PATIENCE)
        try:
            connection.request(method, f"{path}?{urlencode(query)}", raw, {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 400, (method, path, answer.status, content)
        return json.loads(content) if content and answer.getheader("Content-Type") == "application/json" else None

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Return once ``holds()`` is true."""
        deadline = time.monotonic() + _PATIENCE
        while not holds():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                pytest.fail(f"not so: {what}; the Engine's log:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.02)

    # Its containers

    def run(self, name: str, command: Iterable[str], **options: Any) -> str:
        """Make a container, and start it; its id. Options as for ``create``."""
        identity = self.create(name, command, **options)
        self.ask("POST", f"/containers/{identity}/start")
        return identity

    def create(
        self,
        name: str,
        command: Iterable[str],
        *,
        labels: Mapping[str, str] | None = None,
        environment: Iterable[str] = (),
        binds: Iterable[str] = (),
        network: str = "host",
        restart: str = "no",
    ) -> str:
        """Make a container; its id. ``binds``: ``SOURCE:TARGET:ro``, beside those of the system."""
        made = self.ask(
            "POST",
            "/containers/create",
            {
                "Image": IMAGE,
                "Cmd": list(command),
                "Labels": dict(labels or {}),
                "Env": [f"PATH={os.environ.get('PATH', os.defpath)}", "PYTHONDONTWRITEBYTECODE=1", *environment],
                "WorkingDir": str(ROOT),
                "StopTimeout": 2,
                "HostConfig": {
                    "Binds": [*(f"{path}:{path}:ro" for path in seen_inside()), *binds],
                    "NetworkMode": network,
                    "RestartPolicy": {"Name": restart},
                    "Init": False,
                },
            },
            name=name,
        )
        return str(made["Id"])

    def restart(self, container: str) -> None:
        self.ask("POST", f"/containers/{quote(container)}/restart", t=2)

    def stop_container(self, container: str) -> None:
        self.ask("POST", f"/containers/{quote(container)}/stop", t=2)

    def start_container(self, container: str) -> None:
        self.ask("POST", f"/containers/{quote(container)}/start")

    def kill(self, container: str, name: str = "KILL") -> None:
        self.ask("POST", f"/containers/{quote(container)}/kill", signal=name)

    def rename(self, container: str, name: str) -> None:
        self.ask("POST", f"/containers/{quote(container)}/rename", name=name)

    def remove(self, container: str) -> None:
        self.ask("DELETE", f"/containers/{quote(container)}", force="true", v="true")

    def state(self, container: str) -> Any:
        return self.ask("GET", f"/containers/{quote(container)}/json")["State"]

    def output(self, container: str) -> str:
        """What it has printed, each line after the 8 bytes of the Engine's framing."""
        connection = UnixConnection(self.socket, _PATIENCE)
        try:
            connection.request("GET", f"/containers/{quote(container)}/logs?stdout=1&stderr=1")
            raw = connection.getresponse().read()
        finally:
            connection.close()
        return raw.decode(errors="replace")

    def clear(self) -> None:
        """Remove all containers, so that the next test finds none."""
        for one in self.ask("GET", "/containers/json", all="true"):
            self.remove(one["Id"])

    def _answers(self) -> bool:
        try:
            return bool(self.ask("GET", "/version"))
        except (OSError, http.client.HTTPException):
            return False

    def _import(self) -> None:
        repository, _, tag = IMAGE.partition(":")
        self.ask("POST", "/images/create", _root_folder(), fromSrc="-", repo=repository, tag=tag)

    def _end(self) -> None:
        try:
            if self._process is not None and self._process.poll() is None:
                with suppress(AssertionError, OSError, http.client.HTTPException):
                    self.clear()
        finally:
            self.stop()
            for path in _mounted_below(self.folder):
                subprocess.run(("umount", "--lazy", path), check=False)
            shutil.rmtree(self.folder, ignore_errors=True)


def seen_inside() -> list[Path]:
    """What of the host a container needs to run this Python and this checkout, no folder inside another."""
    wanted = [Path("/usr"), Path(sys.prefix), Path(sys.base_prefix), ROOT]
    wanted += [Path(path) for path in _SYSTEM if Path(path).is_dir() and not Path(path).is_symlink()]
    return [path for path in wanted if not any(path != other and path.is_relative_to(other) for other in wanted)]


def _root_folder() -> bytes:
    """A tree of empty folders, and the links that the host's root has, as a tar file."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("dev", "etc", "proc", "sys", "tmp", "usr"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        for path in _SYSTEM:
            if Path(path).is_symlink():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.type, entry.linkname = tarfile.SYMTYPE, str(Path(path).readlink())
                tar.addfile(entry)
    return made.getvalue()


def _mounted_below(folder: Path) -> list[str]:
    """Mount points below ``folder``, the deepest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1] for line in lines]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)
