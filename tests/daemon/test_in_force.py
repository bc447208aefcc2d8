"""New settings come into force: what cannot be had is tried again, whatever the newest files say."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from syncd.daemon.applied import AppliedSettings
from syncd.daemon.chronicle import Chronicle
from syncd.daemon.doors import Doors, Health
from syncd.daemon.in_force import GoingBySettings, InForce
from syncd.daemon.loaded import load
from syncd.daemon.notify import Notifier
from syncd.daemon.pulse import Pulse
from syncd.daemon.telemetry import Telemetry
from syncd.daemon.usable import usable
from syncd.daemon.ways import Ways
from tests.api import world as api_world
from tests.support.ports import listening

_PATIENCE = 60.0  # seconds for what a test waits for
_OPEN_AGAIN = 0.05
NOWHERE = '[ops]\nlisten = ""\n'


@dataclass
class World:
    """``file``: the settings; they are read when ``read`` says so."""

    file: Path
    applied: AppliedSettings
    in_force: InForce

    async def read(self, text: str) -> None:
        self.file.write_text(text)
        await self.applied.reload()

    async def fault(self, words: str) -> None:
        """Until this is what is wrong."""
        async with asyncio.timeout(_PATIENCE):
            while (found := self.in_force.fault) is None or words not in found.message:
                await asyncio.sleep(0.01)


async def nothing() -> None:
    """Before a publication."""


@asynccontextmanager
async def in_force(folder: Path) -> AsyncIterator[World]:
    file = folder / "syncd.toml"
    file.write_text(NOWHERE)
    applied = AppliedSettings(load(file, {}), file, {}, now=time.time)
    telemetry, notifier = Telemetry(CollectorRegistry()), Notifier(None, None)
    async with api_world.daemon(folder) as api:
        store = api.service.store
        async with Ways(store, lambda *_: nothing()) as ways:
            with store.locks.daemon("a test") as lock:
                doors = Doors(api.listeners, telemetry.exposition, Health(store, lock, lambda: True))
                those = GoingBySettings(
                    store=store,
                    ways=ways,
                    doors=doors,
                    access=lambda loaded: usable(loaded, {}, own_key=None),
                    notifier=notifier,
                    pulse=Pulse(notifier, lambda: (False, "")),
                    line=lambda: "",
                    telemetry=telemetry,
                    chronicle=Chronicle(time.time),
                )
                it = InForce(applied, those, open_again=_OPEN_AGAIN)
                await it.begin()
                task = asyncio.create_task(it.take_over())
                try:
                    yield World(file, applied, it)
                finally:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                    await doors.close()


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def until_answered(port: int) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not await answers(port):
            await asyncio.sleep(0.01)


def taken(port_holder: socket.socket) -> int:
    port: int = port_holder.getsockname()[1]
    return port


async def test_a_port_that_somebody_else_had_is_listened_on_once_it_is_free(tmp_path: Path) -> None:
    async with in_force(tmp_path) as world:
        with listening() as somebody:
            port = taken(somebody)
            await world.read(f'[ops]\nlisten = "127.0.0.1:{port}"\n')
            await world.fault(str(port))

        await until_answered(port)

        async with asyncio.timeout(_PATIENCE):
            while world.in_force.fault is not None:
                await asyncio.sleep(0.01)


async def test_it_is_tried_again_also_while_newer_settings_are_refused(tmp_path: Path) -> None:
    async with in_force(tmp_path) as world:
        with listening() as somebody:
            port = taken(somebody)
            await world.read(f'[ops]\nlisten = "127.0.0.1:{port}"\n')
            await world.fault(str(port))
            await world.read("nonsense = true\n")
            await world.fault("nonsense")

        await until_answered(port)
