"""A doctor's look at the servers: each says its version and its list, and Docker how its container sees the store."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from syncd.errors import NotFoundError, SyncdError
from syncd.instances.connections import fresh_connections
from syncd.instances.containers import Container
from syncd.instances.docker import Engine
from syncd.instances.labels import labelled
from syncd.instances.model import Instance
from syncd.instances.ollama import OllamaServer, ProbeError
from syncd.jobs.doctor_exam import ServerSeen
from syncd.jobs.rules import KnownServers


@dataclass(frozen=True, slots=True)
class Round:
    """All servers at one moment. ``engine_fault``: why Docker told nothing."""

    servers: tuple[ServerSeen, ...] = ()
    engine_fault: str | None = None


async def look(known: KnownServers, docker_url: str | None) -> Round:
    """Ask all of them at once. Raises no ``SyncdError``: what is not known is said."""
    instances, containers, gone, fault = list(known.instances), {}, {}, None
    if docker_url is not None:
        try:
            found = await _engine(Engine(docker_url), instances, discovers=known.discovered)
        except SyncdError as error:
            fault = error.message
        else:
            instances, containers, gone = list(found.instances), dict(found.containers), dict(found.gone)
    async with fresh_connections() as session:
        asked = [
            OllamaServer(one.name, one.url, session, patience=known.patience, load_patience=known.patience)
            for one in instances
        ]
        async with asyncio.TaskGroup() as group:
            looks = [
                group.create_task(_server(one.name, server), name=f"doctor {one.name}")
                for one, server in zip(instances, asked, strict=True)
            ]
    seen = tuple(
        replace(one.result(), container=containers.get(instance.name), gone=gone.get(instance.name))
        for instance, one in zip(instances, looks, strict=True)
    )
    return Round(seen, fault)


@dataclass(frozen=True, slots=True)
class _Engine:
    """``containers``, ``gone``: by the instance's name."""

    instances: Sequence[Instance]
    containers: Mapping[str, Container]
    gone: Mapping[str, str]


async def _engine(engine: Engine, configured: Sequence[Instance], *, discovers: bool) -> _Engine:
    containers: dict[str, Container] = {}
    gone: dict[str, str] = {}
    for instance in configured:
        if instance.container is not None:
            try:
                containers[instance.name] = await engine.inspect(instance.container)
            except NotFoundError:
                gone[instance.name] = instance.container
    instances = list(configured)
    if discovers:
        own = {container.id for container in containers.values()}
        marked = {one.name: one for one in await engine.containers() if one.running and one.id not in own}
        for instance in labelled(marked.values(), taken=configured).instances:
            instances.append(instance)
            if instance.container is not None and instance.container in marked:
                containers[instance.name] = marked[instance.container]
    return _Engine(instances, containers, gone)


async def _server(name: str, server: OllamaServer) -> ServerSeen:
    try:
        version = await server.version()
    except ProbeError as error:
        return ServerSeen(name=name, trouble=error.message)
    try:
        return ServerSeen(name=name, version=version, tags=await server.tags())
    except ProbeError as error:
        return ServerSeen(name=name, version=version, trouble=error.message)
