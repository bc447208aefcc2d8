"""The daemon's pulse: the watchdog is fed by the loop itself, and ``systemctl status`` gets a line that is true."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from syncd.api.v1 import DesiredModel
from syncd.daemon.notify import Notifier
from syncd.jobs.board import JobView
from syncd.jobs.progress import Phase, Totals

_BUSY = 1.0  # seconds between two lines while something runs
_AFTERBEATS = 3
_IDLE = 30.0  # seconds, where no watchdog asks for more


def status_line(running: Sequence[JobView], desired: Iterable[DesiredModel], fault: str | None) -> str:
    """What goes on, in a line: ``pulling mistral:7b 43 %``; else how the models stand."""
    refused = "; newer settings are refused" if fault is not None else ""
    if running:
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        return f"pulling {_progress(running[0])}{more}{refused}"
    models = tuple(desired)
    # Whatever else is to be said of it: a check that fails, or an update that waits, takes nothing away.
    whole = sum(one.digest is not None and one.done == one.size for one in models)
    failing = sum(one.state == "failing" for one in models)
    failed = f", {failing} failing" if failing else ""
    return f"{whole} of {len(models)} models published{failed}{refused}"


def _progress(view: JobView) -> str:
    name = str(view.reference.name)
    if view.progress is None or view.progress.phase in {Phase.RESOLVING, Phase.WAITING}:
        return name
    return f"{name} {Totals.of(view.progress).percent} %"


class Pulse:
    """A service: beats as often as the watchdog needs it, faster while something runs. ``stir`` makes it beat soon."""

    def __init__(self, notifier: Notifier, line: Callable[[], tuple[bool, str]]) -> None:
        """``line``: whether something runs, and the status line."""
        self._notifier = notifier
        self._line = line
        self._stirred = asyncio.Event()
        self._told = ""

    def stir(self) -> None:
        """Something has changed that the line tells of."""
        self._stirred.set()

    async def run(self) -> None:
        """It ends by cancellation."""
        longest = _IDLE if self._notifier.watchdog is None else self._notifier.watchdog / 3
        lively = 0  # beats until it calms down: what a change brings about comes a moment after it
        while True:
            lively = _AFTERBEATS if self._stirred.is_set() else max(0, lively - 1)
            self._stirred.clear()
            busy, line = self._line()
            self._notifier.alive()
            if line != self._told:
                self._told = line
                self._notifier.status(line)
            await asyncio.sleep(min(longest, 0.1))  # however much is stirred
            try:
                async with asyncio.timeout(min(longest, _BUSY) if busy or lively else longest):
                    await self._stirred.wait()
            except TimeoutError:
                pass
