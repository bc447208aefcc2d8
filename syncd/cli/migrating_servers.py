"""Servers, as a migration sees them: the daemon's words taken in, and how they stand in the end."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from syncd.api import migrations, v1
from syncd.errors import ExitCode, SyncdError
from syncd.jobs.migration import Served, ServerView, Standing, is_proved
from syncd.oci.name import ModelName

_SERVED = frozenset({"served", "loaded", "hosted"})  # where a proof is not allowed, that is as well as can be known


class ServerFailedError(SyncdError):
    """A server does not serve what it should."""

    exit_code = ExitCode.SERVER_FAILED


def server_view(told: v1.InstanceInfo) -> ServerView:
    """A server as the plan sees it."""
    models = {}
    for one in told.models:
        proved = None if one.proved is None else datetime.fromisoformat(one.proved).timestamp()
        standing = Standing(one.digest, one.state, proved, one.stale, one.message or one.reason)
        models[ModelName.parse(one.name).folded] = standing
    return ServerView(told.name, told.url, told.up, told.version, told.error, models)


def ended_on(
    view: ServerView, models: Iterable[Served], results: Mapping[tuple[str, str], v1.ReloadTried]
) -> migrations.MigratedServer:
    """How a server stands in the end: what was just tried knows better than the daemon's last look."""
    rows = []
    for model in models:
        standing = view.models.get(model.name.folded)
        tried = results.get((view.name, str(model.name)))
        current = standing if standing is not None and standing.digest == str(model.digest) else None
        proved = tried.result == "proved" if tried else is_proved(current, model)
        state = tried.result if tried else current.word if current else "missing"
        reason = tried.reason if tried else current.reason if current else None
        rows.append(migrations.ModelOnServer(str(model.name), state, proved, reason))
    return migrations.MigratedServer(view.name, view.url, view.up, view.version, view.error, tuple(rows))


def failures(ended: Iterable[migrations.MigratedServer]) -> Iterator[ServerFailedError]:
    """An error for each model that a server neither proved nor serves."""
    for server in ended:
        for model in server.models:
            if not model.proved and model.state not in _SERVED:
                yield ServerFailedError(
                    f"{server.name} does not serve {model.name}: {model.reason or server.error or model.state}",
                    hint="run the same command again once the server is well",
                )
