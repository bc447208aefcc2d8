"""A command of the host's, run without a shell and not for ever."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from syncd.errors import ExitCode, SyncdError
from syncd.text import printable

_TAIL = 2048  # bytes of what it wrote last that an error quotes
_CHUNK = 65536


class CommandFailedError(SyncdError):
    """The command could not be run, took too long, or says that it failed."""

    exit_code = ExitCode.SERVER_FAILED


async def run(command: Sequence[str], *, within: float) -> None:
    """Run it, with nothing to read; killed with all that it started after ``within`` seconds, or if this is cancelled.

    What it leaves running when it ends well is its own business. Raise ``CommandFailedError`` with the end of what it
    wrote.
    """
    with _output() as (output, tail):
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise CommandFailedError(f"{command[0]}: cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(within):
                code = await process.wait()
        except TimeoutError as error:
            raise CommandFailedError(f"{command[0]}: not done after {within:g} s{_quoted(tail.read())}") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code:
            how = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
            raise CommandFailedError(f"{command[0]}: {how}{_quoted(tail.read())}")


class _Tail:
    """The end of what is written into a pipe, taken out as it comes."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._kept = bytearray()

    def take(self) -> bool:
        """What is there now; whether anything was."""
        try:
            found = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return False
        self._kept += found
        del self._kept[:-_TAIL]
        return True

    def read(self) -> bytes:
        """All of it that counts."""
        for _ in range(_CHUNK // _TAIL):
            if not self.take():
                break
        return bytes(self._kept)


@contextmanager
def _output() -> Iterator[tuple[int, _Tail]]:
    """What a process may write into, and the end of that.

    No pipe of asyncio's: that would be waited for, although a child that the command left behind may hold it open.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    tail = _Tail(reading)
    loop = asyncio.get_running_loop()
    loop.add_reader(reading, tail.take)
    try:
        yield writing, tail
    finally:
        loop.remove_reader(reading)
        os.close(reading)
        os.close(writing)


def _quoted(tail: bytes) -> str:
    text = printable(" ".join(tail.decode(errors="replace").split()), limit=400)
    return f": {text}" if text else ""
