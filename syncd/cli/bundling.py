"""``syncd export`` and ``syncd import``: models as files, for hosts that reach no registry."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from syncd.aio import in_thread, in_thread_stoppable
from syncd.api import bundles, events
from syncd.cli import bundle_file, bundling_page, logs, place, running
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.render import PullView
from syncd.cli.session import Session
from syncd.daemon.renewals import noting
from syncd.daemon.rules import policy_of
from syncd.errors import BusyError, ExitCode, InvalidManifestError, SyncdError, UsageError
from syncd.jobs import bundle
from syncd.jobs.blobs import Supply
from syncd.jobs.bundle import STDIN, Stream
from syncd.jobs.export import ExportProgress, export
from syncd.jobs.importing import LocatedSupply, ReceivedSupply, take_in
from syncd.jobs.received import Received
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, Reference
from syncd.store.archive import ArchiveError
from syncd.store.root import Store

_STANDARD = "-"
_PATH = click.Path(allow_dash=True)
_HINT = "run the same command again: what is in the store stays"


@click.command(
    "export",
    epilog=examples(
        "syncd export mistral:7b llama3.2:1b -o models.tar",
        "syncd export mistral:7b -o - | ssh gpu-2 syncd import -",
    ),
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=stored_names)
@click.option(
    "-o", "--output", metavar="FILE", type=_PATH, required=True, help="The archive to write; - is standard output."
)
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@as_json
@shared
@click.pass_context
def export_models(context: click.Context, names: tuple[str, ...], output: str, *, quiet: bool, as_json: bool) -> None:
    """Write models into one file, for a host that reaches no registry.

    It is a tar of an OCI image layout, which 'syncd import' takes in and skopeo reads, too. The same models give the
    same bytes. Every blob is hashed while it is written: a damaged one ends it with exit code 6, and FILE is then what
    it was before. It works beside a daemon.
    """
    wanted = [ModelName.parse(name) for name in names]
    session = Session.begin(context, quiet=quiet)
    logs.configure(session.verbosity)
    if output == _STANDARD and as_json:
        raise UsageError("--json and -o - would both write to standard output", hint="'-o FILE' leaves it to --json")
    started = time.monotonic()
    with ExitStack() as stack:
        path = session.choice.path
        out = stack.enter_context(
            bundle_file.to_stdout() if output == _STANDARD else bundle_file.to_file(Path(output), path)
        )
        store = stack.enter_context(session.open_store(writes=False))
        with bundling_page.watch("exporting", _exporting, quiet=quiet, as_json=as_json) as watch:

            def show(progress: ExportProgress) -> None:
                watch.show(progress.done, progress.size)

            ended = running.run(export(store, wanted, out.write, show))
        out.finish()
    told = bundles.written(ended, Path(output), time.monotonic() - started)
    if as_json:
        sys.stdout.write(events.line(told))
    elif output == _STANDARD:
        session.notice(bundling_page.exported_line(told).rstrip("\n"))
    elif not quiet:
        sys.stdout.write(bundling_page.exported_line(told))


@click.command(
    "import",
    epilog=examples(
        "syncd import models.tar", "syncd import --name mistral:7b image.tar", "syncd import - < models.tar"
    ),
)
@click.argument("file", metavar="FILE", type=_PATH)
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=stored_names,
    help="Take this model alone; the only one of a bundle gets this name.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@as_json
@shared
@click.pass_context
def import_models(context: click.Context, file: str, *, name: str | None, quiet: bool, as_json: bool) -> int:
    """Take in the models of a bundle: an OCI image layout, as 'syncd export' or skopeo write it.

    FILE is a tar of one, or a folder; - is standard input. Whatever comes is hashed, and a model is visible when it is
    whole. The name of a model is its annotation org.opencontainers.image.ref.name, if that is a name in full. What the
    store has in another version is replaced, unless it is pinned. It works beside a daemon.

    The exit code is that of the first model that is not in the store at the end.
    """
    wanted = None if name is None else ModelName.parse(name)
    session = Session.begin(context, quiet=quiet)
    logs.configure(session.verbosity)
    origin = STDIN if file == _STANDARD else Path(file)
    if file == _STANDARD and os.isatty(0):
        raise UsageError("a bundle is nothing to type", hint="'syncd import FILE', or pipe it in")
    with ExitStack() as stack:
        with _about(origin):
            found = bundle.opened(None if file == _STANDARD else origin, stack)
            models = {} if isinstance(found, Stream) else bundle.chosen(bundle.offered(found), wanted)
        store = stack.enter_context(session.open_store(create=True, writes=True))
        store.blobs.renewing = noting(store)  # servers may have a damaged file loaded whose place another one takes
        supply: Supply
        if isinstance(found, Stream):
            received = Received(store, wanted, policy_of(session.loaded), session.loaded.settings.min_free)
            stack.callback(received.close)
            with _about(origin), bundling_page.watch("reading", _reading, quiet=quiet, as_json=as_json) as watch:
                running.run(_receive(received, found, origin, watch), hint=_HINT)
                models = received.chosen()
            supply = ReceivedSupply(received, store, origin)
        else:
            supply = LocatedSupply(found, origin)
        replaced: list[ModelName] = []
        with bundling_page.pulls(quiet=quiet, as_json=as_json) as view:
            code = running.run(_take_all(models, supply, store, session, origin, view, replaced), hint=_HINT)
        if replaced and _has_daemon(session):
            names = " ".join(map(str, replaced))
            session.notice(
                "servers that have an older version loaded keep it until they unload it:"
                f" 'syncd reload {names}' has them load this one"
            )
        return code


def _has_daemon(session: Session) -> bool:
    try:
        place.refuse_beside_a_daemon(session)
    except BusyError:
        return True
    except SyncdError:
        pass  # one that does not answer is told of by 'syncd status': the import itself is done
    return False


async def _receive(received: Received, stream: Stream, origin: Path, watch: bundling_page.Watch) -> None:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        watch.show(done, None)

    await in_thread_stoppable(lambda cancelled: received.take(stream, origin, on_bytes=advance, cancelled=cancelled))


async def _take_all(
    models: Mapping[ModelName, Manifest],
    supply: Supply,
    store: Store,
    session: Session,
    origin: Path,
    view: PullView,
    replaced: list[ModelName],
) -> int:
    """One model after another; the exit code of the first that failed, else 0.

    ``replaced`` gets those that took another version's place.
    """
    code = ExitCode.DONE
    for name in sorted(models):
        try:
            before = await in_thread(store.models.tag_digest, name)
            outcome = await take_in(
                name,
                models[name],
                supply,
                store,
                view.show,
                origin=f"bundle {origin}",
                floor=session.loaded.settings.min_free,
                policy=policy_of(session.loaded),
            )
        except SyncdError as error:
            view.failed(Reference(name), error)
            code = code or error.exit_code
            running.heed_cancellation()
        else:
            view.done(outcome)
            if before not in {None, outcome.digest}:
                replaced.append(name)
    return code


@contextmanager
def _about(origin: Path) -> Iterator[None]:
    """Have what is wrong with "it" name the bundle."""
    try:
        yield
    except (ArchiveError, InvalidManifestError) as error:
        raise ArchiveError(f"{origin} cannot be imported: {error.message}", hint=error.hint) from error


def _exporting(done: int, whole: int | None) -> bundles.Exporting:
    return bundles.Exporting("exporting", done, whole or 0)


def _reading(done: int, _whole: int | None) -> bundles.BundleReading:
    return bundles.BundleReading("reading", done)
