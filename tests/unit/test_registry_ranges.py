"""Ranges of blobs, from real sockets: what is asked, what is taken for an answer, and what is kept of a broken one."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from syncd.errors import (
    IntegrityError,
    RegistryError,
    RegistryUnavailableError,
    SyncdError,
)
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName
from syncd.registry.answers import BareNotFoundError
from syncd.registry.client import RangeUnsupportedError
from tests.unit.registry_world import (
    BLOB,
    WEIGHTS,
    Answerer,
    Asked,
    Reply,
    client,
    fetched,
    name_on,
    ranged,
    registry,
    serving,
)

SIZE = len(BLOB)


async def test_a_range_is_asked_for_as_such_and_comes_as_it_is() -> None:
    async with serving(registry) as server, client() as it:
        async with it.open_range(name_on(server), WEIGHTS, 1000, 70_000) as body:
            assert (body.start, body.end, body.whole, body.source) == (1000, 70_000, False, server.authority)
            assert b"".join([part async for part in body.parts()]) == BLOB[1000:70_000]

        assert server.asked[0].target == f"/v2/library/mistral/blobs/{WEIGHTS.digest}"
        assert server.asked[0].headers["range"] == "bytes=1000-69999"
        assert server.asked[0].headers["accept-encoding"] == "identity"
        assert server.asked[0].headers["user-agent"].startswith("syncd/")


async def test_a_whole_blob_is_asked_for_without_a_range() -> None:
    async with serving(registry) as server, client() as it:
        async with it.open_range(name_on(server), WEIGHTS, 0, SIZE) as body:
            assert body.whole
            assert b"".join([part async for part in body.parts()]) == BLOB

        assert "range" not in server.asked[0].headers


async def test_an_empty_blob_is_fetched_too() -> None:
    empty = Descriptor("text/plain", Digest.of(b""), 0)
    async with serving(lambda asked: ranged(asked, b"")) as server, client() as it:
        assert await fetched(it, name_on(server), blob=empty) == b""


async def test_a_connection_is_used_again() -> None:
    async with serving(registry) as server, client() as it:
        for start in range(0, 5000, 1000):
            await fetched(it, name_on(server), start, start + 1000)

        assert server.connections == 1


async def test_a_body_that_is_left_early_closes_its_connection() -> None:
    async with serving(registry) as server, client() as it:
        for _ in range(2):
            async with it.open_range(name_on(server), WEIGHTS, 0, SIZE):
                pass

        assert server.connections == 2


async def test_the_whole_blob_for_a_range_says_so() -> None:
    async with (
        serving(lambda _: Reply(body=BLOB)) as server,
        client() as it,
        it.open_range(name_on(server), WEIGHTS, 1000, 2000) as body,
    ):
        assert (body.start, body.end, body.whole) == (0, SIZE, True)


def lying(*content_ranges: str, body: bytes = BLOB[10:20]) -> Answerer:
    return lambda _: Reply(206, body, [("Content-Range", one) for one in content_ranges])


async def until_it_fails(parts: AsyncIterator[bytes]) -> tuple[bytes, Exception | None]:
    got = b""
    try:
        async for part in parts:
            got += part
    except SyncdError as error:
        return got, error
    return got, None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lying(f"bytes 0-9/{SIZE}"), id="another start"),
        pytest.param(lying(f"bytes 10-20/{SIZE}"), id="another end"),
        pytest.param(lying(f"bytes 10-19/{SIZE + 1}"), id="another size"),
        pytest.param(lying("bytes 10-19/*"), id="no size"),
        pytest.param(
            lying(f"bytes 10-19/{SIZE}", f"bytes 10-19/{SIZE}"),
            id="twice",
            marks=pytest.mark.skipif(sys.flags.dev_mode, reason="there aiohttp's parser refuses the whole answer"),
        ),
        pytest.param(lying(f"octets 10-19/{SIZE}"), id="another unit"),
        pytest.param(lying(), id="no header"),
        pytest.param(lying(f"bytes 10-19/{SIZE}", body=BLOB[10:21]), id="another length"),
        pytest.param(lambda _: Reply(416, b"{}" * 16, announced=SIZE), id="416 of docker-registry 2.8"),
    ],
)
async def test_a_registry_that_cannot_do_ranges_is_found_out_before_the_body(answer: Answerer) -> None:
    async with serving(answer) as server, client() as it:
        with pytest.raises(RangeUnsupportedError):
            await fetched(it, name_on(server), 10, 20)


async def test_what_arrived_before_a_break_is_given_out_first() -> None:
    half = SIZE // 2
    async with (
        serving(lambda _: Reply(body=BLOB[:half], announced=SIZE, close=True)) as server,
        client() as it,
        it.open_range(name_on(server), WEIGHTS, 0, SIZE) as body,
    ):
        await asyncio.sleep(0.2)  # all of it has come, and the break too, before the first byte is asked for
        got, error = await until_it_fails(body.parts())

    assert got == BLOB[:half]
    assert isinstance(error, RegistryUnavailableError)
    assert f"{SIZE - half} bytes before the end" in error.message


async def test_a_short_chunked_body_is_an_early_end_not_a_blob() -> None:
    async with serving(lambda _: Reply(body=BLOB[:-1], chunked=True)) as server, client() as it:
        with pytest.raises(RegistryUnavailableError):
            await fetched(it, name_on(server))


@pytest.mark.parametrize("how", [{"chunked": True}, {"announced": -1, "close": True}], ids=["chunked", "until close"])
async def test_one_byte_too_many_is_refused_and_not_given_out(how: dict[str, Any]) -> None:
    async with (
        serving(lambda _: Reply(body=BLOB + b"x", **how)) as server,
        client() as it,
        it.open_range(name_on(server), WEIGHTS, 0, SIZE) as body,
    ):
        got, error = await until_it_fails(body.parts())

    assert got == BLOB
    assert isinstance(error, IntegrityError)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 1 << 60])
async def test_a_blob_announced_with_another_size_is_refused_at_once(size: int) -> None:
    async with serving(lambda _: Reply(body=b"", announced=size)) as server, client() as it:
        with pytest.raises(IntegrityError):
            await fetched(it, name_on(server))


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "GZIP"])
async def test_a_compressed_body_is_refused_unread(coding: str) -> None:
    async with serving(lambda _: Reply(body=BLOB, headers=[("Content-Encoding", coding)])) as server, client() as it:
        with pytest.raises(RegistryError, match="encoded"):
            await fetched(it, name_on(server))


async def test_an_identity_encoding_is_none() -> None:
    reply = Reply(body=BLOB, headers=[("Content-Encoding", "identity")])
    async with serving(lambda _: reply) as server, client() as it:
        assert await fetched(it, name_on(server)) == BLOB


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, BareNotFoundError),
        (410, RegistryError),
        (418, RegistryError),
        (204, RegistryError),
        (408, RegistryUnavailableError),
        (429, RegistryUnavailableError),
        (500, RegistryUnavailableError),
        (502, RegistryUnavailableError),
        (503, RegistryUnavailableError),
        (599, RegistryUnavailableError),
    ],
)
async def test_each_status_has_its_error(status: int, kind: type[SyncdError]) -> None:
    async with serving(lambda _: Reply(status)) as server, client() as it:
        with pytest.raises(kind) as caught:
            await fetched(it, name_on(server), 10, 20)

    assert type(caught.value) is kind


async def test_a_retry_after_is_passed_on() -> None:
    async with serving(lambda _: Reply(503, headers=[("Retry-After", "7")])) as server, client() as it:
        with pytest.raises(RegistryUnavailableError) as caught:
            await fetched(it, name_on(server))

    assert caught.value.retry_after == 7


async def test_silence_ends_with_an_error_that_says_so() -> None:
    def silent(_: Asked) -> Reply:
        raise ConnectionResetError

    async with serving(silent) as server, client() as it:
        with pytest.raises(RegistryUnavailableError):
            await fetched(it, name_on(server))


async def test_a_host_that_does_not_answer_is_given_up_after_the_read_timeout() -> None:
    held: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    host = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        async with client(read_timeout=0.2) as it:
            with pytest.raises(RegistryUnavailableError, match="did not answer"):
                await fetched(it, name_at(host))
    finally:
        for writer in held:
            writer.close()
        listener.close()


def name_at(host: str) -> ModelName:
    return ModelName(host, "library", "m", "1")


async def test_a_host_where_nobody_listens_is_unavailable() -> None:
    async with serving(registry) as server:
        name = name_on(server)
    async with client() as it:
        with pytest.raises(RegistryUnavailableError, match="cannot be reached"):
            await fetched(it, name)


async def test_a_range_that_the_blob_does_not_have_is_a_mistake_of_the_caller() -> None:
    async with client() as it:
        for start, end in ((-1, 5), (5, 4), (0, SIZE + 1), (7, 7)):
            with pytest.raises(ValueError, match="no range"):
                await fetched(it, name_at("localhost:1"), start, end)
