"""A container as the Docker Engine describes it (Engine API, "Inspect a container"), reduced to what syncd asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Self

import msgspec

_OLLAMA = "OLLAMA_"  # no other variable is kept: they may be secrets
_NEVER_YEAR = 1  # Go's zero time: it was never started


@dataclass(frozen=True, slots=True)
class Mount:
    """What of the host is seen where in a container. ``volume``: its name, where it is one of the Engine's volumes."""

    source: PurePosixPath
    target: PurePosixPath
    read_only: bool
    volume: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container at one moment.

    ``started``: seconds since the epoch, None if it never was. ``addresses``: of its own, none on the host's network.
    ``environment``: what Ollama reads of it. ``exit_code``: of its last end; 0 while it runs.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool
    started: float | None
    exit_code: int
    host_network: bool
    addresses: tuple[str, ...]
    mounts: tuple[Mount, ...]
    environment: Mapping[str, str]

    @classmethod
    def of(cls, told: Any) -> Self:  # noqa: ANN401 - JSON of whatever shape
        """What the Engine told. Raise ``msgspec.ValidationError`` for what is no description of a container."""
        found = msgspec.convert(told, _Inspected)
        return cls(
            id=found.id,
            name=found.name.removeprefix("/"),
            labels=found.config.labels or {},
            running=found.state.running,
            started=_moment(found.state.started_at),
            exit_code=found.state.exit_code,
            host_network=found.host_config.network_mode == "host",
            addresses=_addresses(found.network_settings.networks or {}),
            mounts=tuple(map(_mount, found.mounts or ())),
            environment=dict(_ollamas(found.config.env or ())),
        )

    def sees(self, path: PurePosixPath) -> tuple[PurePosixPath, bool] | None:
        """Where ``path`` of the host is seen inside, and whether for reading only; None: it is not.

        The mount that leads deepest into the host's tree tells. Both paths must be free of symbolic links.
        """
        holding = [mount for mount in self.mounts if path.is_relative_to(mount.source)]
        if not holding:
            return None
        mount = max(holding, key=lambda one: len(one.source.parts))
        return mount.target / path.relative_to(mount.source), mount.read_only


class _State(msgspec.Struct, rename="pascal"):
    running: bool = False
    started_at: str = ""
    exit_code: int = 0


class _Config(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None
    env: list[str] | None = None


class _HostConfig(msgspec.Struct, rename="pascal"):
    network_mode: str = ""


class _Network(msgspec.Struct, rename="pascal"):
    v4: str = msgspec.field(default="", name="IPAddress")
    v6: str = msgspec.field(default="", name="GlobalIPv6Address")


class _NetworkSettings(msgspec.Struct, rename="pascal"):
    networks: dict[str, _Network | None] | None = None


class _Mount(msgspec.Struct, rename="pascal"):
    destination: str
    source: str = ""
    name: str = ""
    writable: bool = msgspec.field(default=True, name="RW")


class _Inspected(msgspec.Struct, rename="pascal"):
    id: str
    name: str = ""
    state: _State = msgspec.field(default_factory=_State)
    config: _Config = msgspec.field(default_factory=_Config)
    host_config: _HostConfig = msgspec.field(default_factory=_HostConfig)
    network_settings: _NetworkSettings = msgspec.field(default_factory=_NetworkSettings)
    mounts: list[_Mount] | None = None


def _moment(text: str) -> float | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if found.year <= _NEVER_YEAR else found.timestamp()


def _addresses(networks: Mapping[str, _Network | None]) -> tuple[str, ...]:
    """In the order of the networks' names, so that it stays the same; IPv4 first."""
    inside = [network for _, network in sorted(networks.items()) if network is not None]
    return tuple(one for one in (*(each.v4 for each in inside), *(each.v6 for each in inside)) if one)


def _mount(told: _Mount) -> Mount:
    return Mount(
        source=PurePosixPath(told.source),
        target=PurePosixPath(told.destination),
        read_only=not told.writable,
        volume=told.name or None,
    )


def _ollamas(variables: list[str] | tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [variable.partition("=") for variable in variables if variable.startswith(_OLLAMA)]
    return [(name, value) for name, _, value in pairs]
