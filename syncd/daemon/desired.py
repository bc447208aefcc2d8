"""What to do for one model of the settings (pure): look, put back, check, pull, announce, or wait, and until when.

Times are seconds on the monotonic clock, so that a jump of the wall clock stalls nothing; those called ``epoch`` are
for people and for the next life.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, Protocol, Self

from syncd.errors import RegistryUnavailableError, SyncdError
from syncd.jobs.policy import PolicyError
from syncd.oci.digest import Digest
from syncd.oci.name import Reference

FIRST_BACKOFF = 30.0
LONGEST_BACKOFF = 3600.0
LONGEST_RETRY_AFTER = 24 * 3600.0  # a registry may ask for more; nobody is kept waiting longer
LOOK_SECONDS = 600.0
"""However quiet it is, everything is looked at this often: what no event told of is found, and the day goes on."""
CALM_SECONDS = 60.0  # who leaves a model alone for so long is not fighting for it
_PATIENCE = 3  # how often in a row a model is put back at once
_LONGEST_TRUCE = 60.0
_DAY = 86400.0


class State(StrEnum):
    """The words for a model of the settings (``v1.DesiredModel.state``)."""

    PUBLISHED = "published"
    PULLING = "pulling"
    PENDING = "pending"
    FAILING = "failing"
    HELD = "held"
    PINNED = "pinned"
    UNKNOWN = "unknown"


class Window(Protocol):
    """A part of every day, in minutes after local midnight."""

    @property
    def start(self) -> int:
        """The minute with which it begins."""

    def holds(self, minute: int) -> bool:
        """Whether this minute (0 to 1439) lies in it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the settings say of a model. ``every``: seconds between two looks at its tag.

    ``held``: who has it at the pin beside the settings, and how it is released. ``barred``: why it is not to be here.
    """

    reference: Reference
    every: float
    window: Window | None = None
    apply: Literal["auto", "notify"] = "auto"
    held: str | None = None
    barred: str | None = None

    @property
    def pin(self) -> Digest | None:
        """The digest that it is to be, whatever the tag says."""
        return self.reference.digest


@dataclass(frozen=True, slots=True)
class Moment:
    """Now. ``second``: since local midnight."""

    now: float
    epoch: float
    second: float

    @property
    def minute(self) -> int:
        """After local midnight, 0 to 1439."""
        return int(self.second // 60) % 1440

    def at(self, then: float) -> float:
        """A time on the monotonic clock as seconds since the epoch."""
        return self.epoch + (then - self.now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the store has under a name.

    ``digest``: of what lies under the tag (None: nothing, or nothing that can be read). ``expected``: what syncd
    published there last, or the pin. ``broken``: what is wrong with what is there. ``restorable``: the expected
    manifest is known and its bytes are on the disk. ``noted``: the expected one's publication is in the history; a
    process that died in between did not get there. ``older``: another version was published after the expected one.
    ``size``: bytes of the model. ``moved_back``: as ``jobs.restore.Condition`` has it.
    """

    digest: Digest | None = None
    expected: Digest | None = None
    broken: str | None = None
    restorable: bool = False
    noted: bool = True
    older: bool = False
    size: int = 0
    moved_back: float | None = None

    def intact(self, pin: Digest | None) -> bool:
        """Whether what is there is what should be there; what syncd never published is for the next check to judge."""
        if self.digest is None or self.broken is not None or not self.noted:
            return False
        target = pin or self.expected
        return target is None or self.digest == target

    def lost(self, pin: Digest | None) -> bool:
        """Whether what syncd published here is damaged or gone, and no longer on the disk to be put back."""
        return self.expected is not None and not (self.intact(pin) or self.older or self.restorable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a model beside the store.

    ``upstream``: what the registry's tag held when ``base`` was published; ``checked``: when that was (epoch). ``due``:
    of the next check. ``retry_at``: no request before that. ``restore_at``: nothing is put back before that. ``gone``:
    a digest that turned out not to be on the disk any more when it was to be put back.
    """

    upstream: Digest | None = None
    base: Digest | None = None
    checked: float | None = None
    announced: Digest | None = None
    due: float = 0.0
    failures: int = 0
    reason: str | None = None
    retry_at: float = 0.0
    held_until: float = 0.0
    restored_at: float | None = None
    restores: int = 0
    restore_at: float = 0.0
    gone: Digest | None = None

    def pending(self, seen: Seen) -> Digest | None:
        """The update that the last check found, unless something else was published since."""
        if self.upstream is None or self.base != seen.digest or self.upstream == seen.digest:
            return None
        return self.upstream

    def checked_now(self, upstream: Digest, base: Digest | None, due: float, moment: Moment) -> Self:
        """After the registry has told what its tag holds, while ``base`` was published."""
        return replace(
            self, upstream=upstream, base=base, checked=moment.epoch, due=due, failures=0, reason=None, retry_at=0.0
        )

    def pulled(self, digest: Digest, due: float, moment: Moment) -> Self:
        """After a pull that ended well."""
        return replace(self.checked_now(digest, digest, due, moment), gone=None)

    def failed(self, error: SyncdError, moment: Moment, random: float) -> Self:
        """After a request or a pull that failed. ``random``: from 0 up to 1."""
        failures = self.failures + 1
        asked = error.retry_after if isinstance(error, RegistryUnavailableError) else None
        wait = max(backoff(failures, random), min(asked or 0.0, LONGEST_RETRY_AFTER))
        if isinstance(error, PolicyError):
            wait = LONGEST_BACKOFF  # only other settings mend it, and those are heard of; or the tag moves on
        return replace(self, failures=failures, reason=error.message, retry_at=moment.now + wait)

    def put_off(self, reason: str, moment: Moment) -> Self:
        """After somebody stopped its pull: not again at once."""
        return replace(self, reason=reason, retry_at=moment.now + LONGEST_BACKOFF)

    def restored(self, began: Moment, moment: Moment) -> Self:
        """After it was put back: at once the next time, but not for ever against somebody who keeps taking it away.

        ``began``: when that was begun; bytes may have had to be hashed for minutes.
        """
        after = self._restore_again(began, moment)
        return replace(after, reason=self.reason if self.failures else None)

    def not_restored(self, reason: str, began: Moment, moment: Moment) -> Self:
        """After putting it back failed, likewise."""
        return replace(self._restore_again(began, moment), reason=reason)

    def _restore_again(self, began: Moment, moment: Moment) -> Self:
        # From the end of the wait on: nobody could have been calm before that.
        calm = self.restored_at is None or began.now - max(self.restored_at, self.restore_at) > CALM_SECONDS
        restores = 1 if calm else self.restores + 1
        wait = 0.0 if restores < _PATIENCE else min(_LONGEST_TRUCE, 2.0 ** min(restores - _PATIENCE, 10))
        return replace(self, restored_at=moment.now, restores=restores, restore_at=moment.now + wait)


def backoff(failures: int, random: float) -> float:
    """Seconds until the next try after so many failures in a row: 30 s, doubling up to an hour, give or take 10 %."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(failures - 1, 20)) * (0.9 + 0.2 * random)


def interval(every: float, random: float) -> float:
    """Seconds until the next check, give or take 10 %, so that a thousand hosts do not ask as one."""
    return every * (0.9 + 0.2 * random)


def hold_seconds(deaths: int) -> float:
    """How long a job waits under which so many daemons died in a row: 10 s, 1 min, 6 min, ... at most an hour."""
    return 0.0 if deaths == 0 else min(LONGEST_BACKOFF, 10.0 * 6.0 ** min(deaths - 1, 10))


def until_open(window: Window, second: float) -> float:
    """Seconds until the window opens next, from so many seconds after midnight on."""
    return (window.start * 60 - second) % _DAY or _DAY


@dataclass(frozen=True, slots=True)
class Look:
    """See what the store has of it."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Put back what is on the disk."""


@dataclass(frozen=True, slots=True)
class Check:
    """Ask the registry what its tag holds: one manifest request."""


@dataclass(frozen=True, slots=True)
class Pull:
    """Bring it in."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell that this update waits; then decide again."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until then, and what that is called. ``next_try``: when a request is next made, if one is."""

    until: float
    state: State
    reason: str | None = None
    next_try: float | None = None


Action = Look | Restore | Check | Pull | Announce | Wait

Refused = Callable[[Digest], str | None]
"""Why an update is not to be applied by itself; None: it is."""


def _nobody_refuses(_digest: Digest) -> str | None:
    return None


def decide(
    wish: Wish,
    seen: Seen | None,
    standing: Standing,
    moment: Moment,
    *,
    pulled: bool,
    refused: Refused = _nobody_refuses,
) -> Action:
    """The next step. ``pulled``: a pull of the name runs. ``refused``: which updates are not to be applied."""
    if pulled:
        # What serves until the update is whole is put back meanwhile.
        mended = None if seen is None or seen.intact(wish.pin) else _mend(wish, seen, standing, moment)
        return mended if isinstance(mended, Restore) else Wait(moment.now + LOOK_SECONDS, State.PULLING)
    if seen is None:
        return Look()
    if wish.barred is not None:
        return Wait(moment.now + LOOK_SECONDS, State.FAILING, wish.barred)
    if not seen.intact(wish.pin):
        return _mend(wish, seen, standing, moment)
    if wish.pin is not None:
        return _stay(wish, standing, moment)
    return _follow(wish, seen, standing, moment, refused)


def _stay(wish: Wish, standing: Standing, moment: Moment) -> Action:
    """Nothing is applied to it; of what a rollback holds, it is told what is newer."""
    if wish.held is None:
        return Wait(moment.now + LOOK_SECONDS, State.PUBLISHED)
    return _check_when_due(standing, moment, Wait(standing.due, State.PINNED, wish.held, standing.due))


def _mend(wish: Wish, seen: Seen, standing: Standing, moment: Moment) -> Action:
    """Put it back, or pull it: at once, whatever the window, since that is for updates."""
    target = wish.pin or seen.expected
    if seen.older and seen.digest is not None and seen.broken is None:
        return _request(Pull(), standing, moment)  # not taken away: another version is wanted, and servers are to hear
    if not seen.restorable or standing.gone == target:
        return _request(Pull(), standing, moment)
    if moment.now >= standing.restore_at:
        return Restore()
    return Wait(standing.restore_at, State.FAILING, standing.reason or "it is taken away again and again")


def _follow(wish: Wish, seen: Seen, standing: Standing, moment: Moment, refused: Refused) -> Action:
    pending = standing.pending(seen)
    if pending is not None and (why_not := refused(pending)) is not None:
        return _check_when_due(standing, moment, Wait(standing.due, State.PENDING, why_not, standing.due))
    if pending is not None:
        return _update(wish, pending, standing, moment)
    if seen.expected is None and standing.upstream == seen.digest:
        return _request(Pull(), standing, moment)  # somebody else brought it: make sure of every blob, and note it
    return _check_when_due(standing, moment, Wait(standing.due, State.PUBLISHED, None, standing.due))


def _update(wish: Wish, pending: Digest, standing: Standing, moment: Moment) -> Action:
    if wish.apply == "notify":
        name = wish.reference.name
        wait = Wait(standing.due, State.PENDING, f"'syncd pull {name}' applies the update", standing.due)
    elif wish.window is not None and not wish.window.holds(moment.minute):
        opens = min(standing.due, moment.now + until_open(wish.window, moment.second))
        wait = Wait(opens, State.PENDING, f"the update waits for {wish.window}", opens)
    else:
        return _request(Pull(), standing, moment)
    if standing.announced != pending:
        return Announce(pending)
    return _check_when_due(standing, moment, wait)


def _check_when_due(standing: Standing, moment: Moment, wait: Wait) -> Action:
    return _request(Check(), standing, moment) if moment.now >= standing.due else wait


def _request(action: Check | Pull, standing: Standing, moment: Moment) -> Action:
    if moment.now < standing.held_until:
        reason = "the last daemon died under its pull"
        return Wait(standing.held_until, State.HELD, reason, standing.held_until)
    if moment.now < standing.retry_at:
        return Wait(standing.retry_at, State.FAILING, standing.reason, standing.retry_at)
    return action
