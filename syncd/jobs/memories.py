"""What servers have in memory, asked of them directly: for a collection while no daemon runs."""

import asyncio
from collections.abc import Iterable

from syncd.errors import InvalidDigestError
from syncd.instances.connections import fresh_connections
from syncd.instances.model import Instance
from syncd.instances.ollama import OllamaServer, ProbeError, Reason
from syncd.jobs.collection import Memories
from syncd.oci.digest import Digest

_DOCKERS = "the settings leave it to the Docker Engine which servers there are, and no daemon runs that follows it"


async def ask(instances: Iterable[Instance], *, discovered: bool, patience: float) -> Memories:
    """Ask each for what it has loaded. ``discovered``: there are servers that these are not all of.

    One that nobody can connect to has nothing loaded; one that does not answer may have anything. ``patience``: seconds
    for each answer.
    """
    asked = tuple(instances)
    async with fresh_connections() as session:
        servers = [OllamaServer(one.name, one.url, session, patience=patience, load_patience=patience) for one in asked]
        async with asyncio.TaskGroup() as group:
            looks = [
                group.create_task(_one(one.name, server), name=f"ps {one.name}")
                for one, server in zip(asked, servers, strict=True)
            ]
    found = [look.result() for look in looks]
    return Memories(
        loaded=frozenset().union(*(one.loaded for one in found)),
        doubts=(*(doubt for one in found for doubt in one.doubts), *((_DOCKERS,) if discovered else ())),
        notices=tuple(notice for one in found for notice in one.notices),
    )


async def _one(name: str, server: OllamaServer) -> Memories:
    try:
        loaded = await server.ps()
    except ProbeError as error:
        if error.reason is Reason.REFUSED:
            return Memories(notices=(f"{name} is down, so it has nothing loaded",))
        return Memories(doubts=(f"nobody knows what {name} has loaded: {error.message}",))
    return of(name, (one.digest for one in loaded))


def of(name: str, hexes: Iterable[str]) -> Memories:
    """What a server has loaded, by the digests that it tells as bare hex."""
    found, strange = set(), False
    for one in hexes:
        try:
            found.add(Digest.parse(f"sha256:{one}"))
        except InvalidDigestError:
            strange = True
    doubts = (f"{name} has something loaded and does not tell what",) if strange else ()
    return Memories(loaded=frozenset(found), doubts=doubts)
