"""What a kind of finding is: an id that stays the same, with why it matters and what to do."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"  # something does not work, or is not whole
    WARNING = "warning"  # it works, and will not for long, or not for everybody
    NOTE = "note"  # to be known


class Area(StrEnum):
    """What it is about."""

    MODELS = "models"  # Ollama's two trees
    STORE = "store"  # all else below the store's folder, and its file system
    SERVERS = "servers"
    HOST = "host"
    SETTINGS = "settings"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of finding. ``title``: what it is; ``fix``: what ``--fix`` does about it, None: nothing."""

    id: str
    area: Area
    severity: Severity
    title: str
    why: str
    todo: str
    fix: str | None = None
