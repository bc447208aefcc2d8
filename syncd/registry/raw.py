"""The socket under a body, for whoever wants its bytes in a buffer of his own and in a thread of his own.

An event loop reads gigabytes in one thread, and every piece into new memory. Where a body comes over plain TCP with a
known length, all that is left to do after the headers is to read so many bytes: that may happen anywhere.
"""

import asyncio
import socket
from typing import Self

import aiohttp

from syncd.errors import RegistryUnavailableError

_PATIENCE = 0.2  # seconds that one look at the socket waits: how soon a reader notices that it is to stop


class RawBody:
    """The rest of a body: ``early`` has arrived already, ``rest`` bytes are still to come. Owns its socket.

    Its methods block, and are for one thread at a time.
    """

    def __init__(self, peer: socket.socket, early: bytes, rest: int, *, what: str) -> None:
        """``what``: the blob and its source, in words for errors."""
        self._socket = peer
        self._what = what
        self.early = early
        self.rest = rest

    def read_into(self, buffer: memoryview) -> int | None:
        """Read up to ``len(buffer)`` of the bytes that are still to come; how many. None: nothing came for a moment.

        Raise ``RegistryUnavailableError`` where the connection breaks or ends before the last of them.
        """
        try:
            count = self._socket.recv_into(buffer[: min(len(buffer), self.rest)])
        except TimeoutError:
            return None
        except OSError as error:
            raise RegistryUnavailableError(f"{self._what}: the connection broke: {error.strerror}") from error
        if count == 0:
            raise RegistryUnavailableError(f"{self._what}: the connection ended {self.rest} bytes early")
        self.rest -= count
        return count

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def detach(answer: aiohttp.ClientResponse, size: int, *, what: str) -> RawBody | None:
    """Take the body of ``answer``, of ``size`` bytes, away from aiohttp; None where that cannot be done.

    It cannot over TLS, in chunks, or where all of it has come already. The connection cannot be used again afterwards:
    aiohttp waits for a body that it will not see. Whoever closes the answer closes it.
    """
    connection = answer.connection
    transport = connection.transport if connection is not None else None
    if transport is None or transport.get_extra_info("sslcontext") is not None or answer.content_length != size:
        return None
    peer = transport.get_extra_info("socket")
    if peer is None or not isinstance(transport, asyncio.ReadTransport):
        return None
    early = answer.content.read_nowait()
    # After the read, which may have made aiohttp ask for more: from here on the loop leaves the socket alone.
    transport.pause_reading()
    own = socket.fromfd(peer.fileno(), peer.family, peer.type)
    own.settimeout(_PATIENCE)
    return RawBody(own, early, size - len(early), what=what)
