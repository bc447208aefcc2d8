"""``syncd serve`` as a real process, all that it touches below one folder, and a NOTIFY_SOCKET that listens."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import commands
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
_START_SECONDS = 60.0  # of what takes half a second on an idle machine
_STOP_SECONDS = 45.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.1  # seconds between two looks


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        super().__init__("syncd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(slots=True)
class RunningDaemon:
    """A context manager: ready when entered, gone when left. ``settings``: TOML beside what every test needs."""

    folder: Path
    settings: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    process: commands.Process | None = None
    ops_port: int = field(default_factory=free_port)
    told: list[str] = field(default_factory=list)
    _notify: socket.socket | None = None

    @property
    def store(self) -> Path:
        return self.folder / "models"

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "syncd.sock"

    @property
    def config(self) -> Path:
        return self.folder / "etc" / "syncd.toml"

    @property
    def log_file(self) -> Path:
        return self.folder / "daemon.log"

    def write_settings(self, more: str) -> None:
        """As an editor does: a new file, renamed over the old one."""
        self.config.parent.mkdir(exist_ok=True)
        fresh = self.config.with_suffix(".new")
        fresh.write_text(
            f'store = "{self.store}"\nmin_free = "1 MiB"\n{more}\n'
            f'[control]\nsocket = "{self.socket}"\n[ops]\nlisten = "127.0.0.1:{self.ops_port}"\n'
        )
        fresh.rename(self.config)

    def environment(self) -> dict[str, str]:
        """Of the daemon, and of a command that is to find it."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "SYNCD_CONFIG": str(self.config),
            **self.environ,
        }

    def start(self) -> Self:
        """Start the process, and do not wait for it."""
        self.folder.mkdir(exist_ok=True)
        if not self.config.exists():
            self.write_settings(self.settings)
        notify = self.folder / "notify"
        notify.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(notify))
        notify.chmod(0o666)  # as systemd's own
        with self.log_file.open("ab") as log:
            self.process = commands.Process.start(
                "serve",
                *self.arguments,
                environ={**self.environment(), "NOTIFY_SOCKET": str(notify)},
                streams=(0, log.fileno(), log.fileno()),
            )
        return self

    def __enter__(self) -> Self:
        self.start()
        try:
            self.hear("READY=1")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def hear(self, wanted: str, *, seconds: float = _START_SECONDS) -> str:
        """Wait until systemd would have been told ``wanted``; the whole message."""
        assert self._notify is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._notify.settimeout(0.2)
            try:
                message = self._notify.recv(4096).decode()
            except TimeoutError:
                assert self.process is not None
                if self.process.poll() is not None:
                    break
                continue
            self.told.append(message)
            if wanted in message:
                return message
        raise AssertionError(f"never told {wanted!r}; the log:\n{self.log()[-4000:]}")

    def drain(self) -> None:
        """Hear out what it has said already."""
        assert self._notify is not None
        self._notify.setblocking(False)  # noqa: FBT003 - the socket's own signature
        with suppress(BlockingIOError):
            while True:
                self.told.append(self._notify.recv(4096).decode())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        process, self.process = self.process, None
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(_STOP_SECONDS)
        except TimeoutError:
            process.send_signal(signal.SIGABRT)  # its traceback goes to the log
            process.wait(20)
            raise AssertionError(f"it did not end; the log:\n{self.log()[-6000:]}") from None

    def kill(self) -> None:
        """SIGKILL."""
        self.stop(signal.SIGKILL)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's events of this name."""
        lines = [line for line in self.log().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event.get("event") == name]

    @contextmanager
    def connection(self, timeout: float = 30.0) -> Iterator[UnixConnection]:
        """To the control socket."""
        made = UnixConnection(self.socket, timeout)
        try:
            yield made
        finally:
            made.close()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request to the control socket; the JSON of a good answer."""
        with self.connection() as connection:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status == 200, (answer.status, content)
        return json.loads(content) if content else None

    def ops(self, path: str) -> tuple[int, str]:
        """Status and body of the ops listener's answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ops_port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, line: str) -> float:
        """The value of the sample that begins with ``line``."""
        _, text = self.ops("/metrics")
        for sample in text.splitlines():
            name, _, value = sample.rpartition(" ")
            if name == line:
                return float(value)
        raise AssertionError(f"no {line} in\n{text}")

    def status(self) -> Any:
        return self.ask("GET", "/syncd/v1/status")

    def model(self, name: str) -> Any:
        """The desired model of this name, in the status."""
        return next(one for one in self.status()["models"] if one["name"] == name)

    def command(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """A syncd command beside it."""
        return commands.completed(*arguments, environ={**self.environment(), **environ})


def eventually(condition: Callable[[], object], *, seconds: float = 60.0) -> Any:
    """Wait until ``condition()`` is true, and give that; what it raises meanwhile counts as not yet."""
    deadline, pause = time.monotonic() + seconds, _SHORTEST_PAUSE
    while True:
        try:
            found = condition()
        except (AssertionError, OSError, StopIteration, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
        else:
            if found:
                return found
            assert time.monotonic() <= deadline, "it never came true"
        time.sleep(pause)
        pause = min(pause * 1.1, _LONGEST_PAUSE)  # to ask costs whoever is asked processor time too
