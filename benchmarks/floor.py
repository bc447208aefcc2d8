"""The floor: what a bare Python loop needs to fetch one blob and hash it, with nothing that makes a program of it.

Eight threads, each with a connection, ``recv_into`` a buffer and ``pwrite`` 16 MiB ranges taken in ascending order; one
more thread follows the contiguous prefix with ``preadv`` and SHA-256. No resume, no limits, no checks but the digest.
It shares no code with syncd: ``python -m benchmarks.floor HOST:PORT PATH FILE SIZE HEX``.
"""

import hashlib
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_CONNECTIONS = 8
_RANGE = 16 << 20
_BUFFER = 1 << 20


class _Blob:
    """Which ranges are taken, which are in, and how far the file is contiguous."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.failed = False
        self._next = 0
        self._ends: dict[int, int] = {}
        self._frontier = 0
        self._changed = threading.Condition()

    def take(self) -> tuple[int, int] | None:
        with self._changed:
            start = self._next
            self._next = min(start + _RANGE, self.size)
            return (start, self._next) if start < self.size else None

    def wrote(self, start: int, position: int) -> None:
        """Bytes ``start`` (a range's own) to ``position`` are in the file."""
        with self._changed:
            self._ends[start] = position
            while self._frontier in self._ends:
                end = self._ends[self._frontier]
                if end != min(self._frontier + _RANGE, self.size):
                    break
                self._frontier = end
            self._changed.notify()

    def fail(self) -> None:
        with self._changed:
            self.failed = True
            self._changed.notify()

    def prefix_beyond(self, position: int) -> int:
        """Wait until the file is contiguous beyond ``position``; up to where."""
        with self._changed:
            self._changed.wait_for(lambda: self._reach() > position or self.failed)
            if self.failed:
                raise RuntimeError("a connection failed")
            return self._reach()

    def _reach(self) -> int:
        return self._ends.get(self._frontier, self._frontier)


def _fetch(host: str, path: str, fd: int, blob: _Blob) -> None:
    name, _, port = host.partition(":")
    buffer = memoryview(bytearray(_BUFFER))
    with socket.create_connection((name, int(port))) as connection:
        while (part := blob.take()) is not None:
            start, end = part
            request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{end - 1}\r\n\r\n"
            connection.sendall(request.encode())
            position = start
            for view in _body(connection, buffer, end - start):
                os.pwrite(fd, view, position)
                position += len(view)
                blob.wrote(start, position)


def _body(connection: socket.socket, buffer: memoryview, size: int) -> Iterator[memoryview]:
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65536)
        if not part:
            raise RuntimeError("no answer")
        head += part
    status, _, first = head.partition(b"\r\n\r\n")
    if not status.startswith(b"HTTP/1.1 206"):
        raise RuntimeError(status.decode())
    if first:
        yield memoryview(first)
    rest = size - len(first)
    while rest:
        count = connection.recv_into(buffer, min(rest, len(buffer)))
        if not count:
            raise RuntimeError("the connection ended early")
        yield buffer[:count]
        rest -= count


def _worker(host: str, path: str, fd: int, blob: _Blob) -> None:
    try:
        _fetch(host, path, fd, blob)
    except BaseException:
        blob.fail()
        raise


def _hash(fd: int, blob: _Blob) -> str:
    hasher, buffer, position = hashlib.sha256(), memoryview(bytearray(_BUFFER)), 0
    while position < blob.size:
        frontier = blob.prefix_beyond(position)
        while position < frontier:
            count = os.preadv(fd, [buffer[: frontier - position]], position)
            hasher.update(buffer[:count])
            position += count
    return hasher.hexdigest()


def main() -> None:
    host, path, file, size, expected = sys.argv[1:]
    blob = _Blob(int(size))
    fd = os.open(Path(file), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.posix_fallocate(fd, 0, blob.size)
    threads = [threading.Thread(target=_worker, args=(host, path, fd, blob)) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    found = _hash(fd, blob)
    for thread in threads:
        thread.join()
    os.fsync(fd)
    os.close(fd)
    if found != expected:
        sys.exit(f"the bytes hash to {found}")


if __name__ == "__main__":
    main()
