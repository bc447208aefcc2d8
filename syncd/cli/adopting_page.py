"""How ``syncd adopt`` looks: the plan as a table, then a pull's bars, lines or events, and what came of each model."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console

from syncd.api import adoptions
from syncd.cli import words
from syncd.cli.render import Lines, Ndjson, PullView, Quiet
from syncd.cli.terminal import Terminal
from syncd.errors import SyncdError
from syncd.jobs.adopt import Adopted
from syncd.jobs.adoption import Decision, Find, ModelPlan, Plan
from syncd.jobs.progress import Phase, PullProgress
from syncd.oci.name import Reference
from syncd.store.intake import Way
from syncd.store.source import Forgotten
from syncd.text import printable, size

_STEPS = {Phase.WAITING: "another process pulls it; waiting", Phase.FETCHING: "taking"}
_HOW = {Way.LINK: "moved", Way.REFLINK: "by reflink", Way.COPY: "copied"}
_STRAYS = 10  # that people are shown, of each source


class View(Protocol):
    """Shows an adoption; entered while models are taken."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def plan(self, plan: Plan, *, dry_run: bool, delete: bool) -> None:
        """What is going to be done, or with ``dry_run`` would be."""

    def show(self, progress: PullProgress) -> None:
        """One moment."""

    def adopted(self, ended: Adopted) -> None:
        """A model is in."""

    def failed(self, reference: Reference, error: SyncdError) -> None:
        """A model is not."""

    def swept(self, taken: Sequence[Forgotten]) -> None:
        """What earlier runs had left in the sources is gone."""


def view(*, quiet: bool, as_json: bool) -> View:
    """What fits where the output goes."""
    if as_json:
        return _Programs()
    if quiet:
        return _People(Quiet(sys.stderr), quiet=True)
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return _People(Terminal(console, sys.stdout, clock=time.monotonic), quiet=False)
    return _People(Lines(sys.stdout, sys.stderr, clock=time.monotonic, steps=_STEPS), quiet=False)


class _People:
    def __init__(self, pulls: PullView, *, quiet: bool) -> None:
        self._pulls = pulls
        self._quiet = quiet

    def __enter__(self) -> Self:
        self._pulls.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pulls.__exit__(kind, error, traceback)

    def plan(self, plan: Plan, *, dry_run: bool, delete: bool) -> None:
        """On stdout where it is the result, else on stderr."""
        if dry_run or not self._quiet:
            stream = sys.stdout if dry_run else sys.stderr
            stream.write(plan_text(plan, dry_run=dry_run, delete=delete))
            stream.flush()

    def show(self, progress: PullProgress) -> None:
        self._pulls.show(progress)

    def adopted(self, ended: Adopted) -> None:
        self._pulls.result(adopted_line(ended))

    def failed(self, reference: Reference, error: SyncdError) -> None:
        self._pulls.failed(reference, error)

    def swept(self, taken: Sequence[Forgotten]) -> None:
        if freed := sum(one.size for one in taken):
            self._pulls.result(f"{size(freed)} more are gone from the sources, which named them no longer")


class _Programs(Ndjson):
    def __init__(self) -> None:
        super().__init__(sys.stdout, sys.stderr, clock=time.monotonic)

    def plan(self, plan: Plan, *, dry_run: bool, delete: bool) -> None:
        self._write(adoptions.planned(plan, dry_run=dry_run, delete=delete))

    def adopted(self, ended: Adopted) -> None:
        self._write(adoptions.adopted(ended))

    def swept(self, taken: Sequence[Forgotten]) -> None:
        self._write(adoptions.swept(taken))


def plan_text(plan: Plan, *, dry_run: bool, delete: bool) -> str:
    """A line for each model, one for each file that is none, and the sums.

    A real run tells of what it does not take as errors.
    """
    rows = [_row(model, plan) for model in plan.models if dry_run or model.wanted]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines = [f"{name.ljust(widths[0])}  {amount.rjust(widths[1])}  {what}".rstrip() for name, amount, what in rows]
    for scan in plan.scans:
        lines += [
            f"{printable(str(scan.path / 'blobs' / stray.file), limit=400)}: {stray.what}, {size(stray.size)}: stays"
            for stray in scan.strays[:_STRAYS]
        ]
        if len(scan.strays) > _STRAYS:
            lines.append(f"{printable(str(scan.path), limit=400)}: {len(scan.strays) - _STRAYS} such files more")
    verb = "would be" if dry_run else "to be"
    ways = [f"{size(plan.bytes_by(way))} {verb} {_HOW[way]}" for way in Way if plan.bytes_by(way)]
    counts = Counter(model.decision for model in plan.models)
    lines.append(", ".join([f"{words.count(counts[Decision.ADOPT], 'model')} {verb} adopted", *ways]))
    if plan.shared_bytes:
        lines.append(f"{size(plan.shared_bytes)} are there already, or several times: taken once")
    if delete:
        lines.append(f"what the store has then {'would be' if dry_run else 'is'} deleted from its source")
    return "".join(f"{line}\n" for line in lines)


def _row(model: ModelPlan, plan: Plan) -> tuple[str, str, str]:
    name = printable(str(model.name) if model.name else f"manifests/{model.path}")
    amount = size(model.manifest.size) if model.manifest else ""
    match model.decision:
        case Decision.ADOPT:
            ways = [f"{size(count)} {_HOW[way]}" for way in Way if (count := _bytes_by(model, way))]
            what = ", ".join(ways) or "its blobs are in the store"
        case Decision.CURRENT:
            what = "is in the store"
        case _:
            what = f"{model.decision.value}: {printable(model.why or '')}"
    if model.hosted:
        what += ", a stub for a hosted model"
    several = f", in {len(model.sources)} sources" if len(model.sources) > 1 else ""
    where = "" if len(plan.scans) == 1 else f", from {printable(str(plan.scans[model.sources[0]].path), limit=400)}"
    return name, amount, what + several + where


def _bytes_by(model: ModelPlan, way: Way) -> int:
    return sum(
        blob.blob.size
        for blob in model.blobs
        if blob.find is Find.NEW and blob.candidates and blob.candidates[0].way is way
    )


def adopted_line(ended: Adopted) -> str:
    """What came of a model, how, and what became of its source."""
    name = printable(str(ended.outcome.reference.name))
    if ended.outcome.current:
        parts = [f"{name} is in the store ({ended.outcome.digest})"]
    else:
        ways = [f"{size(count)} {_HOW[way]}" for way, count in ended.ways.items() if count]
        if here := ended.outcome.found_bytes:
            ways.append(f"{size(here)} were already here")
        parts = [f"{name}: {', '.join(ways)}, {words.took(ended.outcome.seconds)}, published {ended.outcome.digest}"]
    if ended.freed:
        parts.append(f"{size(ended.freed)} gone from the source")
    parts += [f"not all of it is gone from the source: {printable(one)}" for one in ended.left]
    return ", ".join(parts)
