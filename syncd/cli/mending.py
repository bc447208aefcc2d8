"""What ``syncd verify --repair`` and ``syncd scrub --repair`` do with what they found."""

import sys
import time
from collections.abc import Sequence

import msgspec

from syncd.api import events
from syncd.api.repair import MEND, BlobMended, BlobNotMended, MendedAll, MendingNow, MendRequest
from syncd.cli import place, words
from syncd.cli.place import Watch
from syncd.cli.render import Clock
from syncd.cli.session import Session
from syncd.errors import IntegrityError
from syncd.oci.name import ModelName
from syncd.text import printable, size

LINES = (MendingNow, BlobMended, BlobNotMended)
"""What is told of mending, in ``scrub --repair`` as well."""

_SHOWN_EVERY = 2.0  # seconds
_HINT = "nothing is lost: run it again, and what is fetched already is not fetched again"
_FATES = {
    "later": "not mended",
    "quarantined": "cannot be mended; its models were taken out of sight, and lie in .syncd/quarantine",
    "kept": "cannot be mended; left published, as [scrub] unrepairable says",
}


def verify_and_mend(session: Session, names: Sequence[ModelName], watch: Watch, *, as_json: bool) -> None:
    """Verify these models (none: all), ``watch`` entered meanwhile, and mend what is damaged.

    Raise ``IntegrityError`` if anything stays so.
    """
    asked = MendRequest(tuple(str(name) for name in names) or None, verify=True)
    with watch:
        view = View(watch, as_json=as_json)
        told = place.of(session).operate(MEND, asked, view.hear, hint=_HINT)
    if as_json:
        sys.stdout.write(events.line(told))
    else:
        sys.stdout.write(_summary(told))
    if left(told):
        raise not_mended(left(told), view, again="verify --repair")
    if told.faults:
        raise IntegrityError(
            f"{words.count(told.faults, 'manifest')} broken, which is no blob to mend",
            hint="'syncd pull NAME' replaces a manifest, 'syncd rm NAME' removes it",
        )


def left(told: MendedAll) -> int:
    """How many are not whole."""
    return told.quarantined + told.kept + told.later


def damage_and_mending(damaged: int, mended: int, unnamed: int = 0) -> str:
    """What was found damaged, and what became of it: ``1 blob was damaged and is mended``.

    ``unnamed``: so many are not mended, and no model names them any more.
    """
    what = f"{words.count(damaged, 'blob')} {'was' if damaged == 1 else 'were'} damaged"
    if unnamed >= damaged:
        return f"{what}, and no model names {'it' if damaged == 1 else 'them'} any more"
    if unnamed:
        counts = {"mended": mended, "could not be mended": damaged - mended - unnamed, "of no model any more": unnamed}
        return f"{what}: {', '.join(f'{count} {which}' for which, count in counts.items() if count)}"
    if mended >= damaged:
        return f"{what} and {'is' if damaged == 1 else 'are'} mended"
    if not mended:
        return f"{what} and could not be mended"
    return f"{what}: {mended} mended, {damaged - mended} could not be mended"


def not_mended(count: int, view: "View", *, again: str) -> IntegrityError:
    """Why so many blobs are not whole, in the words of the first of them. ``again``: the command that tries again."""
    why = f": {printable(view.reason)}" if view.reason else ""
    return IntegrityError(
        f"{words.count(count, 'blob')} could not be mended{why}", hint=view.hint or f"'syncd {again}' tries again"
    )


def _summary(told: MendedAll) -> str:
    damaged = told.mended + left(told)
    if not damaged:
        return "no blob is damaged\n"
    return f"{damage_and_mending(damaged, told.mended)}, {size(told.fetched)} fetched\n"


class View:
    """Ends on stdout, as they come; progress on stderr, or on stdout as JSON. ``watch``: for a verification's."""

    def __init__(self, watch: Watch | None, *, as_json: bool, clock: Clock = time.monotonic) -> None:
        self._watch = watch
        self._as_json = as_json
        self._clock = clock
        self._next = clock() + _SHOWN_EVERY
        self._shown = ""
        self.hint: str | None = None
        self.reason: str | None = None
        """Of the first blob that was not mended, like ``hint``."""

    def hear(self, line: msgspec.Struct) -> None:
        """A line."""
        match line:
            case events.Verifying():
                if self._watch is not None:
                    self._watch.show(line)
                return
            case MendingNow() if self._clock() < self._next:
                return
            case MendingNow():
                self._next = self._clock() + _SHOWN_EVERY
            case BlobNotMended():
                self.hint = self.hint or line.hint
                self.reason = self.reason or line.reason
        if self._as_json:
            sys.stdout.write(events.line(line))
            sys.stdout.flush()
        elif isinstance(line, MendingNow):
            self._show(line)
        else:
            sys.stdout.write(_words(line))

    def _show(self, line: MendingNow) -> None:
        """What has not been said already: a registry that is away may be asked for minutes."""
        shown = f"{line.digest}: {size(line.done)} of {size(line.size)}, {size(line.fetched)} fetched"
        if line.trouble:
            shown = f"{shown}; tried again: {printable(line.trouble)}"
        if shown != self._shown:
            sys.stderr.write(f"{shown}\n")
            self._shown = shown


def _words(line: msgspec.Struct) -> str:
    match line:
        case events.FaultFound():
            return fault_line(line)
        case BlobMended():
            return f"{_names(line.models)}: {line.digest}: mended, {size(line.fetched)} fetched\n"
        case BlobNotMended():
            what = _FATES.get(line.fate, line.fate)
            return f"{_names(line.models)}: {line.digest}: {what}: {printable(line.reason)}\n"
    return ""


def _names(models: Sequence[str]) -> str:
    return printable(", ".join(models))


def fault_line(fault: events.FaultFound) -> str:
    """A fault, and whom it hits."""
    return f"{_names(fault.models)}: {printable(fault.kind)}: {printable(fault.detail)}\n"
