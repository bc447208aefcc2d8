"""What a server's answers come to: the word for each model on it; pure.

Three levels, each deeper and dearer than the one before: a *look* (version, tags, ps), a *show*, and a *proof*, which
is one real token or embedding. Times are seconds on the monotonic clock; those called ``epoch`` are since the epoch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from syncd.errors import InvalidNameError
from syncd.instances.model import Instance
from syncd.instances.ollama import Loaded, ProbeError, Reason, Tagged
from syncd.oci.manifest import Manifest
from syncd.oci.media import kind
from syncd.oci.name import ModelName

_WEIGHTS = {"weights", "tensor"}  # kinds of layers; "tensor": of models that are no GGUF file

Weights: TypeAlias = frozenset[str]
"""Hex digests of the blobs that hold a model's weights: what a server's runners are told apart by."""

WeightsOf: TypeAlias = Callable[[str], Weights | None]
"""The weights behind a manifest's hex digest; None: nobody knows that manifest."""


class Level(StrEnum):
    """How deep a probe goes."""

    LOOK = "look"
    SHOW = "show"
    PROOF = "proof"


class Word(StrEnum):
    """How a model stands on a server."""

    PROVED = "proved"  # it made a token or an embedding from it since it last started
    LOADED = "loaded"  # it has these weights in memory
    LOADING = "loading"  # it was asked to
    SERVED = "served"  # it lists this digest and can show it
    STALE = "stale"  # it still holds the weights of an older version
    HOSTED = "hosted"  # it lists a stub of a model that is served elsewhere, which is never probed
    MISSING = "missing"  # it does not list it
    FAILING = "failing"
    UNKNOWN = "unknown"  # nobody has looked yet


@dataclass(frozen=True, slots=True)
class Published:
    """A model of the store. ``digest``: hex, of its manifest. ``since``: when it was noticed."""

    name: ModelName
    digest: str
    weights: Weights
    since: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a probe failed, and since when (seconds since the epoch)."""

    reason: Reason
    message: str
    epoch: float

    @classmethod
    def of(cls, error: ProbeError, epoch: float) -> "Fault":
        """What a server failed with."""
        return cls(error.reason, error.message, epoch)


@dataclass(frozen=True, slots=True)
class Look:
    """Level 1, begun ``at``. ``listed``: by folded name. With a ``fault`` it holds what was answered before that."""

    at: float
    epoch: float
    version: str | None = None
    listed: Mapping[str, Tagged] = field(default_factory=dict)
    loaded: tuple[Loaded, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Showing:
    """Level 2 of one model, begun ``at``, when ``digest`` was published under its name."""

    digest: str
    at: float
    embeds_only: bool = False
    hosted: bool = False
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """Level 3 of one model, ended ``at``. It holds for ``digest`` and for one ``life`` of the server.

    ``failures``: in a row, 0 with a proof that succeeded.
    """

    digest: str
    life: int
    at: float
    epoch: float
    fault: Fault | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one model on one server. ``loading``: it was asked to load it, and has not answered yet."""

    showing: Showing | None = None
    proof: Proof | None = None
    loading: bool = False


NOTHING = Known()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A model on a server. ``digest``: hex, what is published.

    ``served``: it lists this digest and showed it; ``proved``: it made something of it; both as of the last probes.
    ``stale``: it holds an older version's weights, until ``stale_until`` (epoch; None: until it is told to let go),
    which it may do beside the new ones. ``fault``: with ``Word.FAILING``. ``proved_at``: epoch.
    """

    model: ModelName
    digest: str
    word: Word
    served: bool = False
    proved: bool = False
    stale: bool = False
    stale_until: float | None = None
    proved_at: float | None = None
    fault: Fault | None = None

    @property
    def available(self) -> bool:
        """Whether a request for it would be answered with this version, as far as anybody knows."""
        return self.word is Word.HOSTED or (self.word is not Word.FAILING and (self.served or self.proved))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A server and how every model stands on it. ``up``: it answered lately; None: nobody has asked yet.

    ``life`` grows whenever it is seen to have started anew.
    """

    instance: Instance
    up: bool | None
    version: str | None
    fault: Fault | None
    life: int
    cells: tuple[Cell, ...]


def judge(model: Published, look: Look | None, known: Known, *, life: int, weights_of: WeightsOf) -> Cell:
    """How ``model`` stands on a server that was seen like this."""
    listed = look.listed.get(model.name.folded) if look else None
    fault = look.fault if look else None
    if look is None or (fault is None and look.at < model.since):
        word = Word.UNKNOWN  # or published since the last look
    elif fault is not None:
        word = Word.FAILING
    elif listed is None:
        word = Word.MISSING
    elif listed.digest != model.digest:
        word, fault = Word.FAILING, _wrong_digest(model, listed, look)
    elif hosted(model, look, known):
        word = Word.HOSTED
    else:
        return _judge_listed(model, look, known, life, weights_of)
    return Cell(model=model.name, digest=model.digest, word=word, fault=fault)


def _wrong_digest(model: Published, listed: Tagged, look: Look) -> Fault:
    message = f"it lists {listed.digest[:12] or 'no digest'}, published is {model.digest[:12]}"
    return Fault(Reason.WRONG_DIGEST, message, look.epoch)


def hosted(model: Published, look: Look, known: Known) -> bool:
    """Whether the model is a mere stub here: a probe would call out to whoever serves it."""
    listed = look.listed.get(model.name.folded)
    shown = known.showing is not None and known.showing.digest == model.digest and known.showing.hosted
    return shown or not model.weights or (listed is not None and listed.hosted)


def _judge_listed(model: Published, look: Look, known: Known, life: int, weights_of: WeightsOf) -> Cell:
    showing = known.showing if known.showing and known.showing.digest == model.digest else None
    proof = known.proof if holds(known.proof, model, life) else None
    old = _old_runner(model, look, weights_of)
    here = any(weights_of(one.digest) == model.weights for one in look.loaded)
    proved = proof is not None and proof.fault is None
    fault = showing.fault if showing else None
    if known.loading and not here and fault is None:
        word = Word.LOADING
    elif fault or (proof and proof.fault):
        word, fault = Word.FAILING, fault or (proof.fault if proof else None)
    elif proved:
        word = Word.PROVED
    elif old is not None:
        word = Word.STALE
    elif here:
        word = Word.LOADED
    else:
        word = Word.SERVED if showing else Word.UNKNOWN
    return Cell(
        model=model.name,
        digest=model.digest,
        word=word,
        served=showing is not None and showing.fault is None,
        proved=proved,
        stale=old is not None,
        stale_until=old.expires if old else None,
        proved_at=proof.epoch if proof and proved else None,
        fault=fault,
    )


def holds(proof: Proof | None, model: Published, life: int) -> bool:
    """Whether what a proof came to, good or bad, is still about this version and this life of the server."""
    return proof is not None and proof.digest == model.digest and proof.life == life


def _old_runner(model: Published, look: Look, weights_of: WeightsOf) -> Loaded | None:
    """What is loaded under this name with other weights: the one that stays longest.

    A manifest that nobody knows has not these weights as far as anybody can tell.
    """
    old = [one for one in look.loaded if folded(one.name) == model.name.folded]
    old = [one for one in old if one.digest != model.digest and weights_of(one.digest) != model.weights]
    return max(old, key=lambda one: float("inf") if one.expires is None else one.expires, default=None)


def weights(manifest: Manifest) -> Weights:
    """What a server's runners of this manifest are told apart by."""
    return frozenset(layer.digest.hex for layer in manifest.layers if kind(layer.media_type) in _WEIGHTS)


def folded(name: str) -> str:
    """A name that a server told of, as ``ModelName.folded`` has it; as it is, if it is none."""
    try:
        return ModelName.parse(name).folded
    except InvalidNameError:
        return name
