"""What the settings, or a container's labels, say of one Ollama server."""

from dataclasses import dataclass
from enum import StrEnum


class ReloadWay(StrEnum):
    """How a server comes to serve changed weights (design, "Servers")."""

    AUTO = "auto"  # unload the old ones by name before the rename, load and prove the new ones after it
    PRELOAD = "preload"  # load and prove only; what is loaded goes when its keep-alive ends
    RESTART = "restart"  # the container, through the Docker Engine
    SIGNAL = "signal"  # a signal to the container's first process, through the Docker Engine
    EXEC = "exec"  # a command of the host's
    NONE = "none"


class Prove(StrEnum):
    """When a probe may load a model to make a token of it."""

    IDLE = "idle"  # where the server has nothing loaded
    ALWAYS = "always"
    NEVER = "never"


class Origin(StrEnum):
    """Who told of an instance."""

    SETTINGS = "settings"
    DOCKER = "docker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One server. ``url``: of its API, without a slash at the end. ``container``: name or id, for the Docker Engine.

    ``signal``: with ``ReloadWay.SIGNAL``; ``command``: an argument list, with ``ReloadWay.EXEC``.
    """

    name: str
    url: str
    container: str | None = None
    reload: ReloadWay = ReloadWay.AUTO
    signal: str = "SIGHUP"
    command: tuple[str, ...] = ()
    prove: Prove = Prove.IDLE
    prewarm: bool = False
    origin: Origin = Origin.SETTINGS
