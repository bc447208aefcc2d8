"""What has to be watched so that no way of replacing a file goes unnoticed: a rename, a link turned elsewhere."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_MAX_LINKS = 40  # as Linux has it for one look-up (path_resolution(7))


@dataclass(frozen=True, slots=True)
class Watched:
    """``folders``: to be watched, each by itself. ``paths``: whose coming, going and changing matters there.

    ``listings``: folders in which every file matters that ends on ``.toml``.
    """

    folders: frozenset[Path]
    paths: frozenset[Path]
    listings: frozenset[Path]

    def concerns(self, path: str) -> bool:
        """Whether what happened to ``path`` may change what is read."""
        changed = Path(path)
        return (
            changed in self.paths
            or changed in self.folders
            or (changed.suffix == ".toml" and changed.parent in self.listings)
        )


def watched(files: Iterable[Path], listings: Iterable[Path]) -> Watched:
    """What to watch for the sake of ``files`` and of what ``listings`` hold, as links and folders are right now.

    Where something is missing, it is the nearest folder above that is there.
    """
    listed = [folder.absolute() for folder in listings]
    entries = [entry for folder in listed for entry in _toml_files(folder)]
    paths: set[Path] = set()
    for file in (*files, *listed, *entries):
        paths.update(_steps(file.absolute()))
    # A folder that is listed matters by itself, too: by the name that leads to it, and as what it really is.
    real = {Path(os.path.realpath(folder)) for folder in listed}
    parents = {path.parent for path in paths} | {*listed, *real}
    return Watched(
        folders=frozenset(folder for folder in parents if folder.is_dir() and os.access(folder, os.R_OK)),
        paths=frozenset(paths),
        listings=frozenset({*listed, *real}),
    )


def _toml_files(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.suffix == ".toml"]
    except OSError:
        return []  # missing or closed: it is watched for being made or opened


def _steps(path: Path) -> Iterator[Path]:
    """``path`` and every link on the way to what it leads to; where something is missing, the first that is."""
    pending, links = path, 0
    while True:
        yield pending
        link = next((step for step in _downwards(pending) if step.is_symlink() or not os.path.lexists(step)), None)
        if link is None:
            return
        yield link
        links += 1
        if links > _MAX_LINKS or not link.is_symlink():
            return
        rest = pending.relative_to(link)
        pending = Path(os.path.normpath(link.parent / link.readlink() / rest))


def _downwards(path: Path) -> Iterator[Path]:
    yield from reversed(path.parents)
    yield path
