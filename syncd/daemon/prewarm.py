"""What is kept warm: models that are loaded on a server before anybody asks for them."""

import asyncio
from collections.abc import Callable

import structlog

from syncd.aio import in_thread
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.settings import Settings
from syncd.errors import SyncdError
from syncd.instances.model import Instance
from syncd.jobs.reload_server import Reloader, Servers
from syncd.oci.name import ModelName
from syncd.store.root import Store

log = structlog.get_logger()

_ATTEMPTS = 3  # a server that cannot load a model then is left alone until it starts again
_ASK_AGAIN = 10.0  # seconds


def kept_warm(settings: Settings, instance: Instance) -> tuple[ModelName, ...]:
    """The models that this server is to have loaded: those with ``prewarm``, or all where the server has it."""
    return tuple(one.name.name for one in settings.models if one.prewarm or instance.prewarm)


class Prewarm:
    """A service. ``started`` says that a server has nothing loaded any more, or may have not."""

    def __init__(
        self,
        store: Store,
        servers: Servers,
        reloader: Reloader,
        *,
        settings: Callable[[], Settings],
        chronicle: Chronicle,
        ask_again: float = _ASK_AGAIN,
    ) -> None:
        """``ask_again``: seconds until another try, after one that failed."""
        self._store = store
        self._servers = servers
        self._reloader = reloader
        self._settings = settings
        self._chronicle = chronicle
        self._ask_again = ask_again
        self._started: dict[str, None] = {}
        self._stirred = asyncio.Event()

    def started(self, instance: str) -> None:
        """It is up, or up again."""
        self._started[instance] = None
        self._stirred.set()

    async def run(self) -> None:
        """It ends by cancellation."""
        async with asyncio.TaskGroup() as group:
            under_way: dict[str, asyncio.Task[None]] = {}
            while True:
                await self._stirred.wait()
                self._stirred.clear()
                started, self._started = self._started, {}
                for instance in self._servers.instances():
                    if instance.name in started:
                        if before := under_way.pop(instance.name, None):
                            before.cancel()
                        task = group.create_task(self._warm(instance), name=f"prewarm {instance.name}")
                        under_way[instance.name] = task

    async def _warm(self, instance: Instance) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                wanted = [name for name in kept_warm(self._settings(), instance) if await self._is_there(name)]
                for name in await self._reloader.warm(instance, wanted):
                    log.info("server.prewarmed", instance=instance.name, name=str(name))
                    self._chronicle.tell("server.prewarmed", name=str(name), detail=instance.name)
            except SyncdError as error:
                log.warning("server.not_prewarmed", instance=instance.name, error=error.message, attempt=attempt)
            except Exception:  # a bug with one server is no reason to leave the others cold
                log.exception("server.not_prewarmed", instance=instance.name)
                return
            else:
                return
            await asyncio.sleep(self._ask_again)

    async def _is_there(self, name: ModelName) -> bool:
        """One that is not there yet is loaded once it is published (``Update.keep_warm``)."""
        return await in_thread(self._store.models.tag_digest, name) is not None
