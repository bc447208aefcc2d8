"""The settings in force while the daemon runs: read anew when a file changes, replaced only by ones that can be used.

What a broken, emptied or vanished file says is not applied: the old settings stay in force, and ``fault`` says why.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path

import structlog
from watchfiles import Change, awatch
from watchfiles._rust_notify import WatchfilesRustInternalError  # documented ("Rust backend"), exported nowhere else

from syncd.aio import in_thread, only_error
from syncd.daemon import dropins
from syncd.daemon.loaded import SYSTEM_FILE, Loaded, candidates, found, loaded_of
from syncd.daemon.settings_parse import parse
from syncd.daemon.watched import Watched, watched
from syncd.errors import ConfigurationError, SyncdError

log = structlog.get_logger()

_REREAD = 60.0  # seconds: inotify says nothing of what other hosts do on a network file system
_UNWATCHED = 10  # times ``settle``, until watching is tried again: a folder went just now, or inotify has none left
_UNWATCHABLE = (OSError, WatchfilesRustInternalError)
_LONGEST_SETTLE = 5  # times ``settle``: a file that never rests is read all the same


class AppliedSettings:
    """``current``: in force, since ``loaded_at`` (seconds since the epoch). ``fault``: why newer ones are refused.

    ``revision`` grows whenever one of them changes, and with every ``reload``. For one event loop.
    """

    def __init__(
        self,
        current: Loaded,
        named: Path | None,
        environ: Mapping[str, str],
        *,
        now: Callable[[], float],
        accept: Callable[[Loaded], object] | None = None,
        system_file: Path = SYSTEM_FILE,
        settle: float = 0.5,
    ) -> None:
        """``current``: what ``load(named, environ)`` gave. ``settle``: seconds of rest before changed files are read.

        ``accept`` raises ``SyncdError`` for settings that the process cannot go by; it runs in a thread.
        """
        self.current = current
        self.fault: SyncdError | None = None
        self.loaded_at = now()
        self.revision = 1
        self._named = named
        self._environ = environ
        self._now = now
        self._accept = accept
        self._system_file = system_file
        self._settle = settle
        self._pins = current.settings.pins
        """The pins file that the files name now, be what they say in force or refused: it may be what is wrong."""
        self._turn = asyncio.Lock()
        self._next = asyncio.Event()

    async def changed(self, after: int) -> int:
        """Wait until ``revision`` is greater than ``after``; return it."""
        while self.revision <= after:
            await self._next.wait()
        return self.revision

    async def reload(self) -> bool:
        """Read the files now, and let whoever waits look at everything again: secrets may have changed beside them.

        True: what the files say is in force. False: ``fault`` says why it is not.
        """
        await self._refresh(asked=True)
        return self.fault is None

    async def run(self) -> None:
        """Follow the files until cancelled."""
        unwatched: str | None = None
        while True:
            look = await in_thread(self._look)
            try:
                async with asyncio.TaskGroup() as group:
                    # This task has its first turn when the watch is set up: what changed before that, it finds itself.
                    moved = asyncio.Event()
                    group.create_task(self._reread(look, moved), name="settings.reread")
                    await self._change(look, moved)
            except* _UNWATCHABLE as errors:
                reason = str(only_error(errors, _UNWATCHABLE))
                if reason != unwatched:
                    log.warning("settings.unwatched", reason=reason, read_every=self._settle * _UNWATCHED)
                unwatched = reason
                await asyncio.sleep(self._settle * _UNWATCHED)
                await self._refresh(asked=False)

    async def _reread(self, look: Watched, moved: asyncio.Event) -> None:
        """Read the files; ``moved`` if there is more to watch than ``look`` now: they name a pins file, say."""
        await self._refresh(asked=False)
        if await in_thread(self._look) != look:
            moved.set()

    async def _change(self, look: Watched, moved: asyncio.Event) -> None:
        """Wait until something changed that matters and has come to rest, or until it is time to look anyway."""

        def concerns(_change: Change, path: str) -> bool:
            return look.concerns(path)

        changes = awatch(
            *look.folders,
            recursive=False,
            watch_filter=concerns,
            step=int(self._settle * 1000),  # it is also how often an idle watch wakes up
            debounce=int(self._settle * 1000 * _LONGEST_SETTLE),
            rust_timeout=int(_REREAD * 1000),
            yield_on_timeout=True,
            stop_event=moved,
        )
        async with aclosing(changes):
            await anext(changes, None)

    def _look(self) -> Watched:
        if self.current.path is not None:
            paths = [self.current.path]
        else:
            places, _ = candidates(self._named, self._environ, system_file=self._system_file)
            paths = list(places)
        files = paths if self._pins is None else [*paths, self._pins]
        return watched(files, [path.parent / dropins.FOLDER for path in paths])

    async def _refresh(self, *, asked: bool) -> None:
        async with self._turn:
            try:
                fresh = await in_thread(self._read, asked=asked)
            except SyncdError as error:
                self._refuse(error, asked=asked)
            else:
                self._apply(fresh, asked=asked)

    def _read(self, *, asked: bool) -> Loaded:
        """What the files say now, if it can be used; ``current`` itself where nothing changed. Raise ``SyncdError``."""
        fresh = self._from_files()
        _refuse_loss(self.current, fresh)
        unchanged = (fresh.document, fresh.pins) == (self.current.document, self.current.pins)
        if self._accept is not None and (asked or not unchanged or self.fault is not None):
            self._accept(fresh)
        return self.current if unchanged else fresh

    def _from_files(self) -> Loaded:
        path = self.current.path
        if path is None:
            document = found(self._named, self._environ, system_file=self._system_file) or dropins.Document()
        elif path.exists() and not path.is_file():
            raise ConfigurationError(f"{path} is no file")  # a FIFO would keep whoever opens it
        else:
            document = dropins.read(path) or dropins.Document(path)
        self._pins = parse(document).pins
        return loaded_of(document)

    def _apply(self, fresh: Loaded, *, asked: bool) -> None:
        if fresh is self.current and self.fault is None and not asked:
            return
        if fresh is not self.current:
            self.loaded_at = self._now()
        self.current, self.fault = fresh, None
        log.info("settings.applied", files=[str(file.path) for file in fresh.files], models=len(fresh.settings.models))
        self._announce()

    def _refuse(self, error: SyncdError, *, asked: bool) -> None:
        known = self.fault is not None and self.fault.message == error.message
        self.fault = error
        if known and not asked:
            return
        log.error("settings.refused", reason=error.message, hint=error.hint)
        self._announce()

    def _announce(self) -> None:
        self.revision += 1
        self._next.set()
        self._next = asyncio.Event()


def _refuse_loss(current: Loaded, fresh: Loaded) -> None:
    """Refuse what is settings by chance: nobody gives up all models by a file that is gone, or empty in mid-save."""
    there = {file.path: file for file in fresh.files}
    before = {file.path: file for file in current.files}
    if current.path in before and current.path not in there:
        raise ConfigurationError(
            f"{current.path} is gone: the settings that it held stay in force",
            hint="put it back; a restart goes on without it",
        )
    for path, file in there.items():
        if path in before and not file.text.strip() and before[path].text.strip():
            raise ConfigurationError(
                f"{path} is empty: the settings that it held stay in force",
                hint="if you mean the defaults, write a comment into it",
            )
