"""A daemon that says what a test tells it to say: raw bytes on a real unix socket."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Script = Callable[[socket.socket], None]


class ScriptedDaemon:
    """A context manager. ``says`` sets what is answered to a request; ``asked`` is what was asked, with the bodies."""

    def __init__(self, path: Path, store: Path) -> None:
        self.path = path
        self.asked: list[tuple[str, str, Any]] = []
        self._scripts: dict[str, Script] = {}
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self.released = threading.Event()
        self.says("/syncd/v1/daemon", info(store))

    def says(self, target: str, body: object, *, status: int = 200) -> None:
        """Answer with ``body`` as JSON, or as it is if it is bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        self.does(target, lambda connection: connection.sendall(head.encode() + content))

    def streams(self, target: str, *lines: object, ends: bool = True) -> None:
        """Answer line by line, chunked; then end well, or break off."""

        def script(connection: socket.socket) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for line in lines:
                content = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                connection.sendall(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            if ends:
                connection.sendall(b"0\r\n\r\n")

        self.does(target, script)

    def does(self, target: str, script: Script) -> None:
        """Answer with whatever ``script`` does to the connection, which is closed then."""
        self._scripts[target] = script

    def hangs(self, target: str) -> None:
        """Never answer; ``released`` ends that."""
        self.does(target, lambda _: self.wait())

    def wait(self) -> None:
        """Until the test has seen enough."""
        self.released.wait(60)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.released.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(30)
        self.path.unlink(missing_ok=True)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader, suppress(OSError):
            connection.settimeout(20)
            method, target, _ = reader.readline().decode().split(" ", 2)
            headers = {}
            while line := reader.readline().strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = reader.read(int(headers.get("content-length", 0)))
            self.asked.append((method, target, json.loads(body) if body else None))
            self._scripts.get(target, _not_found)(connection)


def info(store: Path) -> dict[str, Any]:
    return {"version": "1.0", "pid": 4711, "uid": 0, "store": str(store), "started": "2026-01-01T00:00:00Z"}


def _not_found(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
