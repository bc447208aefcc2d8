"""What to ask a server next, and whether a proof of a model would harm nobody; pure. Times: as in ``probe``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from syncd.instances.model import Prove
from syncd.instances.ollama import Loaded
from syncd.instances.probe import NOTHING, Known, Look, Proof, Published, WeightsOf, folded, holds, hosted

FIRST_RETRY = 60.0
LONGEST_RETRY = 3600.0
"""Seconds until a proof that failed is tried again: doubled with every failure in a row, up to this."""

NEVER = float("inf")

Untouched = frozenset[tuple[str, float]]
"""Digest and expiry of runners that proofs left behind: as long as both stay, nobody has used them since."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often: seconds between two looks, and between two shows of one model."""

    every: float
    deep_every: float


class Wish(StrEnum):
    """Who wants a proof."""

    DUE = "due"  # the daemon by itself
    ASKED = "asked"  # a rollout
    INSISTED = "insisted"  # an operator


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether a model may be proved now. ``context_length``: what to send, so that a loaded runner stays as it is."""

    allowed: bool
    context_length: int | None = None
    why_not: str = ""


def next_look(models: Iterable[Published], look: Look | None, pace: Pace) -> float:
    """When to look: at once after a publication."""
    if look is None or any(model.since > look.at for model in models):
        return 0.0
    return look.at + pace.every


def next_show(model: Published, look: Look, known: Known, pace: Pace) -> float:
    """When to have it show a model: after each publication and now and then; as often as a look while it fails."""
    if not _lists(model, look) or hosted(model, look, known):
        return NEVER
    showing = known.showing
    if showing is None or showing.digest != model.digest:
        return 0.0
    return showing.at + (pace.deep_every if showing.fault is None else pace.every)


def next_proof(model: Published, look: Look, known: Known, life: int) -> float:
    """When a proof is due: once for each version and life of the server, and ever more rarely while it fails."""
    showing, proof = known.showing, known.proof
    if not _lists(model, look) or hosted(model, look, known) or known.loading:
        return NEVER
    if showing is None or showing.digest != model.digest or showing.fault is not None:
        return NEVER
    if proof is None or not holds(proof, model, life):
        return 0.0
    return NEVER if proof.fault is None else proof.at + retry_after(proof.failures)


def retry_after(failures: int) -> float:
    """Seconds from the last of so many failures in a row until the next try."""
    return float(min(FIRST_RETRY * 2 ** min(failures - 1, 16), LONGEST_RETRY))


def failures_before(proof: Proof | None, model: Published, life: int) -> int:
    """How often in a row the proof of this version has failed in this life."""
    return proof.failures if proof is not None and holds(proof, model, life) else 0


def may_prove(
    way: Prove, model: Published, look: Look, weights_of: WeightsOf, *, untouched: Untouched, wish: Wish
) -> Permission:
    """Whether a proof harms nobody, as ``way`` has it.

    ``Prove.IDLE``: nothing is loaded but what earlier proofs left behind. Somebody who asks gets a proof where this
    very model is loaded, too, if the server tells its context length, without which a request makes it load anew;
    not so the daemon by itself: any request puts off the expiry, and options that ``ps`` does not tell may differ.
    """
    if way is Prove.NEVER:
        return Permission(allowed=False, why_not='prove = "never"')
    if look.fault is not None:
        return Permission(allowed=False, why_not=look.fault.message)
    mine = [one for one in look.loaded if _is(one, model, weights_of)]
    context = next((one.context_length for one in mine if one.context_length is not None), None)
    as_it_is = wish is Wish.ASKED and context is not None
    if way is Prove.ALWAYS or wish is Wish.INSISTED or as_it_is:
        return Permission(allowed=True, context_length=context)
    busy = [one.name for one in look.loaded if (one.digest, one.expires) not in untouched]
    if busy:
        return Permission(allowed=False, why_not=f"it has {', '.join(sorted(busy)[:3])} loaded")
    return Permission(allowed=True, context_length=context)


def still_untouched(untouched: Untouched, look: Look) -> Untouched:
    """Those that are loaded yet, as they were left."""
    return untouched & _runners(look)


def left_behind(model: Published, before: Look, after: Look) -> Untouched:
    """What a proof of ``model`` between these two looks has loaded. One that never expires could be anybody's."""
    if any(one.digest == model.digest for one in before.loaded):
        return frozenset()
    return frozenset((digest, expires) for digest, expires in _runners(after) if digest == model.digest)


def started_anew(before: Look | None, after: Look, *, dropped: bool) -> bool:
    """Whether the server may have started since ``before``. ``dropped``: it closed an idle connection."""
    if before is None or before.fault is not None:
        return False  # that failure said so already
    return after.fault is not None or after.version != before.version or dropped


def due_shows(
    models: Iterable[Published], look: Look, known: Mapping[str, Known], pace: Pace, now: float
) -> list[Published]:
    """The models to be shown now. ``known``: by folded name."""
    return [model for model in models if next_show(model, look, known.get(model.name.folded, NOTHING), pace) <= now]


def due_proofs(
    models: Iterable[Published], look: Look, known: Mapping[str, Known], life: int, now: float
) -> list[Published]:
    """The models whose proof is due now, those that were never tried first."""
    due = [
        (at, model)
        for model in models
        if (at := next_proof(model, look, known.get(model.name.folded, NOTHING), life)) <= now
    ]
    return [model for _, model in sorted(due, key=lambda one: one[0])]


def _lists(model: Published, look: Look) -> bool:
    """Whether it was seen, since the publication, to list this version."""
    listed = look.listed.get(model.name.folded)
    return look.fault is None and look.at >= model.since and listed is not None and listed.digest == model.digest


def _is(runner: Loaded, model: Published, weights_of: WeightsOf) -> bool:
    """Whether a runner is this model's: another name's with the same weights may have other adapters and parameters."""
    if runner.digest == model.digest:
        return True
    return folded(runner.name) == model.name.folded and weights_of(runner.digest) == model.weights


def _runners(look: Look) -> frozenset[tuple[str, float]]:
    return frozenset((one.digest, one.expires) for one in look.loaded if one.expires is not None)
