"""The servers of a status as people read them: who answers, what each serves, what is wrong; pure."""

from collections.abc import Iterator
from datetime import datetime

from syncd.api import v1
from syncd.cli import words
from syncd.cli.sheets import Row, Sheet, Tone, row
from syncd.text import printable

_NAMES_FIT = 60  # columns that the names of all servers may take; longer ones become numbers

_TONES = {
    "proved": Tone.GOOD,
    "served": Tone.GOOD,
    "loaded": Tone.GOOD,
    "hosted": Tone.GOOD,
    "loading": Tone.MOVING,
    "stale": Tone.MOVING,
    "missing": Tone.BAD,
    "failing": Tone.BAD,
}

_ENDED_BADLY = ("halted", "reverted")


def sheets(found: v1.Status, now: float) -> tuple[Sheet, ...]:
    """Empty ones for a host without servers. ``now``: seconds since the epoch."""
    return (_servers(found), _matrix(found), _troubles(found, now), _rollouts(found))


def faults(found: v1.Status) -> list[str]:
    """What is not well, in words: servers that are down, and models that others of them do not serve."""
    told = [f"{one.name}: {one.error}" for one in found.instances if one.error]
    told += [
        f"{model.name} on {one.name}: {model.message or model.state}"
        for one in found.instances
        for model in one.models
        if one.error is None and _TONES.get(model.state) is Tone.BAD
    ]
    told += [f"{one.name}: rollout {one.state}: {one.reason}" for one in found.rollouts if one.state in _ENDED_BADLY]
    return told


def _servers(found: v1.Status) -> Sheet:
    rows = []
    for number, one in enumerate(found.instances, 1):
        state = "unknown" if one.up is None else "up" if one.error is None else "failing" if one.up else "down"
        tone = Tone.BAD if one.error else Tone.CALM
        rows.append(row(tone, str(number), one.name, one.url, state, one.version or "-", one.error or ""))
    return Sheet(("#", "SERVER", "URL", "STATE", "VERSION", "WHY"), tuple(rows))


def _matrix(found: v1.Status) -> Sheet:
    names = [one.name for one in found.instances]
    fits = sum(len(name) + 4 for name in names) <= _NAMES_FIT
    header = tuple(name if fits else str(number) for number, name in enumerate(names, 1))
    cells = [{model.name: model.state for model in one.models} for one in found.instances]
    rows = []
    for name in sorted({name for column in cells for name in column}):
        states = tuple(column.get(name, "unknown") for column in cells)
        tones = (Tone.CALM, *(_TONES.get(state, Tone.CALM) for state in states))
        rows.append(Row(tuple(printable(cell, limit=200) for cell in (name, *states)), tones=tones))
    return Sheet(("MODEL ON SERVER", *header), tuple(rows), marked=True)


def _troubles(found: v1.Status, now: float) -> Sheet:
    rows = [
        row(_TONES.get(model.state, Tone.CALM), model.name, one.name, model.state, why)
        for one in found.instances
        if one.error is None
        for model in one.models
        if (why := "; ".join(_whys(model, now)))
    ]
    return Sheet(("MODEL", "SERVER", "STATE", "WHY"), tuple(rows))


def _rollouts(found: v1.Status) -> Sheet:
    """Those that are not done."""
    rows = [
        row(
            Tone.BAD if one.state in _ENDED_BADLY else Tone.MOVING,
            one.name,
            one.state,
            f"{len(one.done)} of {len(one.done) + len(one.failed) + len(one.waiting)}",
            one.reason or "",
        )
        for one in found.rollouts
        if one.state != "done"
    ]
    return Sheet(("ROLLOUT", "STATE", "SERVERS", "WHY"), tuple(rows))


def _whys(model: v1.InstanceModel, now: float) -> Iterator[str]:
    if model.state == "missing":
        yield "the server does not list it: does it read this store?"
    if model.message is not None:
        yield f"{model.reason}: {model.message}"
    if model.stale:
        left = None if model.stale_until is None else datetime.fromisoformat(model.stale_until).timestamp() - now
        until = "until it is told to let go" if left is None else f"for {words.left(max(left, 0.0))}"
        yield f"an older version stays in its memory {until}"
