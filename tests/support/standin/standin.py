"""What tests hold in their hands: a stand-in in a thread of its own, told from any thread what it does."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.support.ports import listening, listening_on
from tests.support.serving import HttpServer, LoopThread
from tests.support.standin.orders import INFERENCE, Asked, Ledger, Load, Order, What
from tests.support.standin.server import Server
from tests.support.standin.settings import Settings

_PATIENCE = 60.0  # seconds for what a test waits for


class StandIn:
    """A stand-in for one Ollama server. A context manager, plain or async.

    ``StandIn(models, **settings)``: the settings are those of ``Settings``. Every method may be called from any thread
    and from async code: none waits longer than a moment, but for the ``wait_…`` family.
    """

    def __init__(self, models: Path, **settings: Any) -> None:
        self.settings = Settings(models, **settings)
        self.ledger = Ledger()
        self._port = self.settings.port
        self._life: _Life | None = None
        self._thread = LoopThread("standin")

    # Life

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.end()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def start(self) -> None:
        """Prune, then listen, on the port it had. Raise ``OSError`` where an Ollama server would not start."""
        if self._life is None:
            life = _Life(self.settings, self.ledger, self._port)
            self._thread.call(life.start())
            self._life, self._port = life, life.port

    def stop(self) -> None:
        """As SIGKILL: all connections break, all runners are gone, connecting is refused."""
        life, self._life = self._life, None
        if life is not None:
            self._thread.call(life.stop())

    def restart(self, **settings: Any) -> None:
        """As a container that was restarted, with some settings changed if need be; orders and records stay."""
        self.stop()
        fields = {name: getattr(self.settings, name) for name in Settings.__slots__}
        self.settings = Settings(**{**fields, **settings})
        self.start()

    # Where it is

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://{self.settings.host}:{self._port}"

    # What it does wrong, until it healed or ``times`` are spent. ``paths``: none is all of the API

    def hang(self, *paths: str, model: str | None = None, times: int | None = None) -> None:
        """Read requests and never answer."""
        self.ledger.give(Order(What.HANG, paths, model, times))

    def drop(self, *paths: str, model: str | None = None, times: int | None = None) -> None:
        """Break connections instead of answering."""
        self.ledger.give(Order(What.DROP, paths, model, times))

    def answer(
        self, status: int, *paths: str, model: str | None = None, times: int | None = None, error: str = "told to fail"
    ) -> None:
        """Answer with this status and error."""
        self.ledger.give(Order(What.STATUS, paths, model, times, status=status, error=error))

    def not_found(self, model: str, *paths: str, times: int | None = None) -> None:
        """Answer 404 for a model that is there; in show, generate, chat and embed unless ``paths`` says otherwise."""
        self.ledger.give(Order(What.NOT_FOUND, paths or ("/api/show", *INFERENCE), model, times))

    def empty_answers(self, model: str | None = None, times: int | None = None) -> None:
        """Answer 200 with neither token nor vector."""
        self.ledger.give(Order(What.EMPTY, INFERENCE, model, times))

    def slow(self, seconds: float, *paths: str, model: str | None = None, times: int | None = None) -> None:
        """Wait before each answer."""
        self.ledger.give(Order(What.SLOW, paths, model, times, seconds=seconds))

    def slow_load(self, seconds: float, model: str | None = None, times: int | None = None) -> None:
        """Loads take that long."""
        self.ledger.give(Order(What.SLOW_LOAD, (), model, times, seconds=seconds))

    def fail_load(self, model: str | None = None, times: int | None = None) -> None:
        """Loads fail with status 500, as where memory is short."""
        error = "model requires more system memory than is available"
        self.ledger.give(Order(What.FAIL_LOAD, (), model, times, error=error))

    def die_at(self, *paths: str, model: str | None = None) -> None:
        """Be gone at the next such request, as by ``stop()``; ``restart()`` brings it back."""
        self.ledger.give(Order(What.DIE, paths, model, times=1))

    def heal(self) -> None:
        """Do nothing wrong any more. Requests that hang already go on hanging."""
        self.ledger.withdraw()

    # What it was asked, and what it did

    def requests(self, path: str | None = None, model: str | None = None) -> list[Asked]:
        return self.ledger.matching(path, model)

    @property
    def loads(self) -> list[Load]:
        """In the order in which they ended; failed ones too."""
        return list(self.ledger.loads)

    @property
    def contexts(self) -> list[int]:
        """The context length of each load that did not fail."""
        return [load.num_ctx for load in self.loads if not load.failed]

    @property
    def unloads(self) -> list[str]:
        """Names of the blobs whose runners went."""
        return list(self.ledger.unloads)

    def forget(self) -> None:
        """Begin the records anew."""
        self.ledger.forget()

    def wait_until(self, is_so: Callable[[], bool], seconds: float = _PATIENCE) -> None:
        """Look again at each request, answer, load and unload. Raise ``TimeoutError``."""
        self.ledger.wait_until(is_so, seconds)

    def wait_for_requests(self, count: int, path: str | None = None, model: str | None = None) -> None:
        """Until so many have come in, answered or not."""
        self.wait_until(lambda: len(self.ledger.matching(path, model)) >= count)


class _Life:
    """From a start to a stop, in one event loop. ``die``: how to be gone at once; none: all connections break."""

    def __init__(self, settings: Settings, ledger: Ledger, port: int, die: Callable[[], None] | None = None) -> None:
        self._settings = settings
        self._server = Server(settings, ledger, die or self._vanish)
        self._http: HttpServer | None = None
        self.port = port

    async def start(self) -> None:
        self._server.prepare()
        host = self._settings.host
        bound = listening_on(self.port, host) if self.port else listening(host)
        self.port = bound.getsockname()[1]
        self._http = HttpServer(self._server.handle)
        await self._http.listen(bound)

    async def stop(self) -> None:
        if self._http is not None:
            await self._http.close()
        await self._server.close()

    def _vanish(self) -> None:
        if self._http is not None:
            self._http.vanish()


async def serve(settings: Settings, announce: Callable[[str], None], die: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM. Raise ``OSError`` where an Ollama server would not start."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    life = _Life(settings, Ledger(), settings.port, die)
    await life.start()
    announce(f"http://{settings.host}:{life.port}")
    await ended.wait()
    await life.stop()
