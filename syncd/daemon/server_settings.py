"""The servers in the settings: ``[[instances]]``, ``[docker]``, ``[probes]`` and ``[reload]``."""

import re
import signal as signals
from collections.abc import Sequence
from typing import Annotated, Self, TypeAlias
from urllib.parse import urlsplit

import msgspec

from syncd.daemon.dropins import Document
from syncd.daemon.units import Address, Seconds
from syncd.instances.model import Instance, Prove, ReloadWay

MAX_INSTANCES = 128

_DAY = 86400.0
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|[0-9A-Fa-f:.]+")
_PORTS = {"http": 80, "https": 443}
_THROUGH_DOCKER = (ReloadWay.RESTART, ReloadWay.SIGNAL)

InstanceName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
ContainerName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=128)]
CommandLine: TypeAlias = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=4096)], ...], msgspec.Meta(min_length=1, max_length=64)
]


class ServerUrl(str):
    """``http://HOST[:PORT]`` or https, without a slash at the end; the port of the scheme is left out."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raise ``ValueError`` with a reason for people."""
        wrong = f'{_unlogged(value)} is not a server\'s address such as "http://127.0.0.1:11434"'
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError(wrong)
        try:
            parts = urlsplit(value)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError(wrong) from None
        if parts.username is not None or parts.password is not None:
            raise ValueError("a server's address holds no user and no password")
        if parts.scheme not in _PORTS or not _HOST.fullmatch(host) or port == 0:
            raise ValueError(wrong)
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("a server's address ends with its port")
        shown = f"[{host}]" if ":" in host else host
        return cls(f"{parts.scheme}://{shown}{'' if port in (None, _PORTS[parts.scheme]) else f':{port}'}")


class EngineUrl(str):
    """``unix:///PATH`` or ``tcp://HOST:PORT``."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raise ``ValueError`` with a reason for people."""
        wrong = f'{value!r} is not an Engine\'s address such as "unix:///run/docker.sock" or "tcp://127.0.0.1:2375"'
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError(wrong)
        scheme, _, rest = value.partition("://")
        if scheme == "unix" and rest.startswith("/") and rest != "/":
            return cls(value)
        if scheme != "tcp":
            raise ValueError(wrong)
        try:
            return cls(f"tcp://{Address.parse(rest)}")
        except ValueError:
            raise ValueError(wrong) from None


class SignalName(str):
    """A signal as Docker is told it: ``SIGHUP``."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Self:
        """``"SIGHUP"`` or ``"HUP"``. Raise ``ValueError`` with a reason for people."""
        name = f"SIG{value.removeprefix('SIG')}" if isinstance(value, str) else ""
        if name not in signals.Signals.__members__:
            raise ValueError(f'{value!r} is not a signal such as "SIGHUP"')
        return cls(name)


class ProbeInterval(Seconds):
    """Between a second and an hour."""

    least, most = 1.0, 3600.0


class DeepProbeInterval(Seconds):
    """Between ten seconds and a day."""

    least, most = 10.0, _DAY


class ProbeTimeout(Seconds):
    """Between a tenth of a second and a minute."""

    least, most = 0.1, 60.0


class ProofTimeout(Seconds):
    """Between a second and an hour."""

    least, most = 1.0, 3600.0


class Settle(Seconds):
    """Up to ten minutes."""

    most = 600.0


class InstanceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[[instances]]``: an Ollama server that reads the store."""

    name: InstanceName
    """What it is called here, in metrics and in commands."""
    url: ServerUrl
    """Where its API is: ``http://HOST:PORT``."""
    container: ContainerName | None = None
    """The container that it runs in, by name or id: ``restart`` and ``signal`` need it."""
    reload: ReloadWay = ReloadWay.AUTO
    """How it comes to serve changed weights."""
    signal: SignalName | None = None
    """What ``reload = "signal"`` sends to the container's first process. Unset: SIGHUP."""
    exec: CommandLine | None = None
    """What ``reload = "exec"`` runs: a program and its arguments, without a shell."""
    prove: Prove = Prove.IDLE
    """When a model may be loaded to make one token of it."""
    prewarm: bool = False
    """Whether its models are loaded after it started or was reloaded."""

    def instance(self) -> Instance:
        """The same, as the rest of syncd knows it."""
        return Instance(
            name=self.name,
            url=str(self.url),  # of str itself: JSON is made of no other
            container=self.container,
            reload=self.reload,
            signal=str(self.signal or "SIGHUP"),
            command=self.exec or (),
            prove=self.prove,
            prewarm=self.prewarm,
        )


class DockerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[docker]``: the Engine that the servers run under. Whoever may use its socket is as good as root."""

    url: EngineUrl | None = None
    """``unix:///run/docker.sock`` or ``tcp://HOST:PORT``. Unset: the Engine is not spoken to."""
    discover: bool = False
    """Whether containers with the label ``syncd.instance=true`` are instances."""


class ProbeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[probes]``: how servers are looked at."""

    every: ProbeInterval = ProbeInterval(15)
    """Seconds between two looks at what a server lists and has loaded."""
    deep_every: DeepProbeInterval = DeepProbeInterval(300)
    """Seconds after which a server is asked again to show each model."""
    timeout: ProbeTimeout = ProbeTimeout(5)
    """Seconds that such an answer may take."""
    proof_timeout: ProofTimeout = ProofTimeout(300)
    """Seconds that the first token may take, with the load of the model before it."""


class ReloadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[reload]``: how updates reach the servers."""

    max_unavailable: Annotated[int, msgspec.Meta(ge=1, le=MAX_INSTANCES)] = 1
    """Servers that are warmed, proved or restarted at once."""
    settle: Settle = Settle(10)
    """Seconds within which several updates make one rollout."""


def check_instances(document: Document, instances: Sequence[InstanceSettings], docker: DockerSettings) -> None:
    """Refuse what contradicts itself or each other. Raise ``ConfigurationError``."""
    if len(instances) > MAX_INSTANCES:
        raise document.error(
            ("instances", MAX_INSTANCES), f"there are {len(instances)} instances: at most {MAX_INSTANCES} are possible"
        )
    if docker.discover and docker.url is None:
        raise document.error(
            ("docker", "discover"), "discover: there is no url", hint='write url = "unix:///run/docker.sock"'
        )
    taken: dict[tuple[str, str], int] = {}
    for index, one in enumerate(instances):
        for key, value, shown in (("name", one.name.casefold(), one.name), ("url", one.url.casefold(), one.url)):
            first = taken.setdefault((key, value), index)
            if first != index:
                where = document.origin(("instances", first))
                raise document.error(("instances", index, key), f"{key}: {shown} is there twice: also at {where}")
        _check_reload(document, index, one, docker)


def _check_reload(document: Document, index: int, one: InstanceSettings, docker: DockerSettings) -> None:
    keys = ("instances", index)
    way = one.reload
    if way is ReloadWay.EXEC and one.exec is None:
        raise document.error(
            (*keys, "reload"), "reload: there is no exec to run", hint='write exec = ["PROGRAM", "ARGUMENT"]'
        )
    if way in _THROUGH_DOCKER and one.container is None:
        raise document.error((*keys, "reload"), f"reload: {way} needs the container", hint='write container = "NAME"')
    if way in _THROUGH_DOCKER and docker.url is None:
        raise document.error(
            (*keys, "reload"),
            f"reload: {way} needs the Docker Engine",
            hint='write [docker] and url = "unix:///run/docker.sock"',
        )
    for key, value, belongs in (("exec", one.exec, ReloadWay.EXEC), ("signal", one.signal, ReloadWay.SIGNAL)):
        if value is not None and way is not belongs:
            raise document.error((*keys, key), f'{key} does nothing with reload = "{way}"')


def _unlogged(value: object) -> str:
    """``value`` for an error, without what may open a door."""
    return "this" if isinstance(value, str) and "@" in value else repr(value)
