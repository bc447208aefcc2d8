"""``syncd smoke``."""

import asyncio
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click

from syncd.aio import only_error
from syncd.cli import logs, running, smoke_page
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.cli.smoke_view import SmokeView, view
from syncd.daemon.server_settings import ServerUrl
from syncd.daemon.units import Seconds
from syncd.errors import ConfigurationError, ExitCode, NotFoundError, SyncdError, UsageError
from syncd.instances.connections import fresh_connections
from syncd.instances.model import Instance
from syncd.instances.ollama import OllamaServer
from syncd.jobs.smoke import Ask, Schedule, Smoke, Target, Way
from syncd.jobs.survey import Survey, look, survey
from syncd.oci.name import ModelName
from syncd.text import printable

_LOOKING = 10.0  # seconds at most for a listing or a description, which no weights are loaded for
_MIN_RATE, _MAX_RATE = 0.001, 10_000  # requests a second
_MAX_CONCURRENCY = 10_000
_OTHER_FILES = 100


class SmokeFailedError(SyncdError):
    """A request failed, or could not be sent."""

    exit_code = ExitCode.SERVER_FAILED


class _Duration(Seconds):
    least, most = 0.1, 31 * 86400.0


class _Timeout(Seconds):
    least, most = 0.01, 3600.0


def _span(kind: type[Seconds]) -> Callable[[click.Context, click.Parameter, str], Seconds]:
    def callback(_context: click.Context, _parameter: click.Parameter, value: str) -> Seconds:
        try:
            return kind.parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


def _number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):  # which no range keeps out
        raise click.BadParameter("nan is no rate")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """What a run is to be. ``timeout``: seconds that a request may take, the load of its model included."""

    schedule: Schedule
    concurrency: int
    timeout: float


@click.command(
    epilog=examples("syncd smoke", "syncd smoke --duration 10m --rps 20 --model mistral:7b --instance ollama-server-3")
)
@click.option(
    "--duration", metavar="TIME", default="30s", show_default=True, callback=_span(_Duration), help="How long."
)
@click.option(
    "--rps",
    metavar="RATE",
    type=click.FloatRange(_MIN_RATE, _MAX_RATE),
    callback=_number,
    default=5.0,
    show_default=True,
    help="Requests a second, over all servers and models.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, _MAX_CONCURRENCY),
    default=8,
    show_default=True,
    help="Requests under way at once on each server; one that has no turn for a second is not sent, and counted.",
)
@click.option(
    "--timeout",
    metavar="TIME",
    default="60s",
    show_default=True,
    callback=_span(_Timeout),
    help="A request that has no answer by then has failed.",
)
@click.option(
    "--model",
    "models",
    metavar="NAME",
    shell_complete=stored_names,
    multiple=True,
    help="Ask this model; may be repeated. [default: all that a server lists]",
)
@click.option(
    "--instance",
    "instances",
    metavar="NAME|URL",
    multiple=True,
    help="Ask this server; may be repeated. [default: those of the settings]",
)
@as_json
@shared
@click.pass_context
def smoke(
    context: click.Context,
    *,
    duration: Seconds,
    rps: float,
    concurrency: int,
    timeout: Seconds,
    models: tuple[str, ...],
    instances: tuple[str, ...],
    as_json: bool,
) -> int:
    """Ask every model on every server at a steady rate, and count what fails.

    The servers are asked directly, for one token or one embedding, and nothing is tried again. Models that make text
    are asked by chat and generate in turns, others by embed; stubs of hosted models are not asked. A slow server does
    not lower the rate. The exit code is 9 if anything failed or could not be sent. Servers load what they are asked
    for: they are busy meanwhile.
    """
    wanted = tuple({name.folded: name for name in map(ModelName.parse, models)}.values())
    session = Session.begin(context, lenient=True)
    logs.configure(session.verbosity)
    asked = _chosen(session, instances)
    _allow_sockets(concurrency * len(asked))
    load = _Load(schedule=Schedule(rps, duration), concurrency=concurrency, timeout=timeout)
    report = running.run(_smoke(asked, wanted, load, view(as_json=as_json), session.notice))
    if not report.is_good:
        raise SmokeFailedError(smoke_page.verdict(report))
    return ExitCode.DONE


def _chosen(session: Session, wanted: Sequence[str]) -> Sequence[Instance]:
    """The servers that are named, once each; all of the settings, if none is. URLs do without usable settings."""
    if session.fault is not None and not (wanted and all("://" in one for one in wanted)):
        raise session.fault
    known = {one.name: one.instance() for one in session.loaded.settings.instances}
    if not wanted and not known:
        raise ConfigurationError(
            "the settings name no servers", hint="name one: 'syncd smoke --instance http://127.0.0.1:11434'"
        )
    chosen = [known[one] if one in known else _by_url(one, known) for one in wanted or known]
    return tuple({one.url: one for one in chosen}.values())


def _by_url(text: str, known: Mapping[str, Instance]) -> Instance:
    """The server at a URL, by its name in the settings if it is there."""
    if "://" not in text:
        names = f"those are {', '.join(known)}" if known else "there are none"
        raise click.UsageError(f"{text!r} is neither a URL nor a server of the settings: {names}")
    try:
        url = ServerUrl.parse(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return next((one for one in known.values() if one.url == url), Instance(name=url.partition("://")[2], url=url))


def _allow_sockets(number: int) -> None:
    """Let this process open so many: one that it may not open would look like a server that refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = number + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(
            f"{number} requests at once need {needed} open files, and {hard} are allowed",
            hint="lower --concurrency, or raise the limit: ulimit -n",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _smoke(
    instances: Sequence[Instance],
    wanted: Sequence[ModelName],
    load: _Load,
    shown: SmokeView,
    notice: Callable[[str], None],
) -> smoke_page.Report:
    """Look at what there is to ask, ask it, and show it."""
    async with fresh_connections() as session:
        patience = min(load.timeout, _LOOKING)
        servers = {
            one.name: OllamaServer(one.name, one.url, session, patience=patience, load_patience=load.timeout)
            for one in instances
        }
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(look(name, server, wanted), name=name) for name, server in servers.items()]
        found = survey([task.result() for task in looks], wanted)
        if not found.targets:
            raise _nothing_to_ask(found)
        if (reached := load.schedule.count) < len(found.targets):
            notice(
                f"warning: {reached} requests reach {reached} of {len(found.targets)} models on servers:"
                " more come with --rps or --duration"
            )
        run = Smoke(found.targets, load.schedule, concurrency=load.concurrency, ask=_ask(servers), clock=time.monotonic)
        return await _shown(run, found, shown)


async def _shown(run: Smoke, found: Survey, shown: SmokeView) -> smoke_page.Report:
    """Run it to its end, and show it on the way; where it is interrupted, show what has been so far."""
    with shown:
        interrupted = True
        try:
            async with asyncio.TaskGroup() as tasks:
                ticking = tasks.create_task(_tick(run, found, shown), name="view")
                await run.run()
                ticking.cancel()
            interrupted = False
        except BaseExceptionGroup as group:
            raise only_error(group, ()) from group  # nobody reads any more, or a bug
        finally:
            report = smoke_page.report(run, found, interrupted=interrupted)
            shown.done(report)
    return report


async def _tick(run: Smoke, found: Survey, shown: SmokeView) -> None:
    while True:
        await asyncio.sleep(shown.every)
        shown.show(run, found)


def _ask(servers: Mapping[str, OllamaServer]) -> Ask:
    async def ask(target: Target, way: Way) -> None:
        server = servers[target.instance]
        match way:
            case Way.CHAT:
                await server.chat(target.model)
            case Way.GENERATE:
                await server.token(target.model)
            case Way.EMBED:
                await server.embedding(target.model)

    return ask


def _nothing_to_ask(found: Survey) -> SyncdError:
    if found.troubles:
        return SmokeFailedError("; ".join(printable(trouble.message) for trouble in found.troubles))
    if found.left_out:
        return NotFoundError("; ".join(found.left_out))
    return NotFoundError("the servers list no models", hint="'syncd pull NAME' gets one")
