"""docs/openapi.yaml describes the running API: its routes, its shapes, and what it answers to whatever is sent."""

import asyncio
import queue
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from structlog.testing import capture_logs

from syncd.api import catalogue, events, pull_lines, pulls, v1, wire
from syncd.api.control import control_app
from syncd.api.guard import UnixDoor
from syncd.errors import NotFoundError
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.oci.name import Reference
from tests.api import described
from tests.api.world import daemon, loopback

FILE = Path(__file__).parents[2] / "docs" / "openapi.yaml"
SCHEMA = schemathesis.openapi.from_path(FILE)
DESCRIBED = SCHEMA.raw_schema
ENDLESS = {"events"}
EXAMPLES = 8

_OURS = (
    v1.DaemonInfo,
    v1.Status,
    v1.PullRequest,
    v1.RemoveRequest,
    v1.VerifyRequest,
    v1.ReloadRequest,
    v1.ReloadTried,
    v1.ReloadEnded,
    v1.CancelRequest,
    v1.Jobs,
    v1.Cancelled,
    pulls.Line,
    v1.Event,
    catalogue.Listing,
    catalogue.Shown,
    events.Removed,
    events.Verifying,
    events.FaultFound,
    events.Verified,
    wire.Tags,
    wire.Show,
    wire.Version,
    wire.ShowRequest,
    wire.DeleteRequest,
)


def shapes(*types: Any) -> dict[str, Any]:
    return msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")[1]


def bare(schema: Any) -> Any:
    """Without words."""
    if isinstance(schema, dict):
        words = {"title", "description"} if isinstance(schema.get("description", ""), str) else {"title"}
        return {key: bare(value) for key, value in schema.items() if key not in words}
    return [bare(one) for one in schema] if isinstance(schema, list | tuple) else schema


async def test_every_route_is_in_the_file_and_the_other_way_round(tmp_path: Path) -> None:
    async with daemon(tmp_path) as world:
        app: web.Application = control_app(world.service, UnixDoor())
        routes = {
            (route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None
        }
    gets = {path for method, path in routes if method == "GET"}
    written = {(method.upper(), path) for path, one in DESCRIBED["paths"].items() for method in one}
    assert {one for one in routes if one[0] != "HEAD" or one[1] not in gets} == written


def test_every_shape_is_as_the_file_says() -> None:
    ollamas = shapes(wire.PullRequest, pull_lines.Progress)
    made = {
        **shapes(*_OURS),
        **described.schemas(),
        "OllamaPullRequest": ollamas["PullRequest"],
        "OllamaProgress": ollamas["Progress"],
    }
    written = DESCRIBED["components"]["schemas"]
    assert {name: bare(written[name]) for name in made} == {name: bare(made[name]) for name in made}
    assert written.keys() - made.keys() == {"OllamaError"}


def test_the_file_says_of_operations_what_they_are() -> None:
    assert described.written(FILE.read_text()) == FILE.read_text(), "python -m tests.api.described writes it anew"


def test_what_the_file_refers_to_is_in_it() -> None:
    for target in set(re.findall(r"#/[\w/]+", FILE.read_text())):
        found = DESCRIBED
        for part in target[2:].split("/"):
            found = found[part]
        assert found


async def nothing_anywhere(reference: Reference, report: Callable[[PullProgress], None]) -> PullOutcome:
    """No made-up name is asked for outside."""
    del report
    raise NotFoundError(f"{reference} is nowhere")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon in a thread of its own."""
    ready: queue.Queue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        stop = asyncio.Event()
        folder = tmp_path_factory.mktemp("fuzzed")
        async with daemon(folder, door=loopback("fuzz"), work=nothing_anywhere) as world:
            ready.put((world.url, asyncio.get_running_loop(), stop))
            await stop.wait()

    with capture_logs() as logs:
        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        address, loop, stop = ready.get(timeout=60)
        try:
            yield address
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(20)
    assert [one for one in logs if one["log_level"] == "error"] == []


OPERATIONS = {
    operation.definition.raw["operationId"]: operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())
}
CHECKS: dict[GenerationMode, list[CheckFunction]] = {
    GenerationMode.POSITIVE: [status_code_conformance, content_type_conformance, response_schema_conformance],
    GenerationMode.NEGATIVE: [
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
        negative_data_rejection,
        unsupported_method,
    ],
}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for mode in CHECKS
        for name, operation in sorted(OPERATIONS.items())
        # Without a body and a query there is nothing to get wrong.
        if name not in ENDLESS and (mode is GenerationMode.POSITIVE or operation.body or operation.query)
    ],
)
def test_whatever_is_sent_is_answered_as_the_file_says(url: str, name: str, mode: GenerationMode) -> None:
    operation = OPERATIONS[name]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        headers = {"Authorization": "Bearer fuzz"}
        case.call_and_validate(base_url=url, headers=headers, checks=CHECKS[mode], timeout=60)

    check()
