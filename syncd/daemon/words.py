"""A model of the settings in the words of ``/syncd/v1/status`` (pure)."""

from syncd.api.catalogue import rfc3339
from syncd.api.v1 import DesiredModel
from syncd.daemon.desired import Action, Announce, Check, Moment, Pull, Restore, Seen, Standing, State, Wait, Wish
from syncd.jobs.board import JobView
from syncd.jobs.progress import Totals
from syncd.text import printable

_CALM = {State.PUBLISHED, State.PINNED}
"""What failed before it came to this was made good otherwise: by a repair, from keep/, by hand."""


def describe(
    wish: Wish, seen: Seen | None, standing: Standing, action: Action, moment: Moment, job: JobView | None
) -> DesiredModel:
    """``action``: the next one, by ``decide``. ``job``: the running pull of the name."""
    wait = action if isinstance(action, Wait) else _under_way(action, seen, wish)
    totals = Totals.of(job.progress) if job and job.progress else None
    size = seen.size if seen else 0
    pending = standing.pending(seen) if seen else None
    whole = seen is not None and seen.digest is not None and seen.broken is None
    return DesiredModel(
        name=str(wish.reference if wish.held is None else wish.reference.name),
        state=State.PULLING.value if job else wait.state.value,
        digest=str(seen.digest) if seen and seen.digest else None,
        pending=str(pending) if pending else None,
        size=totals.size if totals else size,
        done=totals.done if totals else size if whole else 0,
        job=job.id if job else None,
        reason=printable(wait.reason) if wait.reason and not job else None,
        failures=0 if wait.state in _CALM else standing.failures,
        last_check=None if standing.checked is None else rfc3339(standing.checked),
        next_check=None if wait.next_try is None or job else rfc3339(moment.at(wait.next_try)),
        moved_back=None if seen is None or seen.moved_back is None else rfc3339(seen.moved_back),
    )


def _under_way(action: Action, seen: Seen | None, wish: Wish) -> Wait:
    """What a model is called while something is about to happen to it."""
    now = 0.0
    match action:
        case Pull():
            return Wait(now, State.PENDING, "it waits for its turn to be pulled")
        case Restore():
            return Wait(now, State.PENDING, "it is being put back")
        case Check() | Announce() if seen and seen.intact(wish.pin):
            return Wait(now, State.PUBLISHED if wish.held is None else State.PINNED, wish.held)
    return Wait(now, State.UNKNOWN)
