"""What is remembered of rollouts: one small file per model, so that the next life goes on where this one was."""

import hashlib

import msgspec
import structlog

from syncd.errors import SyncdError
from syncd.jobs.reload import Change
from syncd.jobs.reload_server import Result
from syncd.jobs.rollout import Rollout, State
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store.state import StateFiles

log = structlog.get_logger()

_PREFIX = "rollout-"


class RolloutNote(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as it lies on disk."""

    name: str
    digest: str
    change: Change
    previous: str | None
    at: float
    state: State
    warm: tuple[str, ...]
    passed: dict[str, Result]
    failed: dict[str, str]
    waiting: tuple[str, ...]
    reason: str | None
    insisted: bool


def recall(files: StateFiles) -> dict[str, Rollout]:
    """Every rollout that an earlier life noted, by folded name. Blocks. What cannot be read is dropped, and logged."""
    found = {}
    for file in files.names():
        if not file.startswith(_PREFIX):
            continue
        try:
            rollout = _rollout(msgspec.json.decode(files.read(file) or b"", type=RolloutNote))
        except (SyncdError, msgspec.MsgspecError) as error:
            log.error("rollout.unreadable", file=file, error=str(error))  # noqa: TRY400 - where it was read says nothing
            files.remove(file)
        else:
            found[rollout.name.folded] = rollout
    return found


def note(files: StateFiles, rollout: Rollout) -> None:
    """Durable when it returns. Blocks. Raise ``SyncdError``."""
    files.write(_file(rollout.name), msgspec.json.format(msgspec.json.encode(_note(rollout))))


def forget(files: StateFiles, name: ModelName) -> None:
    """Nothing is remembered of it any more. Blocks."""
    files.remove(_file(name))


def _file(name: ModelName) -> str:
    return f"{_PREFIX}{hashlib.sha256(name.folded.encode()).hexdigest()[:32]}.json"


def _note(rollout: Rollout) -> RolloutNote:
    return RolloutNote(
        name=rollout.name.qualified,
        digest=str(rollout.digest),
        change=rollout.change,
        previous=None if rollout.previous is None else str(rollout.previous),
        at=rollout.at,
        state=rollout.state,
        warm=tuple(sorted(rollout.warm)),
        passed=dict(rollout.passed),
        failed=dict(rollout.failed),
        waiting=rollout.waiting,
        reason=rollout.reason,
        insisted=rollout.insisted,
    )


def _rollout(note: RolloutNote) -> Rollout:
    return Rollout(
        name=ModelName.parse(note.name),
        digest=Digest.parse(note.digest),
        change=note.change,
        previous=None if note.previous is None else Digest.parse(note.previous),
        at=note.at,
        state=note.state,
        warm=frozenset(note.warm),
        passed=note.passed,
        failed=note.failed,
        waiting=note.waiting,
        reason=note.reason,
        insisted=note.insisted,
    )
