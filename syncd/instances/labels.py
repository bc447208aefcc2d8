"""What a container's labels say of the Ollama server in it: ``syncd.instance=true`` and what stands beside that.

A label that cannot be meant leaves its container out, and is reported: a guess at ``syncd.prove`` could do harm.
"""

import ipaddress
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from syncd.instances.containers import Container
from syncd.instances.model import Instance, Origin, Prove, ReloadWay
from syncd.text import printable

MARK = "syncd.instance"
MAX_INSTANCES = 128  # each makes metrics and probes of its own

_PREFIX = "syncd."
_KNOWN = frozenset({MARK, *(_PREFIX + key for key in ("name", "host", "port", "reload", "signal", "prove", "prewarm"))})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]+)*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_MAX_PORT = 65535
_OLLAMAS_PORT = "11434"
_LOOPBACK = "127.0.0.1"
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
# What a label may ask for. "exec" is a command of the host's: only the settings may name one.
_WAYS = {way.value: way for way in ReloadWay if way is not ReloadWay.EXEC}
_PROVES = {prove.value: prove for prove in Prove}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labelled:
    """The instances that labels make, in order of their names, and what is wrong with labels, each in a sentence."""

    instances: tuple[Instance, ...]
    faults: tuple[str, ...]


class _BadLabelError(ValueError):
    """A label that cannot be meant; its text says so."""


def is_marked(labels: Mapping[str, str]) -> bool:
    """Whether a container with these labels says that it is an instance."""
    return _BOOLEANS.get(labels.get(MARK, "").strip().lower(), False)


def labelled(containers: Iterable[Container], *, taken: Iterable[Instance] = ()) -> Labelled:
    """What the labels of ``containers`` say, those without the mark left aside. ``taken``: who has a name already."""
    names = {one.name.casefold(): one for one in taken}
    instances: list[Instance] = []
    faults: list[str] = []
    for container in sorted(containers, key=lambda one: (one.name, one.id)):
        if not is_marked(container.labels):
            continue
        shown = printable(container.name, limit=64)
        faults += [
            f"container {shown}: the label {printable(key, limit=64)} means nothing here"
            for key in sorted(container.labels)
            if key.startswith(_PREFIX) and key not in _KNOWN
        ]
        try:
            instance = _instance(container)
        except _BadLabelError as error:
            faults.append(f"container {shown}: {error}: it is left out")
            continue
        first = names.setdefault(instance.name.casefold(), instance)
        if first is not instance:
            owner = "the settings" if first.origin is Origin.SETTINGS else f"container {first.container}"
            faults.append(f"container {shown}: {instance.name} is what {owner} calls another: it is left out")
        elif len(instances) == MAX_INSTANCES:
            faults.append(f"container {shown}: there are {MAX_INSTANCES} instances already: it is left out")
        else:
            instances.append(instance)
    return Labelled(tuple(sorted(instances, key=lambda one: one.name)), tuple(faults))


def _instance(container: Container) -> Instance:
    labels = container.labels
    return Instance(
        name=_matching(labels, "name", container.name, _NAME, "a name is 1 to 64 letters, digits, '_', '.' and '-'"),
        url=f"http://{_host(container)}:{_port(labels)}",
        container=container.name,
        reload=_one_of(labels, "reload", "auto", _WAYS),
        signal=_signal(labels),
        prove=_one_of(labels, "prove", "idle", _PROVES),
        prewarm=_one_of(labels, "prewarm", "false", _BOOLEANS),
        origin=Origin.DOCKER,
    )


def _host(container: Container) -> str:
    default = _LOOPBACK if container.host_network else next(iter(container.addresses), "")
    text = _text(container.labels, "host", default)
    if not text:
        raise _BadLabelError("it has no address of its own, and no label syncd.host")
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        if _HOST.fullmatch(text):
            return text
        raise _bad("host", text, "write a host name or an address") from None
    return f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6


def _port(labels: Mapping[str, str]) -> int:
    text = _matching(labels, "port", _OLLAMAS_PORT, _PORT, "a port is a number")
    if not 0 < int(text) <= _MAX_PORT:
        raise _bad("port", text, f"a port lies between 1 and {_MAX_PORT}")
    return int(text)


def _signal(labels: Mapping[str, str]) -> str:
    name = f"SIG{_text(labels, 'signal', 'SIGHUP').removeprefix('SIG')}"
    if name not in signal.Signals.__members__:
        raise _bad("signal", name, "for example SIGHUP")
    return name


def _one_of(labels: Mapping[str, str], key: str, default: str, choice: Mapping[str, T]) -> T:
    text = _checked(labels, key, default, lambda one: one in choice, f"possible are {', '.join(choice)}")
    return choice[text]


def _matching(labels: Mapping[str, str], key: str, default: str, pattern: re.Pattern[str], wanted: str) -> str:
    return _checked(labels, key, default, lambda text: pattern.fullmatch(text) is not None, wanted)


def _checked(labels: Mapping[str, str], key: str, default: str, good: Callable[[str], bool], wanted: str) -> str:
    text = _text(labels, key, default)
    if not good(text):
        raise _bad(key, text, wanted)
    return text


def _text(labels: Mapping[str, str], key: str, default: str) -> str:
    return labels.get(_PREFIX + key, default).strip()


def _bad(key: str, text: str, wanted: str) -> _BadLabelError:
    return _BadLabelError(f"{_PREFIX}{key} = {printable(text, limit=64)!r}: {wanted}")
