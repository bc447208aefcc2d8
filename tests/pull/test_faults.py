"""Every answer that a registry, a CDN or a network can give, and what a pull makes of it."""

import asyncio
import errno
import time
from pathlib import Path

import pytest

from syncd.download.means import FetchSettings
from syncd.errors import (
    IntegrityError,
    InvalidManifestError,
    NotAuthorisedError,
    NotFoundError,
    RedirectRefusedError,
    RegistryError,
    RegistryUnavailableError,
    StoreError,
    SyncdError,
)
from syncd.jobs.collect import collect
from syncd.jobs.progress import PullProgress
from syncd.oci.chunks import CHUNK_SIZE
from syncd.registry.hosts import RegistryConfig
from syncd.store.root import Store
from tests.pull import world
from tests.pull.world import QUICK, pulled
from tests.support.models import build_model, synthetic_model
from tests.support.oracle import assert_store_whole, snapshot
from tests.support.registry import Kind, ModelHandle, ScriptedRegistry

MIB = 1 << 20


@pytest.fixture(params=[None, world.THROUGH_THE_LOOP], ids=["from the socket", "through the loop"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "NO_LIMIT", request.param)


@pytest.fixture
def large(registry: ScriptedRegistry) -> ModelHandle:
    """A model of four chunks and a bit."""
    return registry.add(synthetic_model(weights_bytes=4 * CHUNK_SIZE + 12345))


async def test_a_dropped_connection_keeps_what_arrived(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.drop_after(9 * MIB, digest=large.weights, times=3)

    outcome = await pulled(large.name, store_path)

    assert assert_store_whole(store_path) == {large.name: large.digest}
    assert outcome.fetched_bytes == large.size


async def test_every_connection_may_break_again_and_again_as_long_as_bytes_come(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.drop_after(3 * MIB, digest=large.weights)

    outcome = await pulled(large.name, store_path)

    assert_store_whole(store_path)
    assert outcome.fetched_bytes == large.size


async def test_connections_that_are_reset_lose_what_lay_in_their_buffers_and_no_more(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.drop_after(9 * MIB, digest=large.weights, reset=True, times=5)

    outcome = await pulled(large.name, store_path)

    assert_store_whole(store_path)
    assert outcome.fetched_bytes == large.size


async def test_a_stalled_connection_is_taken_over(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.stall(5 * MIB, digest=large.weights, times=2)
    seen: list[PullProgress] = []

    outcome = await pulled(large.name, store_path, report=seen.append)

    assert_store_whole(store_path)
    assert seen[-1].retries == 2
    assert "no byte for 1 s" in (seen[-1].trouble or "")
    assert outcome.fetched_bytes == large.size


async def test_a_registry_that_never_answers_a_range_is_given_up_with_a_reason(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.stall(digest=large.weights)
    hasty = FetchSettings(stall_timeout=0.2, attempts=2, backoff=0.01, longest_backoff=0.01)

    with pytest.raises(RegistryUnavailableError, match="no byte"):
        await pulled(large.name, store_path, settings=hasty)

    assert assert_store_whole(store_path) == {}


async def test_one_slow_connection_among_fast_ones_is_taken_over(registry: ScriptedRegistry, store_path: Path) -> None:
    large = registry.add(synthetic_model(weights_bytes=16 * CHUNK_SIZE))
    registry.throttle(8 * MIB, digest=large.weights)
    registry.throttle(0.2 * MIB, digest=large.weights, times=1, sticky=True)
    seen: list[PullProgress] = []
    started = time.monotonic()

    await pulled(large.name, store_path, report=seen.append, settings=FetchSettings(stall_timeout=15))

    assert_store_whole(store_path)
    assert "slower than its siblings" in (seen[-1].trouble or "")
    assert time.monotonic() - started < 70  # alone it would take 80 s over its segment


@pytest.mark.parametrize(
    "lie", ["whole", "wrong start", "wrong total", "no header", "duplicate header", "416", "416 as docker"]
)
async def test_a_registry_that_lies_about_ranges_is_read_as_one_stream(
    lie: str, registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.lie_about_range(lie, digest=large.weights)  # type: ignore[arg-type] - one of its literals

    await pulled(large.name, store_path)

    assert assert_store_whole(store_path) == {large.name: large.digest}


async def test_one_stream_that_breaks_keeps_what_arrived(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.lie_about_range("whole", digest=large.weights)
    dropped = registry.drop_after(
        40 * MIB, digest=large.weights, times=1, where=lambda request: request.range is None
    )  # the stream, and none of those that asked for ranges before

    await pulled(large.name, store_path)

    assert dropped.fired == 1
    assert_store_whole(store_path)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_passing_error_is_tried_again(
    status: int, registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.answer(status, rate=0.3)

    await pulled(large.name, store_path, settings=FetchSettings(attempts=12, backoff=0.01, longest_backoff=0.05))

    assert_store_whole(store_path)


async def test_retry_after_is_kept_to(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.answer(429, retry_after="1", digest=model.weights, times=1)
    started = time.monotonic()

    await pulled(model.name, store_path)

    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("uses", [1, 2, 3])
async def test_signed_addresses_that_expire_in_mid_blob_are_asked_for_anew(uses: int, store_path: Path) -> None:
    with ScriptedRegistry(like_ollama=True) as registry:
        registry.serve_blobs_from_cdn(status=307, uses=uses)
        large = registry.add(synthetic_model(weights_bytes=6 * CHUNK_SIZE))

        await pulled(large.name, store_path)

        assert assert_store_whole(store_path) == {large.name: large.digest}


async def test_tokens_that_expire_in_mid_blob_are_asked_for_anew(registry: ScriptedRegistry, store_path: Path) -> None:
    large = registry.add(synthetic_model(weights_bytes=12 * CHUNK_SIZE))
    registry.require_token(lifetime=0.3)
    registry.throttle(30 * MIB, digest=large.weights)

    await pulled(large.name, store_path)

    assert_store_whole(store_path)


async def test_a_registry_that_restarts_in_mid_blob_is_only_a_delay(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.throttle(20 * MIB, digest=large.weights)
    patient = FetchSettings(attempts=20, backoff=0.1, longest_backoff=0.3)

    async with asyncio.TaskGroup() as group:
        work = group.create_task(pulled(large.name, store_path, settings=patient))
        await registry.until(lambda r: r.bytes_served(large.weights) > 20 * MIB)
        registry.stop()
        await asyncio.sleep(0.5)
        registry.start()

    assert_store_whole(store_path)
    assert work.result().digest.hex in large.digest


async def test_a_flipped_byte_is_found_and_the_blob_fetched_once_more(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.flip(17 * MIB, digest=large.weights, times=1, where=lambda request: "16777216" in (request.range or ""))

    await pulled(large.name, store_path)

    assert_store_whole(store_path)
    assert registry.bytes_served(large.weights) == 2 * large.weights_size


async def test_after_a_flipped_byte_another_source_is_asked(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    with ScriptedRegistry() as mirror:
        mirror.add(synthetic_model(weights_bytes=4 * CHUNK_SIZE + 12345))
        mirror.flip(5, digest=large.weights)

        await pulled(large.name, store_path, configs={registry.host: RegistryConfig(mirrors=(mirror.url,))})

        assert mirror.bytes_served(large.weights) == large.weights_size
    assert registry.bytes_served(large.weights) == large.weights_size
    assert_store_whole(store_path)


async def test_a_mirror_that_lied_once_is_asked_again_where_the_origin_is_away(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    with ScriptedRegistry() as mirror:
        mirror.add(synthetic_model(weights_bytes=4 * CHUNK_SIZE + 12345))
        mirror.flip(5, digest=large.weights, times=1)
        registry.stop()

        await pulled(large.name, store_path, configs={registry.host: RegistryConfig(mirrors=(mirror.url,))})

        assert mirror.bytes_served(large.weights) == 2 * large.weights_size


async def test_a_mirror_comes_first_and_the_origin_is_asked_for_nothing(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    with ScriptedRegistry() as mirror:
        mirror.add(synthetic_model(weights_bytes=4 * CHUNK_SIZE + 12345))

        await pulled(large.name, store_path, configs={registry.host: RegistryConfig(mirrors=(mirror.url,))})

    assert registry.requests == ()
    assert_store_whole(store_path)


async def test_a_mirror_that_dies_in_mid_blob_is_replaced_by_the_origin(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    with ScriptedRegistry() as mirror:
        mirror.add(synthetic_model(weights_bytes=4 * CHUNK_SIZE + 12345))
        mirror.throttle(20 * MIB, digest=large.weights)
        async with asyncio.TaskGroup() as group:
            group.create_task(
                pulled(large.name, store_path, configs={registry.host: RegistryConfig(mirrors=(mirror.url,))})
            )
            await mirror.until(lambda r: r.bytes_served(large.weights) > 20 * MIB)
            mirror.stop()

    assert 0 < registry.bytes_served(large.weights) < large.weights_size
    assert_store_whole(store_path)


async def test_bytes_that_stay_false_are_refused_and_nothing_of_them_is_kept(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.flip(17 * MIB, digest=large.weights)

    with pytest.raises(IntegrityError, match="hash to") as refused:
        await pulled(large.name, store_path)

    assert refused.value.exit_code == 6
    assert refused.value.hint
    assert assert_store_whole(store_path) == {}
    assert not list((store_path / ".syncd" / "staging").iterdir())


async def test_an_odd_answer_ends_the_pull_but_costs_no_chunk_that_is_in(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.throttle(20 * MIB, digest=large.weights)
    registry.answer(200, body=b"<html>log in first</html>", digest=large.weights, skip=3, times=50)

    with pytest.raises(SyncdError):
        await pulled(large.name, store_path, settings=FetchSettings(connections=1))
    registry.heal()
    outcome = await pulled(large.name, store_path)

    assert outcome.found_bytes >= 3 * CHUNK_SIZE
    assert_store_whole(store_path)


async def test_what_is_in_stays_leased_after_a_failure_that_no_retry_mends(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.throttle(20 * MIB, digest=large.weights)
    config = store_path / "blobs" / large.config.replace(":", "-")
    registry.answer(404, digest=large.weights, where=lambda _: config.exists())
    with pytest.raises(NotFoundError):
        await pulled(large.name, store_path, settings=FetchSettings(connections=2))

    with Store.open(store_path, create=False) as store:
        taken = await collect(store, now=time.time() + 2 * 3600)

    assert taken.freed == 0
    assert config.exists()


async def test_after_a_failed_fsync_on_the_way_nothing_of_the_partial_is_believed(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, "the disk's")

    registry.drop_after(9 * MIB, digest=large.weights, times=99, skip=2)
    hasty = FetchSettings(connections=1, attempts=1)
    with pytest.raises(SyncdError):
        await pulled(large.name, store_path, settings=hasty)
    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", failing)
        with pytest.raises(StoreError):
            await pulled(large.name, store_path)
    registry.heal()
    registry.forget_requests()

    outcome = await pulled(large.name, store_path)

    assert registry.bytes_served(large.weights) == large.weights_size
    assert outcome.fetched_bytes >= large.weights_size
    assert_store_whole(store_path)


@pytest.mark.parametrize("announced", ["not", "wholly"])
async def test_a_blob_longer_than_said_is_cut_and_refused(
    announced: str, registry: ScriptedRegistry, store_path: Path
) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.overrun(announced=announced, digest=model.weights)  # type: ignore[arg-type] - one of its literals

    with pytest.raises(SyncdError):
        await pulled(model.name, store_path)

    assert assert_store_whole(store_path) == {}


async def test_bytes_past_the_announced_length_are_not_taken_for_the_blobs(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.overrun(announced="honestly", digest=model.weights)

    outcome = await pulled(model.name, store_path)

    assert assert_store_whole(store_path) == {model.name: model.digest}
    assert outcome.fetched_bytes == model.size


async def test_a_blob_shorter_than_said_is_refused(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.truncate(1000, digest=model.weights, times=50, where=lambda request: request.range is None)
    registry.answer(416, digest=model.weights, where=lambda request: request.range is not None)

    with pytest.raises(RegistryError):
        await pulled(model.name, store_path)

    assert assert_store_whole(store_path) == {}


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"<html>not a registry</html>", InvalidManifestError),
        (b"{}", InvalidManifestError),
        (
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
            InvalidManifestError,
        ),
        (b'{"schemaVersion":2,"layers":[' + b"{}," * 1_000_000 + b"{}]}", InvalidManifestError),
        (b'{"schemaVersion":2,"schemaVersion":2}', InvalidManifestError),
        (b" " * (5 * MIB), InvalidManifestError),
        (
            b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:../../../../x","size":2},"layers":[]}',
            InvalidManifestError,
        ),
        (
            b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:'
            + b"a" * 64
            + b'","size":-1},"layers":[]}',
            InvalidManifestError,
        ),
    ],
    ids=["html", "empty", "index", "million layers", "duplicate key", "too large", "traversal", "negative"],
)
async def test_a_hostile_manifest_changes_nothing(
    raw: bytes, error: type[SyncdError], registry: ScriptedRegistry, store_path: Path
) -> None:
    await pulled(registry.add(build_model("mistral:7b")).name, store_path)
    before = snapshot(store_path)

    with pytest.raises(error) as refused:
        await pulled(registry.put_manifest(raw), store_path)

    assert refused.value.exit_code == 6
    assert snapshot(store_path) == before


async def test_what_is_not_there_is_not_found(registry: ScriptedRegistry, store_path: Path) -> None:
    with pytest.raises(NotFoundError):
        await pulled(f"{registry.host}/library/nothing:here", store_path)

    assert assert_store_whole(store_path) == {}


async def test_a_blob_that_the_registry_lacks_is_not_found(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.remove_blob(model.weights)

    with pytest.raises(NotFoundError):
        await pulled(model.name, store_path)

    assert assert_store_whole(store_path) == {}


async def test_a_registry_that_refuses_us_says_so(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.require_basic("user", "secret")

    with pytest.raises(NotAuthorisedError) as refused:
        await pulled(model.name, store_path)

    assert refused.value.exit_code == 4
    assert refused.value.hint


async def test_a_redirect_loop_ends(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.redirect_loop()

    with pytest.raises(RedirectRefusedError):
        await pulled(model.name, store_path)

    assert len(registry.blob_requests()) < 100
    assert assert_store_whole(store_path) == {}


async def test_a_redirect_to_the_metadata_service_is_refused(registry: ScriptedRegistry, store_path: Path) -> None:
    model = registry.add(build_model("mistral:7b"))
    registry.redirect("http://169.254.169.254/latest/meta-data/")

    with pytest.raises(RedirectRefusedError):
        await pulled(model.name, store_path)


async def test_an_unreachable_registry_is_exit_code_5(store_path: Path) -> None:
    with ScriptedRegistry() as gone:
        name = gone.add(build_model("mistral:7b")).name

    with pytest.raises(RegistryUnavailableError) as refused:
        await pulled(name, store_path)

    assert refused.value.exit_code == 5
    assert refused.value.hint


async def test_the_rate_limit_is_kept_over_all_connections(large: ModelHandle, store_path: Path) -> None:
    started = time.monotonic()

    await pulled(large.name, store_path, settings=FetchSettings(max_rate=32 * MIB))

    assert 1.8 < time.monotonic() - started < 20


async def test_no_more_connections_are_open_at_once_than_the_budget(
    registry: ScriptedRegistry, large: ModelHandle, store_path: Path
) -> None:
    registry.throttle(30 * MIB, digest=large.weights)

    await pulled(large.name, store_path, settings=FetchSettings(connections=2, max_rate=world.THROUGH_THE_LOOP))

    assert len({request.peer_port for request in registry.requests if request.kind is Kind.BLOB}) <= 3
    assert_store_whole(store_path)


async def test_no_secret_is_told(
    registry: ScriptedRegistry, store_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.serve_blobs_from_cdn(status=307, uses=1)
    registry.require_token(lifetime=0.3)
    large = registry.add(synthetic_model(weights_bytes=3 * CHUNK_SIZE))
    registry.drop_after(5 * MIB, digest=large.weights, times=2)
    seen: list[PullProgress] = []

    await pulled(large.name, store_path, report=seen.append, settings=QUICK)

    told = f"{seen}{caplog.text}{capsys.readouterr()}"
    assert registry.secrets
    assert not any(secret in told for secret in registry.secrets)
