"""docs/errors.md: every exit code, error class and event, with the meanings of meanings.toml."""

import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec

import syncd
from docs.reference.said import Call, logged, told, trees
from docs.reference.words import cell, code, table
from syncd.errors import ExitCode, SyncdError
from syncd.jobs.mend import Fate
from syncd.jobs.rollout import State

MEANINGS = Path(__file__).with_name("meanings.toml")
_PACKAGE = Path(syncd.__file__).parent
_ENDS = (State.DONE, State.HALTED, State.REVERTED)  # of a rollout

_LEVELS = {"exception": "error with traceback"}

_HEAD = """# Errors and events

Made of the code and of `docs/reference/meanings.toml` by `make docs`; a test holds that nothing is missing and
nothing is left over. Search this page for an event's name, or for the class that a program of yours has caught.

An error of a command is `error: what happened`, and most often `hint: the next step`; with `--json` it is an object
with the same words and the exit code. The daemon logs to stderr: for journald as `event key=value ...` with a
priority (`journalctl -u syncd -p warning`), on a terminal in colours, elsewhere as one JSON object a line. Names and
texts from outside are escaped.
"""


class MeaningsError(Exception):
    """meanings.toml and the code do not fit together."""


class Meaning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``next``: what to do, if anything."""

    means: str
    next: str = "Nothing."


class Meanings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    exit_codes: Mapping[str, str]
    errors: Mapping[str, Meaning]
    events: Mapping[str, Meaning]
    told: Mapping[str, Meaning]


@dataclass(frozen=True, slots=True)
class Found:
    """What the code has. ``told``: events of the API."""

    classes: Mapping[str, type[SyncdError]]
    calls: tuple[Call, ...]
    told: frozenset[str]


def page() -> str:
    """The whole page. Raise ``MeaningsError``."""
    return written(found(), MEANINGS)


def found() -> Found:
    """Read all of syncd: seconds."""
    sources = trees(_PACKAGE)
    return Found(
        classes={one.__name__: one for one in error_classes()},
        calls=tuple(sorted(set(logged(sources)), key=lambda call: call.event)),
        told=told(sources, {"blob": Fate, "rollout": _ENDS}),
    )


def written(here: Found, file: Path) -> str:
    """The page. Raise ``MeaningsError`` where ``file`` does not explain something, or what is not there any more."""
    meanings = msgspec.convert(tomllib.loads(file.read_text()), Meanings)
    _compare("exit_codes", meanings.exit_codes, (one.name for one in ExitCode))
    _compare("errors", meanings.errors, here.classes)
    _compare("events", meanings.events, (call.event for call in here.calls))
    _compare("told", meanings.told, here.told)
    return "\n".join(
        (
            _HEAD,
            _exit_codes(meanings.exit_codes, here.classes.values()),
            _classes(meanings.errors, here.classes),
            "## Events of the log\n",
            *_events(meanings.events, here.calls),
            _told(meanings.told),
        )
    )


def error_classes() -> list[type[SyncdError]]:
    """``SyncdError`` and all that are one, anywhere in syncd, by name."""
    for module in pkgutil.walk_packages(syncd.__path__, "syncd."):
        importlib.import_module(module.name)
    kinds: set[type[SyncdError]] = {SyncdError, *_below(SyncdError)}
    return sorted((one for one in kinds if one.__module__.startswith("syncd.")), key=lambda one: one.__name__)


def _below(kind: type[SyncdError]) -> Iterator[type[SyncdError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def _compare(what: str, written: Iterable[str], there: Iterable[str]) -> None:
    have, said = set(there), set(written)
    missing, left = sorted(have - said), sorted(said - have)
    if missing:
        raise MeaningsError(f"{MEANINGS.name}: [{what}] does not say what these mean: {', '.join(missing)}")
    if left:
        raise MeaningsError(f"{MEANINGS.name}: [{what}] explains what the code does not have: {', '.join(left)}")


def _exit_codes(meanings: Mapping[str, str], classes: Iterable[type[SyncdError]]) -> str:
    named = sorted(classes, key=lambda one: one.__name__)
    rows = [
        (
            str(int(one)),
            one.name.lower().replace("_", " "),
            ", ".join(code(kind.__name__) for kind in named if kind.exit_code is one),
            meanings[one.name],
        )
        for one in ExitCode
    ]
    after = "A command that a signal ends leaves 128 and the signal's number: 130 after Ctrl-C.\n"
    return f"## Exit codes\n\n{table(('code', 'name', 'classes', 'what it says'), rows)}\n{after}"


def _classes(meanings: Mapping[str, Meaning], classes: Mapping[str, type[SyncdError]]) -> str:
    rows = [
        (code(name), str(int(kind.exit_code)), "yes" if kind.transient else "no", *_words(meanings[name]))
        for name, kind in classes.items()
    ]
    head = ("class", "exit code", "may pass", "what has happened", "next step")
    said = "*May pass*: the same may succeed later without anybody changing anything."
    return f"## Error classes\n\n{said}\n\n{table(head, rows)}"


def _events(meanings: Mapping[str, Meaning], calls: Iterable[Call]) -> Iterator[str]:
    for prefix, group in groupby(calls, key=lambda call: call.event.partition(".")[0]):
        rows = []
        for event, places in groupby(group, key=lambda call: call.event):
            here = list(places)
            levels = dict.fromkeys(sorted(_LEVELS.get(call.level, call.level) for call in here))
            fields = dict.fromkeys(field for call in sorted(here, key=lambda one: one.fields) for field in call.fields)
            rows.append((code(event), ", ".join(levels), ", ".join(map(code, fields)), *_words(meanings[event])))
        head = ("event", "level", "fields", "what has happened", "next step")
        yield f"### {prefix}\n\n{table(head, rows)}"


def _told(meanings: Mapping[str, Meaning]) -> str:
    rows = [(code(event), *_words(one)) for event, one in sorted(meanings.items())]
    said = "What `GET /syncd/v1/events` tells, each with `name`, `job` and `detail` where they apply."
    return f"## Events of the API\n\n{said}\n\n{table(('event', 'what has happened', 'next step'), rows)}"


def _words(meaning: Meaning) -> tuple[str, str]:
    return cell(meaning.means), _linked(cell(meaning.next))


def _linked(text: str) -> str:
    """``SyncdModelFailing in the runbook`` as a link to that entry."""
    return re.sub(r"(Syncd\w+) in the runbook", lambda match: f"[{match[1]}](runbook.md#{match[1].lower()})", text)
