"""The models of the settings as a pins file holds them (pure)."""

from collections.abc import Sequence

from syncd.daemon.dropins import Document
from syncd.jobs.pins import Pins
from syncd.oci.name import ModelName, Reference, case_conflict


def held_by(document: Document, models: Sequence[Reference], pins: Pins) -> list[Reference]:
    """``models``, each pinned as ``pins`` has it, and behind them those that it alone names.

    Raise ``ConfigurationError`` where the settings pin one to something else, or spell one in another case.
    """
    held = [_held(document, index, reference, pins) for index, reference in enumerate(models)]
    named = {reference.name.folded for reference in models}
    alone = [pin for folded, pin in pins.models.items() if folded not in named]
    _refuse_case_variants(document, models, [pin.name for pin in alone], pins)
    return held + [Reference(pin.name, pin.manifest.digest) for pin in alone]


def _held(document: Document, index: int, reference: Reference, pins: Pins) -> Reference:
    pin = pins.of(reference.name)
    if pin is None:
        return reference
    if reference.digest not in {None, pin.manifest.digest}:
        raise document.error(
            ("models", index, "name"),
            f"{reference.name} is pinned here to {reference.digest}, and by {pins.path} to {pin.manifest.digest}",
            hint=f"take the digest out here, or 'syncd unpin {reference.name}'",
        )
    return Reference(reference.name, pin.manifest.digest)


def _refuse_case_variants(
    document: Document, models: Sequence[Reference], alone: Sequence[ModelName], pins: Pins
) -> None:
    spelled = {(at, part.casefold()): one.name for one in models for at, part in enumerate(one.name.parts)}
    for name in alone:
        for at, part in enumerate(name.parts):
            other = spelled.get((at, part.casefold()))
            if other is not None and case_conflict(name, other) is not None:
                raise document.error(
                    ("pins",),
                    f"{name} of {pins.path} and {other} of the settings differ in some part only in case",
                    hint="Ollama takes both for one: write them alike",
                )
