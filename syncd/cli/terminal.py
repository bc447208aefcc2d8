"""A pull on a terminal: a bar for each blob, a total with rate and time left, as wide as the terminal allows."""

from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncd.cli import words
from syncd.cli.render import Clock, failure_lines, trouble
from syncd.errors import SyncdError
from syncd.jobs.progress import BlobProgress, BlobState, Phase, PullOutcome, PullProgress, Totals
from syncd.oci.media import kind
from syncd.oci.name import Reference
from syncd.text import printable, size

_NARROW = 72  # columns; below, the kind of a blob is left out
_TINY = 46  # below, its bar as well
_PHASES = {
    Phase.WAITING: "another process pulls it",
    Phase.RESOLVING: "asking for the manifest",
    Phase.FETCHING: "",
    Phase.PUBLISHING: "publishing",
    Phase.DONE: "",
}
_ORDER = {state: place for place, state in enumerate((BlobState.FETCHING, BlobState.VERIFYING, BlobState.WAITING))}


class Terminal:
    """Bars on ``console`` (which writes to stderr); what each pull did goes to ``results``."""

    def __init__(self, console: Console, results: TextIO, *, clock: Clock) -> None:
        self._console = console
        self._results = results
        self._clock = clock
        self._progress: PullProgress | None = None
        self._meter = words.Meter()
        self._live = Live(console=console, transient=True, refresh_per_second=8, get_renderable=self._picture)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress = None
        self._live.stop()

    def show(self, progress: PullProgress) -> None:
        """The next picture shows this moment."""
        self._meter.see(self._clock(), Totals.of(progress))
        self._progress = progress

    def done(self, outcome: PullOutcome) -> None:
        """What the pull did."""
        self.result(words.outcome(outcome))

    def result(self, text: str) -> None:
        """The line."""
        self._forget()
        # Where both are one terminal, only the console knows how to write above the bars.
        if self._results.isatty():
            self._console.print(Text(text), soft_wrap=True)
        else:
            self._results.write(text + "\n")
            self._results.flush()

    def failed(self, reference: Reference, error: SyncdError) -> None:
        """The error, above the bars."""
        self._forget()
        self._console.print(Text(failure_lines(reference, error)), soft_wrap=True, end="")

    def _forget(self) -> None:
        self._progress, self._meter = None, words.Meter()
        self._live.refresh()

    def _picture(self) -> RenderableType:
        progress = self._progress
        if progress is None:
            return Text("")
        width, height = self._console.size
        now = self._clock()
        return picture(
            progress,
            width=width,
            rows=max(1, height - 4),
            rate=self._meter.rate(now),
            seconds_left=self._meter.seconds_left(now),
        )


def picture(
    progress: PullProgress, *, width: int, rows: int, rate: float, seconds_left: float | None
) -> RenderableType:
    """One moment of a pull: a title, at most ``rows`` blobs, a total. ``width``: columns; ``rate``: bytes a second."""
    phase = _PHASES[progress.phase]
    title = Text(printable(str(progress.reference)), style="bold", overflow="ellipsis", no_wrap=True)
    if phase:
        title.append(f"  {phase}", style="dim")
    if not progress.blobs:
        return title
    shown = _most_telling(progress.blobs, rows)
    parts: list[RenderableType] = [title, _bars(shown, width)]
    if hidden := len(progress.blobs) - len(shown):
        parts.append(Text(f"  and {hidden} more", style="dim"))
    parts.append(_total(progress, rate, seconds_left))
    return Group(*parts)


def _most_telling(blobs: tuple[BlobProgress, ...], rows: int) -> list[BlobProgress]:
    """Those that move, then the largest; in the manifest's order."""
    if len(blobs) <= rows:
        return list(blobs)
    ranked = sorted(range(len(blobs)), key=lambda at: (_ORDER.get(blobs[at].state, len(_ORDER)), -blobs[at].blob.size))
    return [blobs[at] for at in sorted(ranked[:rows])]


def _bars(blobs: list[BlobProgress], width: int) -> Table:
    table = Table.grid(padding=(0, 1), expand=width > _TINY)
    table.add_column(no_wrap=True)
    if width >= _NARROW:
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=14)
    if width >= _TINY:
        table.add_column(ratio=1)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    for one in blobs:
        table.add_row(*_row(one, width))
    return table


def _row(one: BlobProgress, width: int) -> list[RenderableType]:
    done, whole = min(one.done, one.blob.size), one.blob.size
    row: list[RenderableType] = [Text(one.blob.digest.short, style="cyan")]
    if width >= _NARROW:
        row.append(Text(kind(one.blob.media_type)))
    if width >= _TINY:
        row.append(ProgressBar(total=max(1, whole), completed=done if whole else 1, width=None))
    sizes = size(whole) if one.state is BlobState.STORED else f"{size(done)} / {size(whole)}"
    return [*row, Text(sizes), Text(one.state.value, style="green" if one.state is BlobState.STORED else "")]


def _total(progress: PullProgress, rate: float, seconds_left: float | None) -> Text:
    totals = Totals.of(progress)
    text = Text(f"{totals.percent}% of {size(totals.size)}", overflow="ellipsis", no_wrap=True)
    if progress.phase in {Phase.FETCHING, Phase.WAITING}:
        text.append(f"  {size(rate)}/s")
        if seconds_left is not None:
            text.append(f"  {words.left(seconds_left)} left")
    if progress.retries:
        text.append(f"  {trouble(progress)}", style="yellow")
    return text
