"""The daemon as the place where the work is done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from syncd.api import pulls, v1
from syncd.api.catalogue import Listing, Shown
from syncd.api.events import Failed, FaultFound, Removed, Verified, Verifying
from syncd.api.failures import error_of
from syncd.cli.place import Limits, Watch
from syncd.cli.remote import WORK_SECONDS, Client, DaemonGoneError, greet, owns, unintelligible
from syncd.cli.render import PullView
from syncd.cli.session import Session
from syncd.errors import ExitCode, NotFoundError, SyncdError, UsageError
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.oci.name import ModelName, Reference

if TYPE_CHECKING:  # who only lists waits for none of it
    from syncd.api.operation import Operation, Tell

Kinds = dict[str, type[msgspec.Struct]]
A = TypeVar("A", bound=msgspec.Struct)
E = TypeVar("E", bound=msgspec.Struct)
L = TypeVar("L")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class There:
    """Implements ``Place``. ``info``: who answered first."""

    session: Session
    client: Client
    info: v1.DaemonInfo

    def operate(self, operation: "Operation[A, E]", asked: A, tell: "Tell", *, hint: str | None = None) -> E:
        """Have the daemon do it. Whoever goes away stops it."""
        from syncd.cli import running  # noqa: PLC0415 - asyncio and aiohttp are for what streams

        if operation.writes(asked):
            self._say_where()
        return running.run(self._operate(operation, asked, tell), hint=hint)

    async def _operate(self, operation: "Operation[A, E]", asked: A, tell: "Tell") -> E:
        from syncd.cli.remote_streams import following  # noqa: PLC0415 - see operate

        name, ended = operation.ended
        kinds: Kinds = {**operation.lines, name: ended, "error": Failed}
        async with following(self.client.path, f"/syncd/v1/{operation.path}", asked, kinds) as lines:
            async for line in lines:
                if isinstance(line, Failed):
                    raise error_of(line)
                if isinstance(line, ended):
                    return line
                tell(line)
        raise unintelligible(self.client.path)

    def listing(self) -> Listing:
        """What is visible."""
        found = self.client.get("/syncd/v1/models", Listing)
        for one in found.models:
            self._check_time(one.modified)
        return found

    def describe(self, name: ModelName) -> Shown:
        """All that is known of a model."""
        return self.client.get(f"/syncd/v1/model?name={name}", Shown)  # a name has no character that a query escapes

    @contextmanager
    def removing(self, *, dry_run: bool) -> Iterator[Callable[[ModelName], Removed]]:
        """While it is entered: what removes a model."""

        def remove(name: ModelName) -> Removed:
            return self.client.post(
                "/syncd/v1/remove", v1.RemoveRequest(str(name), dry_run), Removed, within=WORK_SECONDS
            )

        if not dry_run:
            self._say_where()
        yield remove

    def verify(self, names: Sequence[ModelName] | None, watch: Watch) -> tuple[Sequence[FaultFound], Verified]:
        """Hash the blobs of these models, or of all. Whoever goes away stops it."""
        from syncd.cli import running  # noqa: PLC0415 - asyncio and aiohttp are for what streams

        self._say_where()
        asked = v1.VerifyRequest(None if names is None else tuple(str(name) for name in names))
        with watch:
            return running.run(self._verify(asked, watch))

    async def _verify(self, asked: v1.VerifyRequest, watch: Watch) -> tuple[Sequence[FaultFound], Verified]:
        from syncd.cli.remote_streams import following  # noqa: PLC0415 - see verify

        kinds: Kinds = {"progress": Verifying, "fault": FaultFound, "verified": Verified, "error": Failed}
        faults: list[FaultFound] = []
        async with following(self.client.path, "/syncd/v1/verify", asked, kinds) as lines:
            async for line in lines:
                match line:
                    case Verifying():
                        watch.show(line)
                    case FaultFound():
                        faults.append(line)
                    case Failed():
                        raise error_of(line)
                    case Verified():
                        return faults, line
        raise unintelligible(self.client.path)

    def pull(self, references: Sequence[Reference], limits: Limits, view: PullView) -> int:
        """Follow one pull after another; a signal ends the watching, and not the pull."""
        from syncd.cli import running  # noqa: PLC0415 - see verify

        if limits.max_rate is not None or limits.connections is not None:
            option = "--connections" if limits.max_rate is None else "--max-rate"
            raise UsageError(
                f"{option} says how this process pulls, and here the daemon (pid {self.info.pid}) does",
                hint="leave it out; [download] in the daemon's settings is for all its pulls",
            )
        self._say_where()
        name = references[0] if len(references) == 1 else "NAME"
        with view:
            return running.run(
                self._pull_all(references, view),
                hint=f"the daemon goes on; 'syncd cancel {name}' stops it, 'syncd pull {name}' shows it again",
            )

    async def _pull_all(self, references: Sequence[Reference], view: PullView) -> int:
        code = ExitCode.DONE
        for reference in references:
            try:
                view.done(await self._pull(reference, view.show))
            except SyncdError as error:
                view.failed(reference, error)
                code = code or error.exit_code
        return code

    async def _pull(self, reference: Reference, show: Callable[[PullProgress], None]) -> PullOutcome:
        try:
            return await self._follow(reference, show)
        except DaemonGoneError as error:
            hint = f"it resumes the pull when it is back; 'syncd pull {reference}' or 'syncd status' shows it then"
            raise DaemonGoneError(error.message, hint=hint) from error

    async def _follow(self, reference: Reference, show: Callable[[PullProgress], None]) -> PullOutcome:
        from syncd.cli.remote_streams import following  # noqa: PLC0415 - see verify

        kinds: Kinds = {
            "update": pulls.PullUpdate,
            "ended": pulls.PullEnded,
            "failed": pulls.PullFailed,
            "error": Failed,
        }
        async with following(self.client.path, "/syncd/v1/pull", v1.PullRequest(str(reference)), kinds) as lines:
            async for line in lines:
                match line:
                    case pulls.PullUpdate():
                        show(self._believed(pulls.progress, line))
                    case pulls.PullEnded():
                        return self._believed(pulls.outcome, line)
                    case pulls.PullFailed():
                        raise error_of(line.error)
                    case Failed():
                        raise error_of(line)
        raise unintelligible(self.client.path)

    def status(self) -> v1.Status:
        """Everything at a glance."""
        found = self.client.get("/syncd/v1/status", v1.Status)
        times = [found.settings.loaded, found.store.as_of, *(job.started for job in found.jobs)]
        times += [when for one in found.models for when in (one.last_check, one.next_check) if when is not None]
        times += [found.daemon.started] if found.daemon else []
        for text in times:
            self._check_time(text)
        return found

    def reload(self, asked: v1.ReloadRequest, tell: Callable[[v1.ReloadTried], None]) -> v1.ReloadEnded:
        """Have the servers load models anew, or prove them; a signal ends the watching, and not that."""
        from syncd.cli import running  # noqa: PLC0415 - see verify

        return running.run(self._reload(asked, tell), hint="the daemon goes on; 'syncd status' shows how far it is")

    async def _reload(self, asked: v1.ReloadRequest, tell: Callable[[v1.ReloadTried], None]) -> v1.ReloadEnded:
        from syncd.cli.remote_streams import following  # noqa: PLC0415 - see verify

        kinds: Kinds = {"tried": v1.ReloadTried, "reloaded": v1.ReloadEnded, "error": Failed}
        async with following(self.client.path, "/syncd/v1/reload", asked, kinds) as lines:
            async for line in lines:
                match line:
                    case v1.ReloadTried():
                        tell(line)
                    case v1.ReloadEnded():
                        return line
                    case Failed():
                        raise error_of(line)
        raise unintelligible(self.client.path)

    def cancel(self, what: str) -> v1.Cancelled:
        """Stop the pulls that ``what`` means: a job, or a name, with or without a pin. Raise ``NotFoundError``."""
        running = [job for job in self.client.get("/syncd/v1/jobs", v1.Jobs).jobs if job.state == "running"]
        request = next((v1.CancelRequest(job=job.id) for job in running if what in {job.id, job.name}), None)
        if request is None:
            request = v1.CancelRequest(name=str(Reference.parse(what).name))
        cancelled = self.client.post("/syncd/v1/cancel", request, v1.Cancelled)
        if not cancelled.cancelled:
            raise NotFoundError(f"{what} is not being pulled", hint="'syncd status' shows what is")
        return cancelled

    def _say_where(self) -> None:
        self.session.say_where(daemon=self.info.pid, path=self.info.store)

    def _believed(self, told: Callable[[L], T], line: L) -> T:
        try:
            return told(line)
        except (SyncdError, ValueError) as error:
            raise unintelligible(self.client.path) from error

    def _check_time(self, text: str) -> None:
        try:
            datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError) as error:
            raise unintelligible(self.client.path) from error


def reach(path: Path, session: Session) -> There | None:
    """The daemon that listens at ``path``; None if nobody does. Raise ``SyncdError`` as ``place.of`` says."""
    info = greet(path)
    if info is None:
        return None
    choice = session.choice
    if choice.asked and not owns(info, choice.path):
        raise UsageError(
            f"{choice.path} ({choice.origin}) is not the store of the daemon (pid {info.pid}): that is {info.store}",
            hint="name its store, or none; with SYNCD_SOCKET=/none no daemon is asked",
        )
    return There(session, Client(path), info)
