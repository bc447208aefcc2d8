"""``syncd adopt``."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from syncd.aio import in_thread
from syncd.cli import adopting_page, logs, running
from syncd.cli.adopting_page import View
from syncd.cli.failure import report
from syncd.cli.options import as_json, dry_run, examples, shared
from syncd.cli.session import Session
from syncd.daemon.rules import policy_of
from syncd.errors import ExitCode, IntegrityError, InvalidNameError, NotFoundError, SyncdError
from syncd.jobs import adoption
from syncd.jobs.adopt import AdoptMeans, KeptError, adopt, chosen, sweep
from syncd.jobs.adoption import Candidate, Decision, ModelPlan, Plan
from syncd.oci.name import Reference
from syncd.store.hands import SourceDesk, childs_hands
from syncd.store.intake import Way
from syncd.store.owner import decide, owner_of_store
from syncd.store.root import Store
from syncd.store.source import SourceStore
from syncd.text import size

VOLUMES = Path("/var/lib/docker/volumes")
_DATA = "_data"
THREADS = 24
_HINT = "run the same command to go on where it stopped"


@click.command("adopt", epilog=examples("sudo syncd adopt --dry-run ollama-1 ollama-2", "syncd adopt ~/.ollama/models"))
@click.argument("places", metavar="DIR|VOLUME...", nargs=-1, required=True)
@click.option("--delete-source", is_flag=True, help="Take each model out of its source once the store has it.")
@click.option(
    "--volumes",
    type=click.Path(path_type=Path),
    default=VOLUMES,
    show_default=True,
    help="Where Docker keeps its volumes.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@dry_run
@as_json
@shared
@click.pass_context
def adopt_models(
    context: click.Context,
    places: tuple[str, ...],
    volumes: Path,
    *,
    delete_source: bool,
    quiet: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Take the models of other Ollama stores: folders, or Docker volumes by their names.

    Each blob is hashed while it is taken; partial and corrupt files are reported and stay. A source is only read unless
    --delete-source is given: then files on the store's own mount are not copied but moved, and what the store has is
    gone from its source. Stop the servers of a source before that. A name that the store has in another version is
    kept as it is. What was interrupted goes on when the same command is run again. It works beside a daemon.

    The exit code is that of the first model that is not in the store at the end.
    """
    session = Session.begin(context, quiet=quiet)
    logs.configure(session.verbosity)
    view = adopting_page.view(quiet=quiet, as_json=as_json)
    with ExitStack() as stack:
        sources = opened(stack, places, volumes, session)
        scans = tuple(source.scan() for source in sources)
        if delete_source:
            for source in sources:
                source.refuse_unless_writable()
        desk = stack.enter_context(desk_for(session, sources))
        store = store_for(stack, session, dry_run=dry_run)
        if store is not None:
            for source in sources:
                source.refuse_if_same(store.blobs_stat())
        way = chosen(store, desk, scans, delete=delete_source)
        plan = adoption.plan(scans, adoption.look(store, scans) if store else adoption.NOTHING, way)
        view.plan(plan, dry_run=dry_run, delete=delete_source)
        if store is not None:
            warn_of_a_full_disk(plan, store, session)
        if dry_run or store is None:
            return _first_code(plan)
        code = _report_refused(plan, as_json=as_json)
        means = AdoptMeans(
            store=store,
            desk=desk,
            floor=session.loaded.settings.min_free,
            delete=delete_source,
            policy=policy_of(session.loaded),
        )
        with view:
            failed = running.run(adopt_all(plan, means, view), hint=_HINT, threads=THREADS)
        return code or failed


def opened(stack: ExitStack, places: Sequence[str], volumes: Path, session: Session) -> list[SourceStore]:
    """The sources, each once, by whatever names they were given."""
    sources: list[SourceStore] = []
    for place in dict.fromkeys(places):
        source = stack.enter_context(SourceStore.open(_located(place, volumes)))
        if any(source.is_same(other) for other in sources):
            session.notice(f"{place}: named twice, as {source.path}")
        else:
            sources.append(source)
    return sources


def _located(place: str, volumes: Path) -> Path:
    """The folder that ``place`` means: as ``docker run -v`` has it, a volume is a name without a slash."""
    path = Path(place)
    if "/" in place or place in {".", ".."} or path.is_dir():
        return path
    data = volumes / place / _DATA
    try:
        data.lstat()
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{place}: neither a folder here nor a Docker volume in {volumes}", hint="'docker volume ls' lists them"
        ) from error
    except OSError:
        return data  # opening it says what is wrong
    return data


@contextmanager
def desk_for(session: Session, sources: Sequence[SourceStore]) -> Iterator[SourceDesk]:
    """Whoever reaches into the sources: where this process will turn from root to another user, a child stays root."""
    path = session.choice.path
    if decide(owner_of_store(path), path=path, euid=os.geteuid()) is None:
        yield SourceDesk.own(sources)
        return
    with childs_hands(sources) as hands:
        yield SourceDesk(hands)


def store_for(stack: ExitStack, session: Session, *, dry_run: bool) -> Store | None:
    """The store, made if need be; None if there is none and none is to be made."""
    try:
        return stack.enter_context(session.open_store(create=not dry_run, writes=not dry_run))
    except NotFoundError:
        if dry_run:
            return None
        raise


async def adopt_all(plan: Plan, means: AdoptMeans, view: View) -> int:
    """One model after another; the exit code of the first that failed, else 0."""
    code = ExitCode.DONE
    spoilt: set[Candidate] = set()
    for model in plan.models:
        if model.name is None or not model.wanted:
            continue
        try:
            view.adopted(await adopt(model, plan, means, view.show, spoilt))
        except SyncdError as error:
            view.failed(Reference(model.name), error)
            code = code or error.exit_code
            running.heed_cancellation()
    if means.delete:
        view.swept(await in_thread(sweep, plan, means))
    return code


def warn_of_a_full_disk(plan: Plan, store: Store, session: Session) -> None:
    """Say early what the models at the end of the plan would fail of."""
    needed, free, floor = plan.bytes_by(Way.COPY), store.free_bytes(), session.loaded.settings.min_free
    if needed and needed + floor > free:
        session.notice(
            f"warning: {size(needed)} are to be copied, {size(free)} are free on {store.path},"
            f" of which {size(floor)} are to stay free"
        )


def _report_refused(plan: Plan, *, as_json: bool) -> int:
    """Say what is not taken, and why; the exit code of the first, else 0."""
    code = ExitCode.DONE
    for model in plan.models:
        error = refusal(model)
        if error is not None:
            report(error, as_json=as_json, name=str(model.name) if model.name else None)
            code = code or error.exit_code
    return code


def _first_code(plan: Plan) -> int:
    codes = (error.exit_code for model in plan.models if (error := refusal(model)))
    return next(codes, ExitCode.DONE)


def refusal(model: ModelPlan) -> SyncdError | None:
    """Why a model is not taken, as an error; None: it is taken, or there already."""
    name = str(model.name)
    match model.decision:
        case Decision.KEPT:
            hint = f"'syncd rm {name}' first, if this one is the one you want"
            return KeptError(f"{name} is not adopted: {model.why}", hint=hint)
        case Decision.CONFLICT:
            return InvalidNameError(f"{name} is not adopted: {model.why}")
        case Decision.INCOMPLETE:
            return IntegrityError(f"{name} is not adopted: {model.why}", hint=f"'syncd pull {name}' fetches it")
        case Decision.BROKEN:
            return IntegrityError(f"manifests/{model.path} is no manifest: {model.why}")
    return None
