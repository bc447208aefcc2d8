"""A doctor's look: everything that an ``Exam`` holds is seen here, and nothing is judged."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from syncd.aio import in_thread
from syncd.errors import NotAuthorisedError, SyncdError
from syncd.jobs import doctor_servers
from syncd.jobs.damage import Damage
from syncd.jobs.doctor_exam import Exam, SocketSeen, UnitSeen
from syncd.jobs.repair import survey
from syncd.jobs.rules import Rules
from syncd.jobs.scrub_book import ScrubBook
from syncd.jobs.surroundings import SecretFile, Surroundings
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import DEFAULT_HOST, ModelName
from syncd.registry.clock import TimeThere, compare
from syncd.store import layout
from syncd.store.ground import Ground, look
from syncd.store.models import StoredModel
from syncd.store.root import Store
from syncd.store.trees import Oddity, Spot

_MAX_CONFIG = 1 << 20  # bytes
_MAX_UNIT = 1 << 20
_MAX_HOSTS = 2  # that are asked what time it is
_CLOCK_PATIENCE = 5.0  # seconds
_UNIT = "syncd.service"
_SETTING = re.compile(r"^[ \t]*(ReadWritePaths|ProtectSystem)[ \t]*=[ \t]*(.*?)[ \t]*$", re.MULTILINE)


class _Config(msgspec.Struct):
    requires: str | None = None  # ollama types/model/config.go, ConfigV2: the oldest version that can run it


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How to look. ``daemon``: whether one does; ``offline``: nobody but the servers is asked anything."""

    rules: Rules
    scrubs: ScrubBook
    now: float
    daemon: bool
    offline: bool


async def gather(store: Store, way: Way) -> Exam:
    """Look at everything. No blob is read. Raise ``SyncdError`` where the store cannot be looked at."""
    around = way.rules.around
    seen = await in_thread(_of_store, store, way)
    servers = await doctor_servers.look(way.rules.servers, around.docker_url)
    clocks: tuple[TimeThere, ...] = ()
    if not way.offline:
        clocks = await _clocks(around, [reference.name for reference in way.rules.wanted] + [*_names(seen.models)])
    return replace(seen, servers=servers.servers, engine_fault=servers.engine_fault, clocks=clocks)


def _names(models: Iterable[StoredModel]) -> Iterator[ModelName]:
    return (one.name for one in models)


def ground_of(store: Store) -> Ground:
    """What the open store stands on. Blocks; raise ``SyncdError``."""
    found = look(store.path)
    return Ground(path=store.path) if found is None else found


def _of_store(store: Store, way: Way) -> Exam:
    around, rules = way.rules.around, way.rules
    odd = store.trees.odd(os.geteuid())
    models, damages = _models(store, odd)
    state = way.scrubs.state
    return Exam(
        store=store.path,
        owner=os.geteuid(),
        now=way.now,
        ground=ground_of(store),
        daemon=way.daemon,
        floor=rules.floor,
        odd=odd,
        models=models,
        requires=_required(store, models),
        damages=damages,
        staged=tuple(one for one in store.sweep.staged() if one.digest is not None),
        quarantined=tuple(store.sweep.quarantined()),
        leases=sum(not lease.keeps for lease in store.leases.all(way.now)),
        trash=len(store.sweep.trash()),
        wanted=rules.wanted,
        holds={hold.name: hold.manifest.digest for hold in store.holds.all()},
        scrub_every=around.scrub_every,
        scrubbed=None if state.last is None else state.last.ended,
        since=_since(store),
        discovers=rules.servers.discovered,
        local_engine=(around.docker_url or "").startswith("unix:"),
        sockets=tuple(_sockets(around.sockets)),
        units=tuple(_units(around.units)),
        secrets=tuple(_with_mode(secret) for secret in around.secrets),
        registries=around.registries,
    )


def _models(store: Store, odd: Iterable[Spot]) -> tuple[tuple[StoredModel, ...], tuple[Damage, ...]]:
    """Those that can be read, with what is known to be damaged of them."""
    try:
        models = tuple(one for one in store.models.list() if isinstance(one, StoredModel))
        return models, survey(store, None)
    except NotAuthorisedError:
        if not any(spot.oddity is Oddity.CLOSED for spot in odd):
            raise
        return (), ()  # a folder is shut even to its owner, which is told of: the next look sees what is in it


def _since(store: Store) -> float | None:
    try:
        return (store.path / layout.OWN / layout.VERSION).lstat().st_mtime
    except OSError:
        return None  # a store of nobody's yet, or not for this user: its age is not known


def _required(store: Store, models: Iterable[StoredModel]) -> dict[ModelName, str]:
    """What models say of the version that they need, as far as they do."""
    known: dict[Digest, str | None] = {}
    found: dict[ModelName, str] = {}
    for model in models:
        config = model.manifest.config
        if config.digest not in known:
            known[config.digest] = _requires(store, config)
        if (text := known[config.digest]) is not None:
            found[model.name] = text
    return found


def _requires(store: Store, config: Descriptor) -> str | None:
    if config.size > _MAX_CONFIG:
        return None
    try:
        check = store.blobs.open_check(config)
        if check is None:
            return None
        with check:
            return msgspec.json.decode(os.pread(check.fd, _MAX_CONFIG, 0), type=_Config).requires or None
    except (SyncdError, OSError, msgspec.MsgspecError):
        return None  # damaged, or not for this user: told of as that


def _sockets(paths: Sequence[Path]) -> Iterator[SocketSeen]:
    for path in paths:
        try:
            found, folder = path.lstat(), path.parent.stat()
        except OSError:
            continue  # none there, or none that this user gets to
        if stat.S_ISSOCK(found.st_mode):
            # In a folder such as /tmp, others make files and cannot take away this one.
            sticky = folder.st_mode & stat.S_ISVTX
            yield SocketSeen(path, stat.S_IMODE(found.st_mode), 0 if sticky else stat.S_IMODE(folder.st_mode))


def _units(folders: Iterable[Path]) -> Iterator[UnitSeen]:
    """The unit that systemd would take, with its drop-ins."""
    places = tuple(folders)
    unit = next((folder / _UNIT for folder in places if (folder / _UNIT).is_file()), None)
    if unit is None:
        return
    files = [unit, *(file for folder in reversed(places) for file in sorted((folder / f"{_UNIT}.d").glob("*.conf")))]
    writable: list[str] = []
    strict = False
    for file in files:
        try:
            text = file.read_bytes()[:_MAX_UNIT].decode("utf-8", "replace")
        except OSError:
            continue  # taken away since it was listed, or not for this user: nothing is said of what nobody read
        for key, value in _SETTING.findall(text):
            if key == "ProtectSystem":
                strict = value == "strict"
            else:
                writable = [*writable, *value.split()] if value else []  # an empty one forgets those before
    yield UnitSeen(unit, tuple(writable), strict)


def _with_mode(secret: SecretFile) -> SecretFile:
    try:
        return replace(secret, mode=stat.S_IMODE(secret.path.stat().st_mode))
    except OSError:
        return secret  # not there: whoever reads the settings tells of that


async def _clocks(around: Surroundings, names: Iterable[ModelName]) -> tuple[TimeThere, ...]:
    """What time it is at the registries that most models come from."""
    hosts = [host for host, _ in Counter(name.host for name in names).most_common(_MAX_HOSTS)] or [DEFAULT_HOST]
    found = []
    for host in hosts:
        place = around.registries.get(host.lower())
        found.append(
            await compare(
                host,
                plain_http=None if place is None else place.plain_http,
                ca_file=None if place is None else place.ca_file,
                patience=_CLOCK_PATIENCE,
            )
        )
    return tuple(one for one in found if one is not None)
