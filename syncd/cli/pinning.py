"""``syncd rollback``, ``syncd pin`` and ``syncd unpin``."""

import os
import sys
from pathlib import Path
from typing import Literal

import click
import msgspec

from syncd.api import events, pulls
from syncd.api.pins import PIN, UNPIN, PinLine, PinRequest, UnpinLine, UnpinRequest
from syncd.api.rollback import ROLLBACK, RollbackRequest, RolledBack
from syncd.cli import logs, pins_file, place, words
from syncd.cli.options import as_json, dry_run, examples, shared, stored_names
from syncd.cli.pulling import view_for
from syncd.cli.session import Session
from syncd.errors import NotAuthorisedError, NotFoundError
from syncd.jobs.pins import Pin, Pins, encoded, pins_of
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName
from syncd.text import printable, size

_STDOUT = Path("-")


class PinsWritten(msgspec.Struct, frozen=True):
    """``pin``: the file, how many models it has now, and those of them that were written anew, with their digests."""

    event: Literal["pinned"]
    file: str
    models: int
    pinned: dict[str, str]


class Unpinned(msgspec.Struct, frozen=True):
    """``unpin``: what was (or, after ``dry_run``, would be) taken out of the pins file, and released from rollbacks."""

    event: Literal["unpinned"]
    file: str | None
    from_file: tuple[str, ...]
    released: tuple[UnpinLine, ...]
    dry_run: bool


@click.command(epilog=examples("syncd rollback mistral:7b", "syncd rollback mistral:7b 61e88e --dry-run"))
@click.argument("name", metavar="NAME", shell_complete=stored_names)
@click.argument("digest", metavar="[DIGEST]", required=False)
@dry_run
@as_json
@shared
@click.pass_context
def rollback(context: click.Context, name: str, digest: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Publish an earlier version of NAME again, and keep the tag there.

    DIGEST is that of a version which 'syncd history NAME' shows, or the first digits of it, six at least. Without it:
    the version that was published before the one that is now. Only bytes that are gone are fetched, by their digests;
    servers get the version as they get an update. The tag then stays until 'syncd unpin NAME'.
    """
    asked = RollbackRequest(str(ModelName.parse(name)), digest, dry_run)
    session = Session.begin(context)
    logs.configure(session.verbosity)
    with view_for(quiet=False, as_json=as_json) as view:

        def tell(line: msgspec.Struct) -> None:
            if isinstance(line, pulls.PullUpdate):
                view.show(pulls.progress(line))

        told = place.of(session).operate(ROLLBACK, asked, tell, hint="run the same command to go on where it stopped")
    sys.stdout.write(events.line(told) if as_json else _rolled_back(told))


def _rolled_back(told: RolledBack) -> str:
    name, digest = printable(told.name), printable(told.digest)
    if told.dry_run:
        fetch = f"{size(told.fetch_bytes)} to fetch" if told.fetch_bytes else "all of it is on the disk"
        return f"{name} would be {digest} again, published {printable(told.published)}: {fetch}\n"
    fetched = f", fetched {size(told.fetched_bytes)}" if told.fetched_bytes else ""
    verb = "is" if told.current else "is again"
    return f"{name} {verb} {digest}{fetched}, and stays so until 'syncd unpin {name}'\n"


@click.command(epilog=examples("syncd pin -o /etc/syncd/pins.json", "syncd pin mistral:7b -o pins.json", "syncd pin"))
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=stored_names)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file; - is stdout. [default: the settings' pins, or stdout]",
)
@as_json
@shared
@click.pass_context
def pin(context: click.Context, names: tuple[str, ...], output: Path | None, *, as_json: bool) -> None:
    """Write a pins file: the very manifests of the models that the settings want, as they are published here now.

    Without models in the settings: of all that are published. With a NAME: of these alone; what else a file has stays.
    A host whose settings say pins = "FILE" holds exactly these versions, though no registry serves manifests by digest;
    the blobs come from the registries.
    """
    asked = PinRequest(tuple(str(ModelName.parse(name)) for name in dict.fromkeys(names)) or None)
    session = Session.begin(context).of_its_store()  # the settings' pins file is about their store alone
    logs.configure(session.verbosity)
    path = output or session.loaded.settings.pins or _STDOUT
    with pins_file.writing(path, session.choice.path) as write:
        before = pins_file.now(path) if asked.names is not None and path != _STDOUT else Pins()
        found = _published(session, asked)
        after = pins_of([*before.models.values(), *found])  # a name that is there twice is what was found last
        if path == _STDOUT:
            sys.stdout.write(encoded(after).decode("utf-8"))
            return
        write(encoded(after))
    if as_json:
        pinned = {one.name.qualified: str(one.manifest.digest) for one in found}
        sys.stdout.write(events.line(PinsWritten("pinned", printable(str(path)), len(after.models), pinned)))
    else:
        rest = len(after.models) - len(found)
        others = f", beside {words.count(rest, 'other')}" if rest else ""
        sys.stdout.write(f"{printable(str(path))}: {words.count(len(found), 'model')} pinned{others}\n")


def _published(session: Session, asked: PinRequest) -> list[Pin]:
    found: list[Pin] = []

    def tell(line: msgspec.Struct) -> None:
        if isinstance(line, PinLine):
            found.append(Pin(ModelName.parse(line.name), Manifest.parse(line.manifest.encode("utf-8"))))

    place.of(session).operate(PIN, asked, tell)
    return found


@click.command(epilog=examples("syncd unpin mistral:7b", "syncd unpin --dry-run"))
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=stored_names)
@dry_run
@as_json
@shared
@click.pass_context
def unpin(context: click.Context, names: tuple[str, ...], *, dry_run: bool, as_json: bool) -> None:
    """Release NAMEs (all, if none is named): from what a rollback pinned them to, and from the settings' pins file.

    Their tags are followed again from then on, if the settings want them.
    """
    wanted = [ModelName.parse(name) for name in dict.fromkeys(names)]
    session = Session.begin(context).of_its_store()
    logs.configure(session.verbosity)
    where_it_is_done = place.of(session)  # refuses a daemon of another store, before the file is changed
    from_file = _taken_out(session, wanted, dry_run=dry_run)
    released: list[UnpinLine] = []

    def tell(line: msgspec.Struct) -> None:
        if isinstance(line, UnpinLine):
            released.append(line)

    asked = UnpinRequest(tuple(str(name) for name in wanted) or None, dry_run)
    where_it_is_done.operate(UNPIN, asked, tell)
    known = {name.folded for name in from_file} | {ModelName.parse(line.name).folded for line in released}
    strange = [name for name in wanted if name.folded not in known]
    if strange:
        where = session.loaded.where(strange[0])
        raise NotFoundError(
            f"{', '.join(map(str, strange))}: neither pinned by a rollback nor by a pins file",
            hint=f"the settings want it at {where}: a pin there is released there" if where else None,
        )
    file = session.loaded.pins.path
    told = Unpinned(
        "unpinned",
        None if file is None else printable(str(file)),
        tuple(map(str, from_file)),
        tuple(released),
        dry_run,
    )
    sys.stdout.write(events.line(told) if as_json else _unpinned(told))


def _taken_out(session: Session, wanted: list[ModelName], *, dry_run: bool) -> list[ModelName]:
    """The models that the settings' pins file has no more. Raise ``NotAuthorisedError`` where it may not be written."""
    pins = session.loaded.pins
    if pins.path is None:
        return []
    folded = {name.folded for name in wanted}
    gone = [one.name for key, one in pins.models.items() if not wanted or key in folded]
    if gone and not dry_run:
        if not os.access(Path(os.path.realpath(pins.path)).parent, os.W_OK):
            raise NotAuthorisedError(
                f"{gone[0]} is pinned by {pins.path}, which this user may not change", hint="run it with sudo"
            )
        rest = [one for one in pins.models.values() if one.name not in gone]
        pins_file.replace(pins.path, encoded(pins_of(rest)))
    return gone


def _unpinned(told: Unpinned) -> str:
    would = "would be " if told.dry_run else ""
    lines = [f"{printable(name)}: {would}taken out of {told.file}\n" for name in told.from_file]
    lines += [f"{printable(line.name)}: {would}released from {printable(line.by)}\n" for line in told.released]
    return "".join(lines) or "nothing is pinned\n"
