"""``syncd migrate``."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from syncd.cli import adopting, logs, migrating_page, place
from syncd.cli.credentials import access_for
from syncd.cli.migrating_run import Migration
from syncd.cli.options import as_json, dry_run, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.cli.there import There
from syncd.daemon.places import StoreChoice
from syncd.errors import ExitCode
from syncd.jobs.adopt import chosen
from syncd.oci.name import Reference


@click.command(
    epilog=examples(
        "sudo syncd migrate --dry-run ollama-1 ollama-2", "sudo syncd migrate ollama-1 ollama-2", "syncd migrate"
    )
)
@click.argument("sources", metavar="[SOURCE...]", nargs=-1)
@click.option(
    "--model",
    "models",
    metavar="NAME",
    multiple=True,
    shell_complete=stored_names,
    help="Wanted instead of the settings' models; repeatable.",
)
@click.option("--delete-source", is_flag=True, help="Take each model out of its source once the store has it.")
@click.option(
    "--volumes",
    type=click.Path(path_type=Path),
    default=adopting.VOLUMES,
    show_default=True,
    help="Where Docker keeps its volumes.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show errors and the table at the end only.")
@dry_run
@as_json
@shared
@click.pass_context
def migrate(
    context: click.Context,
    sources: tuple[str, ...],
    models: tuple[str, ...],
    volumes: Path,
    *,
    delete_source: bool,
    quiet: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Bring servers that each pulled by themselves to one store, without stopping all of them at once.

    Each SOURCE is another Ollama store: a folder, or a Docker volume by its name. What lies in the shared folder is
    hashed; partial and corrupt files go to the quarantine in its .syncd, where nothing is ever deleted. Models of the
    sources are adopted, what is still missing of the models that the settings (or --model) want is pulled, all is
    verified. Then, through the daemon, servers load what changed anew and prove every model, one server after another.
    Without a daemon, servers are not touched. Interrupted anywhere, the same command goes on where it was.

    The exit code is 6 if corrupt or incomplete models could not be replaced, 9 if a server failed.
    """
    started = time.monotonic()
    session = Session.begin(context, quiet=quiet)
    logs.configure(session.verbosity)
    asked = [Reference.parse(name) for name in dict.fromkeys(models)]
    where = place.of(replace(session, quiet=True))
    there = where if isinstance(where, There) else None
    if there is not None:
        session = replace(session, choice=StoreChoice(Path(there.info.store), "the daemon's"))
    with ExitStack() as stack:
        opened = adopting.opened(stack, sources, volumes, session)
        scans = tuple(source.scan() for source in opened)
        if delete_source:
            for source in opened:
                source.refuse_unless_writable()
        wanted = asked or _wanted(session, there)
        access = None if there or dry_run else access_for(session, wanted)
        desk = stack.enter_context(adopting.desk_for(session, opened))
        store = adopting.store_for(stack, session, dry_run=dry_run)
        if store is not None:
            for source in opened:
                source.refuse_if_same(store.blobs_stat())
        migration = Migration(
            session=session,
            view=migrating_page.view(quiet=quiet, as_json=as_json),
            there=there,
            access=access,
            scans=scans,
            wanted=wanted,
            desk=desk,
            delete=delete_source,
            as_json=as_json,
            quiet=quiet,
        )
        shared_folder = migration.look(store, record=not dry_run)
        way = chosen(store, desk, scans, delete=delete_source)
        plan = migration.plan(shared_folder, way, dry_run=dry_run)
        if store is not None:
            adopting.warn_of_a_full_disk(plan.adoption, store, session)
        if dry_run or store is None:
            return ExitCode.DONE
        return migration.run(plan, shared_folder, store, started)


def _wanted(session: Session, there: There | None) -> list[Reference]:
    """The models of the settings: of those that are in force, where a daemon runs."""
    if there is not None:
        return [Reference.parse(one.name) for one in there.status().models]
    return [one.name for one in session.of_its_store().loaded.settings.models]
