"""What ``syncd verify --repair`` and ``syncd scrub --repair`` do with what they found."""

import sys
import time
from collections.abc import Sequence

import msgspec

from syncd.api import events
from syncd.api.repair import MEND, BlobMended, BlobNotMended, MendedAll, MendingNow, MendRequest
from syncd.cli import place, words
from syncd.cli.place import Watch
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
        sys.stdout.write(f"{words.count(told.mended, 'blob')} mended, {size(told.fetched)} fetched\n")
    if left(told):
        raise IntegrityError(
            f"{words.count(left(told), 'blob')} could not be mended",
            hint=view.hint or "'syncd verify --repair' tries again",
        )
    if told.faults:
        raise IntegrityError(
            f"{words.count(told.faults, 'manifest')} broken, which is no blob to mend",
            hint="'syncd pull NAME' replaces a manifest, 'syncd rm NAME' removes it",
        )


def left(told: MendedAll) -> int:
    """How many are not whole."""
    return told.quarantined + told.kept + told.later


class View:
    """Ends on stdout, as they come; progress on stderr, or on stdout as JSON. ``watch``: for a verification's."""

    def __init__(self, watch: Watch | None, *, as_json: bool) -> None:
        self._watch = watch
        self._as_json = as_json
        self._next = time.monotonic() + _SHOWN_EVERY
        self.hint: str | None = None

    def hear(self, line: msgspec.Struct) -> None:
        """A line."""
        match line:
            case events.Verifying():
                if self._watch is not None:
                    self._watch.show(line)
                return
            case MendingNow() if time.monotonic() < self._next:
                return
            case MendingNow():
                self._next = time.monotonic() + _SHOWN_EVERY
            case BlobNotMended():
                self.hint = self.hint or line.hint
        if self._as_json:
            sys.stdout.write(events.line(line))
            sys.stdout.flush()
        elif isinstance(line, MendingNow):
            sys.stderr.write(f"{line.digest}: {size(line.done)} of {size(line.size)}, {size(line.fetched)} fetched\n")
        else:
            sys.stdout.write(_words(line))


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
