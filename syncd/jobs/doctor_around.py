"""What a doctor's look at servers, host and settings means. Pure."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from syncd.errors import InvalidNameError
from syncd.instances.containers import Container
from syncd.jobs import doctor_kinds_around as kinds
from syncd.jobs.doctor_exam import Exam, Finding, ServerSeen
from syncd.oci.name import ModelName
from syncd.text import printable

CLOCK_SECONDS = 300.0
"""A clock that is off by more is a finding: signed addresses are good for as long as that."""

_OFF = frozenset({"", "0", "f", "false"})  # all else is on (ollama envconfig.Bool)
_WRITABLE_BY_ALL = 0o002
_READABLE_BY_ALL = 0o004
_SHOWN = 3  # of many, in a sentence
_NUMBERS = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")

Version = tuple[int, int, int]


def on_servers(exam: Exam) -> Iterator[Finding]:
    """Each server, its container, and all of them beside each other."""
    if exam.engine_fault is not None:
        yield Finding.of(kinds.ENGINE, "Docker", exam.engine_fault)
    for server in exam.servers:
        if server.gone is not None:
            yield Finding.of(kinds.CONTAINER_GONE, server.name, f"there is no container {server.gone}")
        if server.trouble is not None:
            yield Finding.of(kinds.SERVER_DOWN, server.name, server.trouble)
        if server.container is not None and exam.local_engine:
            yield from _container(exam, server.name, server.container)
        yield from _tags(exam, server)
        yield from _requirements(exam, server)
    versions = {one.version for one in exam.servers if one.version is not None}
    if len(versions) > 1:
        each = ", ".join(f"{one.name} {one.version}" for one in exam.servers if one.version is not None)
        yield Finding.of(kinds.SERVERS_DIFFER, "servers", each)


def _container(exam: Exam, name: str, container: Container) -> Iterator[Finding]:
    store = PurePosixPath(exam.store)
    shown = f"container {printable(container.name, limit=64)}"
    seen = container.sees(store)
    if seen is None:
        mounts = ", ".join(str(one.source) for one in container.mounts[:_SHOWN]) or "nothing"
        yield Finding.of(kinds.SERVER_ELSEWHERE, name, f"{shown} mounts {printable(mounts)}, and not {exam.store}")
        return
    place, read_only = seen
    if not read_only:
        yield Finding.of(kinds.SERVER_WRITES, name, f"{shown} mounts it at {place} for writing")
    models = container.environment.get("OLLAMA_MODELS", "")
    if models and PurePosixPath(models) != place:
        what = f"{shown} sees it at {place}, and has OLLAMA_MODELS={printable(models, limit=200)}"
        yield Finding.of(kinds.SERVER_ELSEWHERE, name, what)
    if container.environment.get("OLLAMA_NOPRUNE", "").lower() in _OFF:
        yield Finding.of(kinds.SERVER_PRUNES, name, f"{shown} does not have it")


def _tags(exam: Exam, server: ServerSeen) -> Iterator[Finding]:
    """What it lists, held against the store. What was published this moment it may not have listed yet."""
    if server.tags is None:
        return
    theirs = {name.folded: name for one in server.tags if (name := _name(one.name)) is not None}
    listed = {
        name.folded: one.digest for one in server.tags if not one.hosted and (name := _name(one.name)) is not None
    }
    ours = {one.name.folded: one.name for one in exam.models}
    right = {one.name.folded: one.manifest.digest.hex for one in exam.models}
    strange = sorted(str(theirs[name]) for name in set(listed) - set(ours))
    missing = sorted(str(ours[name]) for name in set(ours) - set(theirs))
    other = sorted(str(ours[name]) for name in set(ours) & set(listed) if listed[name] != right[name])
    if strange:
        what = f"it lists {_some(strange)}, which this store does not have"
        yield Finding.of(kinds.SERVER_ELSEWHERE, server.name, what)
    elif missing and len(missing) == len(ours):
        yield Finding.of(kinds.SERVER_ELSEWHERE, server.name, f"it lists none of the {len(ours)} models of this store")
    elif other:
        what = f"it lists another version of {_some(other)} than this store has"
        yield Finding.of(kinds.SERVER_ELSEWHERE, server.name, what)
    if missing and (strange or len(missing) < len(ours)):
        yield Finding.of(kinds.SERVER_LACKS, server.name, f"it does not list {_some(missing)}")


def _requirements(exam: Exam, server: ServerSeen) -> Iterator[Finding]:
    runs = version(server.version or "")
    if runs is None or runs == (0, 0, 0):
        return  # a build of somebody's own says 0.0.0
    for model, text in sorted(exam.requires.items()):
        needed = version(text)
        if needed is not None and runs < needed:
            what = f"it runs {server.version}, and {model} requires {printable(text, limit=64)}"
            yield Finding.of(kinds.SERVER_OLD, f"{server.name} {model}", what)


def version(text: str) -> Version | None:
    """``0.14.2-rc1`` as numbers; None for what is no version."""
    found = _NUMBERS.match(text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 0))


def on_host(exam: Exam) -> Iterator[Finding]:
    """Sockets, the clock, and what systemd was told."""
    for socket in exam.sockets:
        if socket.mode & _WRITABLE_BY_ALL:
            yield Finding.of(kinds.SOCKET, str(socket.path), f"its mode is {socket.mode:04o}")
        if socket.folder_mode & _WRITABLE_BY_ALL:
            what = f"the mode of its folder is {socket.folder_mode:04o}"
            yield Finding.of(kinds.SOCKET, str(socket.path.parent), what)
    for clock in exam.clocks:
        if abs(clock.ahead) - clock.slack > CLOCK_SECONDS:
            way = "ahead of" if clock.ahead > 0 else "behind"
            what = f"this clock is {abs(clock.ahead) / 60:.0f} minutes {way} that of {printable(clock.host, limit=100)}"
            yield Finding.of(kinds.CLOCK, "clock", what)
    if exam.units and not exam.daemon:
        yield Finding.of(kinds.NOT_RUNNING, str(exam.units[0].path), "no daemon listens for this user")
    for unit in exam.units:
        holds = any(exam.store.is_relative_to(folder.lstrip("-+")) for folder in unit.writable)
        if unit.strict and not holds:
            may = ", ".join(unit.writable) or "nothing"
            yield Finding.of(kinds.UNIT_STORE, str(unit.path), f"it may write to {printable(may)}, not to {exam.store}")


def on_settings(exam: Exam) -> Iterator[Finding]:
    """Nothing here stops anything: all are notes."""
    for secret in exam.secrets:
        if secret.mode is not None and secret.mode & _READABLE_BY_ALL:
            what = f"its mode is {secret.mode:04o} ({printable(secret.where, limit=200)} names it)"
            yield Finding.of(kinds.SECRET, str(secret.path), what)
    for host, place in sorted(exam.registries.items()):
        for mirror in place.mirrors:
            if mirror.startswith("http://"):
                yield Finding.of(kinds.PLAIN_HTTP, mirror, f"a mirror of {host}")
        if place.plain_http:
            yield Finding.of(kinds.PLAIN_HTTP, host, "plain_http = true")
    if not exam.servers and not exam.discovers:
        yield Finding.of(kinds.NO_SERVERS, "settings", "there are no [[instances]]")


def _name(text: str) -> ModelName | None:
    try:
        return ModelName.parse(text)
    except InvalidNameError:
        return None


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return printable(", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else ""))
