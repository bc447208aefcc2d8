"""``syncd reload``."""

import sys
from collections.abc import Sequence
from datetime import datetime

import click

from syncd.api import events, v1
from syncd.cli import place
from syncd.cli.options import as_json, examples, shared, stored_names
from syncd.cli.session import Session
from syncd.errors import ExitCode, SyncdError
from syncd.oci.name import ModelName
from syncd.text import printable

_NOT_TRIED = "not tried"


class ServersFailedError(SyncdError):
    """Some server does not serve what it should."""

    exit_code = ExitCode.SERVER_FAILED


@click.command(
    epilog=examples(
        "syncd reload mistral:7b", "syncd reload --prove --instance ollama-server-1", "syncd reload --resume"
    )
)
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=stored_names)
@click.option("--instance", "instances", metavar="SERVER", multiple=True, help="Only this server; may be given again.")
@click.option("--prove", is_flag=True, help="Reload nothing: have the servers make a token of each model.")
@click.option("--resume", is_flag=True, help="Go on with rollouts that a server's failure has halted.")
@as_json
@shared
@click.pass_context
def reload(
    context: click.Context,
    names: tuple[str, ...],
    instances: tuple[str, ...],
    *,
    prove: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Have the Ollama servers load models (all, if none is named) anew, and see that they serve them.

    One server after another, as its settings say: where reload = "auto", what is loaded is unloaded and loaded again;
    where it is restart, signal or exec, the server begins anew. A server that fails ends it, with exit code 9. Servers
    are the daemon's business: this needs one. Who interrupts this command stops watching.
    """
    if resume and (prove or instances):
        raise click.UsageError("--resume goes on with what has halted, on all servers: leave out the rest", context)
    asked = v1.ReloadRequest(
        models=tuple(str(ModelName.parse(name)) for name in dict.fromkeys(names)) or None,
        instances=tuple(dict.fromkeys(instances)) or None,
        prove=prove,
        resume=resume,
    )
    tried: list[v1.ReloadTried] = []

    def tell(line: v1.ReloadTried) -> None:
        tried.append(line)
        stream = sys.stdout if as_json else sys.stderr
        stream.write(events.line(line) if as_json else f"{printable(line.instance)}: {_words(line)}\n")
        stream.flush()

    ended = place.of(Session.begin(context, lenient=True)).reload(asked, tell)
    sys.stdout.write(events.line(ended) if as_json else table(tried, ended.rollouts))
    bad = [one for one in ended.rollouts if one.state != "done"]
    if bad:
        raise ServersFailedError(
            f"{bad[0].name}: {bad[0].state}: {bad[0].reason or 'a server failed'}",
            hint="'syncd reload --resume' goes on once the server is well"
            if resume
            else "'syncd status' shows the servers",
        )


def table(tried: Sequence[v1.ReloadTried], rollouts: Sequence[v1.RolloutInfo]) -> str:
    """Models by servers, in plain columns: ``proved``, ``served``, ``failed``, or that it was not tried."""
    cells = {(one.model, one.instance): one.result for one in tried}
    for rollout in rollouts:
        for instance in rollout.done:  # before this, it may be
            cells.setdefault((rollout.name, instance), "served")
    servers = list(dict.fromkeys(name for one in rollouts for name in (*one.done, *one.failed, *one.waiting)))
    rows = [["MODEL", *servers]]
    rows += [[one.name, *(cells.get((one.name, server), _NOT_TRIED) for server in servers)] for one in rollouts]
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ("    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _words(line: v1.ReloadTried) -> str:
    """How a model stands on a server."""
    text = f"{printable(line.model)}: {printable(line.result)}"
    if line.reason is not None:
        text += f": {printable(line.reason)}"
    if line.stale:
        until = "it is unloaded" if line.stale_until is None else _time(line.stale_until)
        text += f" (it still holds older weights, until {until})"
    return text


def _time(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return printable(text)
