"""What a smoke test asks: the models that each server lists, each in the ways that it can be asked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from syncd.errors import InvalidNameError
from syncd.instances.ollama import OllamaServer, ProbeError, Reason, Shown, Tagged
from syncd.jobs.smoke import Target, Way
from syncd.oci.name import ModelName

_TEXT = (Way.CHAT, Way.GENERATE)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A question about a server's models that it did not answer. ``model``: None: about all of them."""

    instance: str
    model: ModelName | None
    reason: Reason
    status: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What one server says. ``listed``: None: it would not list. By folded name, both."""

    instance: str
    listed: Mapping[str, Tagged] | None
    shown: Mapping[str, Shown] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """Whom to ask. ``left_out``: in words, who is not asked, and why."""

    targets: tuple[Target, ...]
    troubles: tuple[Trouble, ...]
    left_out: tuple[str, ...]


async def look(instance: str, server: OllamaServer, wanted: Sequence[ModelName]) -> Seen:
    """What ``server`` lists, and what it says of the ``wanted`` models; of all that it lists, if none is."""
    try:
        tagged = await server.tags()
    except ProbeError as error:
        return Seen(instance, None, troubles=(_trouble(instance, None, error),))
    names = {name: one for one in tagged if (name := _name(one.name)) is not None}
    listed = {name.folded: one for name, one in names.items()}
    shown: dict[str, Shown] = {}
    troubles: list[Trouble] = []
    for model in wanted or names:
        if model.folded in listed and listed[model.folded].hosted:
            continue
        try:
            shown[model.folded] = await server.show(model)
        except ProbeError as error:
            troubles.append(_trouble(instance, model, error))
            if error.reason is Reason.TIMEOUT:
                break  # a server that hangs is not waited for once for every model
    return Seen(instance, listed, shown, tuple(troubles))


def survey(seen: Sequence[Seen], wanted: Sequence[ModelName]) -> Survey:
    """The targets: models in the outer round, so that neighbours in it are on different servers.

    A server that would not list is asked for what the others list: that it answers nothing is to be seen, not left out.
    How a model is asked is taken from another server where its own does not say.
    """
    models = _models(seen, wanted)
    targets: list[Target] = []
    left_out: list[str] = []
    for folded, model in models.items():
        known = next((one.shown[folded] for one in seen if folded in one.shown), None)
        for one in seen:
            if not wanted and one.listed is not None and folded not in one.listed:
                continue
            shown = one.shown.get(folded, known)
            if _hosted(folded, one, seen) or (shown is not None and shown.hosted):
                left_out.append(f"{one.instance}: {model} is served elsewhere, and not asked")
            elif ways := ways_of(shown):
                targets.append(Target(one.instance, model, ways))
            else:
                left_out.append(f"{one.instance}: {model} makes neither text nor embeddings, and is not asked")
    return Survey(tuple(targets), tuple(trouble for one in seen for trouble in one.troubles), tuple(left_out))


def ways_of(shown: Shown | None) -> tuple[Way, ...]:
    """How a model of these capabilities is asked; one of which nothing is known, as one that makes text."""
    if shown is None or not shown.capabilities:
        return _TEXT
    text = _TEXT if "completion" in shown.capabilities else ()
    return (*text, Way.EMBED) if "embedding" in shown.capabilities else text


def _trouble(instance: str, model: ModelName | None, error: ProbeError) -> Trouble:
    return Trouble(instance, model, error.reason, error.status, error.message)


def _hosted(folded: str, one: Seen, seen: Sequence[Seen]) -> bool:
    listings = [one.listed] if one.listed is not None else [other.listed for other in seen if other.listed is not None]
    return any(folded in listed and listed[folded].hosted for listed in listings)


def _models(seen: Iterable[Seen], wanted: Sequence[ModelName]) -> Mapping[str, ModelName]:
    """By folded name, in order."""
    if wanted:
        return {model.folded: model for model in wanted}
    names = (_name(tagged.name) for one in seen for tagged in (one.listed or {}).values())
    found = {name.folded: name for name in names if name is not None}
    return dict(sorted(found.items()))


def _name(text: str) -> ModelName | None:
    """None for what no request could name."""
    try:
        return ModelName.parse(text)
    except InvalidNameError:
        return None
