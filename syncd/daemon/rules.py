"""The settings, as jobs see them."""

from syncd.daemon.settings import Settings
from syncd.jobs.rules import Rules


def rules_of(settings: Settings) -> Rules:
    """The part of the settings that jobs go by."""
    return Rules(floor=settings.min_free)
