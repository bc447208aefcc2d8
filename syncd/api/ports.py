"""What the API asks of the daemon behind it."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from syncd.api import v1
from syncd.api.operation import Desk
from syncd.jobs.board import Board, Job
from syncd.jobs.remove import Removal
from syncd.jobs.verify import Verification, VerifyProgress
from syncd.oci.name import ModelName, Reference
from syncd.store.root import Store


class Service(Protocol):
    """The daemon. Everything here raises ``SyncdError`` for what can fail.

    ``by``: who asks, in words for logs and status.
    """

    @property
    def store(self) -> Store:
        """The store that it owns: read from, never written to, by the API itself."""

    @property
    def board(self) -> Board:
        """Its jobs."""

    def info(self) -> v1.DaemonInfo:
        """Who it is."""

    def status(self) -> v1.Status:
        """Everything at a glance; cheap, from what is known already."""

    def pull(self, reference: Reference, *, by: str, insecure: bool = False) -> tuple[Job, bool]:
        """The job that pulls ``reference``, and whether this call started it.

        ``insecure``: the caller allows plain http (Ollama's field); what the settings forbid stays forbidden.
        """

    async def remove(self, name: ModelName, *, by: str, dry_run: bool) -> Removal:
        """Remove a model, its pull cancelled first. A model that the settings want is refused: ``file:line``."""

    async def verify(
        self, names: tuple[ModelName, ...] | None, *, by: str, on_progress: Callable[[VerifyProgress], None]
    ) -> Verification:
        """Hash the blobs of these models, or of all. A cancelled call ends within a second."""

    async def reload(self, asked: v1.ReloadRequest, *, by: str) -> AsyncIterator[v1.ReloadTried | v1.ReloadEnded]:
        """Have servers load models anew, or prove them; how each stands there, as it comes, and the end of it.

        It goes on when nobody reads that any more.
        """

    def desk(self, by: str) -> Desk:
        """What operations work with that ``by`` asks for."""

    def events(self) -> AsyncIterator[v1.Event]:
        """What happens from now on. A reader who is too slow loses the oldest; a heartbeat comes every 15 s."""
