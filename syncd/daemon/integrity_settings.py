"""What the settings say of integrity: which models may come in, what is done about rot, and what collections leave."""

from typing import Annotated, Literal, TypeAlias

import msgspec

from syncd.daemon.units import Rate, Seconds, Size

Pattern: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
PatternList: TypeAlias = Annotated[tuple[Pattern, ...], msgspec.Meta(min_length=1, max_length=1000)]

_DAY = 86400.0


class CollectInterval(Seconds):
    """Between a minute and thirty days."""

    least, most = 60.0, 30 * _DAY


class QuarantineAge(Seconds):
    """Between an hour and a year."""

    least, most = 3600.0, 366 * _DAY


class CollectSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[collect]``: what is given back that nothing needs any more."""

    every: CollectInterval | None = None
    """Seconds from one collection to the next. Unset: only ``syncd gc`` collects."""
    keep_previous: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    """Versions of every published model, beside the published one, whose blobs stay for a rollback."""
    quarantine_age: QuarantineAge = QuarantineAge(30 * _DAY)
    """Seconds for which what was put into quarantine stays there."""


class ScrubInterval(Seconds):
    """Between a minute and a year."""

    least, most = 60.0, 366 * _DAY


class ScrubSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[scrub]``: how rot is found, and what becomes of it."""

    every: ScrubInterval | None = None
    """Seconds from one scrub to the next, less some jitter. Unset: only ``syncd scrub`` scrubs."""
    max_rate: Rate = Rate(200_000_000)
    """Bytes a second at which a scheduled scrub reads: the servers read from the same disk."""
    repair: bool = True
    """Whether the daemon mends by itself what a scrub or a verification found damaged.

    What ``[[models]]`` names it pulls anew in any case.
    """
    unrepairable: Literal["quarantine", "keep"] = "quarantine"
    """What becomes of a model whose bytes nobody has any more: taken out of sight, or left published as it is."""


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[policy]``: which models may come in, whoever asks. Shell patterns (``*``, ``?``, ``[...]``), in any case.

    What is here already stays, and a repair brings the same bytes in again, from where its models came from.
    """

    allow_registries: PatternList | None = None
    """Hosts of registries (``registry.ollama.ai``, ``*.lan:5000``) that models may come from. Unset: all."""
    deny_registries: PatternList | None = None
    """Hosts of registries that no model may come from, whatever else allows it. Unset: none."""
    allow_names: PatternList | None = None
    """Names, in full (``host/namespace/model:tag``) or as they are shown, that may come in. Unset: all."""
    deny_names: PatternList | None = None
    """Names, likewise, that may not come in, whatever else allows them. Unset: none."""
    max_size: Size | None = None
    """Bytes that the blobs of one model may have together. Unset: no limit."""
