"""A daemon to be measured, and clients that follow a pull of its."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.world import BenchmarkError, World, free_port

_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running ``syncd serve``."""

    process: subprocess.Popen[bytes]
    socket: Path
    ops_port: int

    def status(self) -> Any:
        connection = _connection(self.socket)
        try:
            connection.request("GET", "/syncd/v1/status")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def processor_seconds(self) -> float:
        """Of all its threads, to the nanosecond (proc(5), schedstat)."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def resident(self) -> int:
        """Bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise BenchmarkError("the daemon has no VmRSS")

    def operate(self, path: str, asked: object) -> Any:
        """Have it do something; its last line."""
        connection = _connection(self.socket)
        try:
            connection.request("POST", f"/syncd/v1/{path}", json.dumps(asked), {"Content-Type": "application/json"})
            last = b"null"
            for line in connection.getresponse():
                last = line
        finally:
            connection.close()
        return json.loads(last)

    def wait_until_published(self, number: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while sum(one["state"] == "published" for one in self.status()["models"]) < number:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise BenchmarkError(f"the daemon did not publish {number} models")
            time.sleep(0.5)


def pull(daemon: Daemon, name: str, clients: int) -> float:
    """Seconds from the first client's request to its last line; every client must see the end."""
    ends: list[str] = []

    def follow() -> None:
        connection = _connection(daemon.socket)
        try:
            body = json.dumps({"name": name})
            connection.request("POST", "/syncd/v1/pull", body, {"Content-Type": "application/json"})
            last = b""
            for line in connection.getresponse():
                last = line
            ends.append(json.loads(last)["event"])
        finally:
            connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=follow, name=f"client {number}") for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    if ends != ["ended"] * clients:
        raise BenchmarkError(f"not every client saw the end: {ends}")
    return took


@contextmanager
def daemon(world: World, names: Sequence[str], more: str = "", *, store: Path | None = None) -> Iterator[Daemon]:
    """A daemon on ``store``, or an empty one, that is to hold these models. ``more``: of its settings."""
    with world.fresh("daemon") as folder:
        folder.mkdir()
        control, port = folder / "run" / "syncd.sock", free_port()
        settings = folder / "syncd.toml"
        settings.write_text(
            f'store = "{store or folder / "store"}"\n'
            + "".join(f'[[models]]\nname = "{name}"\n' for name in names)
            + more
            + f'[ops]\nlisten = "127.0.0.1:{port}"\n'
        )
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(folder / "notify"))
        notify.settimeout(30)
        environ = {
            **world.environ,
            "SYNCD_CONFIG": str(settings),
            "SYNCD_SOCKET": str(control),
            "NOTIFY_SOCKET": str(folder / "notify"),
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "syncd.cli.main", "serve"], env=environ, stdout=log, stderr=log
            )
        try:
            _wait_until_ready(notify, folder / "log")
            yield Daemon(process, control, port)
        finally:
            notify.close()
            process.terminate()
            process.wait(20)


def _wait_until_ready(notify: socket.socket, log: Path) -> None:
    try:
        while b"READY=1" not in notify.recv(4096):
            pass
    except TimeoutError as error:
        raise BenchmarkError(f"the daemon does not get ready: {log.read_text()[-2000:]}") from error


def _connection(path: Path) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("syncd", timeout=_PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(_PATIENCE)
    connection.sock.connect(os.fspath(path))
    return connection
