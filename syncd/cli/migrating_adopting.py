"""What a migration shows of its adoptions."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from syncd.cli.adopting_page import View
from syncd.errors import SyncdError
from syncd.jobs import adoption
from syncd.jobs.adopt import Adopted
from syncd.jobs.progress import PullProgress
from syncd.oci.name import Reference
from syncd.store.source import Forgotten


class Adopting:
    """A view of an adoption that counts what the sources lost, and keeps what failed: that may be pulled yet."""

    def __init__(self, shown: View, notice: Callable[[str], None]) -> None:
        self._shown = shown
        self._notice = notice
        self.freed = 0
        self.failures: dict[str, SyncdError] = {}

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shown.__exit__(kind, error, traceback)

    def plan(self, plan: adoption.Plan, *, dry_run: bool, delete: bool) -> None:
        """As it is."""
        self._shown.plan(plan, dry_run=dry_run, delete=delete)

    def show(self, progress: PullProgress) -> None:
        """One moment."""
        self._shown.show(progress)

    def adopted(self, ended: Adopted) -> None:
        """A model is in."""
        self.freed += ended.freed
        self._shown.adopted(ended)

    def failed(self, reference: Reference, error: SyncdError) -> None:
        """A model is not: said, and kept for the end."""
        self.failures[reference.name.folded] = error
        self._notice(error.message)

    def swept(self, taken: Sequence[Forgotten]) -> None:
        """What earlier runs had left in the sources is gone."""
        self.freed += sum(one.size for one in taken)
        self._shown.swept(taken)
