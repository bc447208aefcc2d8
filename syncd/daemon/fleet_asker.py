"""Levels 1 and 2: one server asked over its own connection, and what it answered."""

from dataclasses import replace

from syncd.daemon.followed import Times
from syncd.instances.line import Line
from syncd.instances.model import Instance
from syncd.instances.ollama import OllamaServer, ProbeError, Reason
from syncd.instances.probe import Fault, Look, Published, Showing, folded


class Asker:
    """Asks one server. For one caller at a time; the connection is opened when it is needed first."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._line: Line | None = None
        self._closed = False

    async def look(self, instance: Instance, patience: float) -> tuple[Look, bool]:
        """Its version, what it lists and what it has loaded; and whether it had closed the connection meanwhile.

        ``patience``: seconds for each of the three answers.
        """
        look = Look(self._times.monotonic(), self._times.wall())
        try:
            line = self._opened(instance)
        except ProbeError as error:
            return replace(look, fault=Fault.of(error, look.epoch)), False
        server = _server(instance, line, patience)
        line.begin()
        try:
            look = replace(look, version=await server.version())
            look = replace(look, listed={folded(one.name): one for one in await server.tags()})
            look = replace(look, loaded=await server.ps())
        except ProbeError as error:
            line.broke()
            return replace(look, fault=Fault.of(error, look.epoch)), line.dropped()
        line.answered()
        return look, line.dropped()

    async def show(self, instance: Instance, model: Published, patience: float) -> Showing:
        """What it says of one model. ``patience``: seconds."""
        showing = Showing(model.digest, self._times.monotonic())
        try:
            shown = await _server(instance, self._opened(instance), patience).show(model.name)
        except ProbeError as error:
            if self._line is not None:
                self._line.broke()
            return replace(showing, fault=Fault.of(error, self._times.wall()))
        return replace(showing, embeds_only=shown.embeds_only, hosted=shown.hosted)

    async def close(self) -> None:
        """Hang up, for good."""
        self._closed = True
        if self._line is not None:
            await self._line.close()

    def _opened(self, instance: Instance) -> Line:
        if self._closed:
            raise ProbeError(Reason.REFUSED, f"{instance.name}: it is no server of ours any more")
        if self._line is None:
            self._line = Line()
        return self._line


def _server(instance: Instance, line: Line, patience: float) -> OllamaServer:
    return OllamaServer(instance.name, instance.url, line.session, patience=patience, load_patience=patience)
