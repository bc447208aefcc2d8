"""What is remembered of rollouts: one small file per model, so that the next life goes on where this one was."""

import hashlib

import msgspec
import structlog

from syncd.aio import in_thread
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


class RolloutBook:
    """The latest rollout of each model."""

    def __init__(self, files: StateFiles) -> None:
        """Read what the last life left. Blocks for a moment. What cannot be read is dropped, and logged."""
        self._files = files
        self._rollouts: dict[str, Rollout] = {}
        for file in files.names():
            if file.startswith(_PREFIX):
                self._recall(file)

    def of(self, name: ModelName) -> Rollout | None:
        """The latest of this model."""
        return self._rollouts.get(name.folded)

    def all(self) -> tuple[Rollout, ...]:
        """By name; what is merely about to be published is none yet."""
        told = (one for one in self._rollouts.values() if one.state is not State.ANNOUNCED)
        return tuple(sorted(told, key=lambda one: one.name))

    def unfinished(self) -> tuple[Rollout, ...]:
        """Those that an earlier life was at."""
        ended = (State.HALTED, State.DONE, State.REVERTED)
        return tuple(one for one in self._rollouts.values() if one.state not in ended)

    async def begin(self, rollout: Rollout) -> None:
        """From now on this is the latest. Raise ``SyncdError`` where that cannot be made durable."""
        self._rollouts[rollout.name.folded] = rollout
        await in_thread(self._write, rollout)

    def overtaken(self, rollout: Rollout) -> bool:
        """Whether something newer has begun since."""
        now = self.of(rollout.name)
        return now is None or (now.digest, now.at) != (rollout.digest, rollout.at)

    async def note(self, rollout: Rollout) -> None:
        """How it goes on; nothing, if a newer one has overtaken it. A full disk is logged, and stops no rollout."""
        if self.overtaken(rollout):
            return
        try:
            await self.begin(rollout)
        except SyncdError as error:
            log.warning("rollout.not_noted", name=str(rollout.name), error=error.message)

    async def forget(self, rollout: Rollout) -> None:
        """It came to nothing; one that has begun meanwhile stays. What cannot be removed is logged."""
        if self.of(rollout.name) is not rollout:
            return
        del self._rollouts[rollout.name.folded]
        try:
            await in_thread(self._files.remove, _file(rollout.name))
        except SyncdError as error:
            log.warning("rollout.not_forgotten", name=str(rollout.name), error=error.message)

    def _write(self, rollout: Rollout) -> None:
        self._files.write(_file(rollout.name), msgspec.json.format(msgspec.json.encode(_note(rollout))))

    def _recall(self, file: str) -> None:
        try:
            rollout = _rollout(msgspec.json.decode(self._files.read(file) or b"", type=RolloutNote))
        except (SyncdError, msgspec.MsgspecError) as error:
            log.error("rollout.unreadable", file=file, error=str(error))  # noqa: TRY400 - where it was read says nothing
            self._files.remove(file)
        else:
            self._rollouts[rollout.name.folded] = rollout


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
