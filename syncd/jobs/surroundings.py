"""What the settings say of the world around a store, as values: where others are met, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file of the settings that holds a secret. ``where``: which setting names it; ``mode``: None: not to be seen."""

    path: Path
    where: str
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """How a registry is spoken to, as far as asking it the time goes, and the mirrors before it."""

    plain_http: bool | None = None
    ca_file: Path | None = None
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the settings say of the world around a store. ``units``: where systemd looks for them."""

    docker_url: str | None = None
    sockets: tuple[Path, ...] = ()
    registries: Mapping[str, RegistryPlace] = field(default_factory=dict)
    secrets: tuple[SecretFile, ...] = ()
    scrub_every: float | None = None
    units: tuple[Path, ...] = ()
