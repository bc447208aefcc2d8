"""The bar that everything shows which goes through bytes: a verb, how much of it is done, and the time left."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def byte_bar(console: Console, verb: str) -> Progress:
    """A bar that is gone when it ends. Its one task says with ``amount`` what is done, in words."""
    return Progress(
        TextColumn(verb, markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
    )
