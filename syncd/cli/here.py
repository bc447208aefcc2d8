"""This process as the place where the work is done: no daemon runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from syncd.api import events
from syncd.api.catalogue import Listing, Shown, describe, listing
from syncd.cli.place import Limits, Watch
from syncd.cli.session import Session
from syncd.errors import BusyError, NotFoundError, SyncdError
from syncd.oci.name import ModelName, Reference

# A listing waits for nothing that it does not need. What is needed is imported before the store is opened: root has
# become its owner then, who may not be able to read a Python that lies in root's home.
if TYPE_CHECKING:
    from syncd.api.operation import Operation, Tell
    from syncd.api.v1 import Cancelled, ReloadEnded, ReloadRequest, ReloadTried, Status
    from syncd.cli.render import PullView
    from syncd.daemon.access import Access

A = TypeVar("A", bound=msgspec.Struct)
E = TypeVar("E", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Here:
    """Implements ``Place``."""

    session: Session

    def operate(self, operation: "Operation[A, E]", asked: A, tell: "Tell", *, hint: str | None = None) -> E:
        """Do it in this process."""
        from syncd.cli import running  # noqa: PLC0415 - see above
        from syncd.cli.credentials import access_for  # noqa: PLC0415 - see above
        from syncd.cli.desk import OwnDesk  # noqa: PLC0415 - see above

        access: Access | SyncdError
        try:
            access = access_for(self.session, ())
        except SyncdError as error:
            access = error  # it ends what fetches something, and nothing else
        with self.session.open_store(writes=operation.writes(asked)) as store:
            return running.run(operation.run(OwnDesk(self.session, store, access), asked, tell), hint=hint)

    def listing(self) -> Listing:
        """What is visible."""
        with self.session.open_store(writes=False) as store:
            return listing(store)

    def describe(self, name: ModelName) -> Shown:
        """All that is known of a model."""
        with self.session.open_store(writes=False) as store:
            return describe(store, name)

    @contextmanager
    def removing(self, *, dry_run: bool) -> Iterator[Callable[[ModelName], events.Removed]]:
        """While it is entered: what removes a model."""
        from syncd.cli import running  # noqa: PLC0415 - see above
        from syncd.jobs import remove as removal  # noqa: PLC0415 - see above

        def remove(name: ModelName) -> events.Removed:
            self._refuse_if_wanted(name)
            if dry_run:
                planned = removal.plan(store, name, time.time())
            else:
                planned = running.run(removal.remove(store, name, now=time.time()))
            return events.removed(planned, dry_run=dry_run)

        with self.session.open_store(writes=not dry_run) as store:
            yield remove

    def _refuse_if_wanted(self, name: ModelName) -> None:
        where = self.session.loaded.where(name)
        if where is not None:
            raise BusyError(
                f"{name} is wanted by the settings at {where}, and would be pulled again",
                hint="take it out there first, then remove it",
            )

    def verify(
        self, names: Sequence[ModelName] | None, watch: Watch
    ) -> tuple[Sequence[events.FaultFound], events.Verified]:
        """Hash the blobs of these models, or of all."""
        from syncd.cli import running  # noqa: PLC0415 - see above
        from syncd.jobs.verify import verify  # noqa: PLC0415 - see above

        with self.session.open_store(writes=True) as store, watch:
            started = time.monotonic()
            found = running.run(verify(store, names, on_progress=lambda now: watch.show(events.verifying(now))))
            seconds = time.monotonic() - started
        return [events.fault(fault) for fault in found.faults], events.verified(found, seconds)

    def pull(self, references: Sequence[Reference], limits: Limits, view: "PullView") -> int:
        """Pull one after another."""
        from syncd.cli.pulling_here import pull  # noqa: PLC0415 - see above

        return pull(self.session, references, limits, view)

    def status(self) -> "Status":
        """What the store and the settings alone can say."""
        from syncd.cli.status_here import status  # noqa: PLC0415 - see above

        with self.session.open_store(writes=False) as store:
            return status(store, self.session.loaded, time.time())

    def reload(self, asked: "ReloadRequest", tell: Callable[["ReloadTried"], None]) -> "ReloadEnded":  # noqa: ARG002 - as Place has it
        """Nothing: raise ``NotFoundError``."""
        raise NotFoundError(
            "no daemon runs, and servers are the daemon's business",
            hint="'systemctl start syncd' starts it; 'syncd smoke' asks the servers without one",
        )

    def cancel(self, what: str) -> "Cancelled":
        """Nothing: raise ``NotFoundError``, or ``UsageError`` for what is neither a name nor a job's id."""
        Reference.parse(what)  # an id looks like a name
        raise NotFoundError(
            f"{what}: no daemon runs, so there is no job to cancel",
            hint="a pull without one ends by Ctrl-C where it runs, or by 'syncd rm NAME'",
        )
