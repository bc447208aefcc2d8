"""A body's bytes from its socket to the disk, in one thread and through one buffer: they never leave its cache."""

from collections.abc import Callable

from syncd.download.pace import Clock, Connection
from syncd.registry.raw import RawBody

_BUFFER = 1024 * 1024  # bytes
_TELL_BYTES = 4 * 1024 * 1024
_TELL_SECONDS = 0.1

Write = Callable[[list[bytes | memoryview]], int]
Tell = Callable[[int, int], None]


def pump(
    raw: RawBody, write: Write, connection: Connection, clock: Clock, *, tell: Tell, stopped: Callable[[], bool]
) -> None:
    """Hand the body to ``write`` as it comes, to its end or until ``stopped``. Blocks.

    ``tell`` gets how many bytes were received, and how many of them were wanted: now and then, since whoever hears it
    takes the processor from who reads, and at the end. Raise ``SyncdError`` where the connection breaks; everything
    that came was written then.
    """
    received = wanted = 0
    told = clock()
    try:
        if raw.early:
            connection.moved += len(raw.early)
            received, wanted = len(raw.early), write([raw.early])
        buffer = memoryview(bytearray(min(_BUFFER, raw.rest)))
        while raw.rest and not stopped():
            if connection.waiting_since is None:
                connection.waiting_since = clock()
            count = raw.read_into(buffer)
            if count is not None:
                connection.waiting_since = None
                connection.moved += count
                received += count
                wanted += write([buffer[:count]])
            if received and (received >= _TELL_BYTES or clock() - told >= _TELL_SECONDS):
                tell(received, wanted)
                received, wanted, told = 0, 0, clock()
    finally:
        if received:
            tell(received, wanted)
