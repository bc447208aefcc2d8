"""Manifests as registries send them, honest or not, and what is tried again."""

import json

import pytest

from syncd.errors import (
    IntegrityError,
    InvalidManifestError,
    NotFoundError,
    RegistryError,
    RegistryUnavailableError,
)
from syncd.oci.digest import Digest
from syncd.oci.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, OCI_MANIFEST_TYPE
from syncd.registry import answers
from syncd.registry.retries import RetryPolicy
from tests.unit.registry_world import (
    MANIFEST,
    Answerer,
    Asked,
    Reply,
    client,
    manifest_of,
    reference_on,
    registry,
    serving,
)

DIGEST = Digest.of(MANIFEST)
OTHER = manifest_of()


async def test_a_manifest_is_asked_for_by_tag_in_both_formats_and_kept_to_the_byte() -> None:
    async with serving(registry) as server, client() as it:
        found = await it.manifest(reference_on(server))

        assert (found.manifest.raw, found.manifest.digest, found.source) == (MANIFEST, DIGEST, server.authority)
        (asked,) = server.asked
        assert asked.target == "/v2/library/mistral/manifests/7b"
        assert MANIFEST_TYPE in asked.headers["accept"]
        assert OCI_MANIFEST_TYPE in asked.headers["accept"]


async def test_no_length_and_any_content_type_will_do() -> None:
    def as_ollama_does(_: Asked) -> Reply:
        return Reply(body=MANIFEST, headers=[("Content-Type", "text/plain; charset=utf-8")], announced=-1, close=True)

    async with serving(as_ollama_does) as server, client() as it:
        assert (await it.manifest(reference_on(server))).manifest.raw == MANIFEST


def by_digest_or_tag(by_digest: Reply, by_tag: Reply) -> Answerer:
    return lambda asked: by_digest if "sha256:" in asked.path else by_tag


async def test_a_pinned_manifest_is_asked_for_by_its_digest() -> None:
    async with serving(by_digest_or_tag(Reply(body=MANIFEST), Reply(404))) as server, client() as it:
        assert (await it.manifest(reference_on(server, DIGEST))).manifest.digest == DIGEST

        assert server.paths() == [f"/v2/library/mistral/manifests/{DIGEST}"]


@pytest.mark.parametrize("status", [404, 405])
async def test_where_that_is_not_served_the_tag_must_hold_it(status: int) -> None:
    async with serving(by_digest_or_tag(Reply(status), Reply(body=MANIFEST))) as server, client() as it:
        assert (await it.manifest(reference_on(server, DIGEST))).manifest.digest == DIGEST


@pytest.mark.parametrize(
    "answer",
    [by_digest_or_tag(Reply(404), Reply(body=OTHER)), by_digest_or_tag(Reply(body=OTHER), Reply(404))],
    ids=["tag", "digest"],
)
async def test_another_manifest_than_the_pinned_one_is_refused_with_both_digests(answer: Answerer) -> None:
    async with serving(answer) as server, client() as it:
        with pytest.raises(IntegrityError) as caught:
            await it.manifest(reference_on(server, DIGEST))

    assert str(DIGEST) in caught.value.message
    assert str(Digest.of(OTHER)) in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("announced", [str(Digest.of(OTHER)), "sha512:" + "0" * 128, "x", ""])
async def test_an_announced_digest_that_is_not_the_bodys_is_refused(announced: str) -> None:
    reply = Reply(body=MANIFEST, headers=[("Docker-Content-Digest", announced)])
    async with serving(lambda _: reply) as server, client() as it:
        with pytest.raises(IntegrityError):
            await it.manifest(reference_on(server))


async def test_an_announced_digest_that_fits_is_no_trouble() -> None:
    reply = Reply(body=MANIFEST, headers=[("Docker-Content-Digest", str(DIGEST))])
    async with serving(lambda _: reply) as server, client() as it:
        await it.manifest(reference_on(server))


@pytest.mark.parametrize("body", [b"", b"no json", b'{"schemaVersion": 2, "manifests": []}', b"[" * 50_000])
async def test_what_is_no_manifest_is_refused_and_not_asked_for_again(body: bytes) -> None:
    async with serving(lambda _: Reply(body=body)) as server, client() as it:
        with pytest.raises(InvalidManifestError):
            await it.manifest(reference_on(server))

        assert len(server.asked) == 1


async def test_an_endless_manifest_is_cut() -> None:
    async with serving(lambda _: Reply(endless=b" " * 65536)) as server, client() as it:
        with pytest.raises(InvalidManifestError, match=str(MAX_MANIFEST_BYTES)):
            await it.manifest(reference_on(server))

        assert server.sent < MAX_MANIFEST_BYTES + 16 * 1024 * 1024  # what sockets and buffers hold besides


async def test_a_compressed_manifest_is_refused() -> None:
    reply = Reply(body=b"\x1f\x8b", headers=[("Content-Encoding", "gzip")])
    async with serving(lambda _: reply) as server, client() as it:
        with pytest.raises(RegistryError, match="encoded"):
            await it.manifest(reference_on(server))


async def test_a_manifest_that_stops_half_way_is_asked_for_again() -> None:
    async with serving(registry) as server, client(read_timeout=2.0) as it:
        halves = [
            Reply(body=MANIFEST[:50], announced=len(MANIFEST), close=True),
            Reply(body=b"x", announced=9, hang=True),
        ]
        server.answer = lambda asked: halves.pop() if halves else registry(asked)

        assert (await it.manifest(reference_on(server))).manifest.raw == MANIFEST
        assert len(server.asked) == 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async with serving(registry) as server, client() as it:
        server.answer = lambda asked: registry(asked) if len(server.asked) == 3 else Reply(status)

        await it.manifest(reference_on(server))


async def test_but_not_for_ever() -> None:
    async with serving(lambda _: Reply(503)) as server, client() as it:
        with pytest.raises(RegistryUnavailableError):
            await it.manifest(reference_on(server))

        assert len(server.asked) == 3


async def test_a_retry_after_past_our_patience_is_not_waited_for() -> None:
    reply = Reply(429, b'{"errors":[{"code":"TOOMANY","message":"slow down"}]}', [("Retry-After", "1800")])
    async with serving(lambda _: reply) as server, client() as it:
        with pytest.raises(RegistryUnavailableError, match="slow down") as caught:
            await it.manifest(reference_on(server))

        assert len(server.asked) == 1
    assert caught.value.retry_after == 1800


@pytest.mark.parametrize("status", [400, 403, 404, 412, 418])
async def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    async with serving(lambda _: Reply(status)) as server, client() as it:
        with pytest.raises(Exception, match=server.authority):
            await it.manifest(reference_on(server))

        assert len(server.asked) == 1


async def test_a_412_says_that_a_newer_ollama_is_wanted() -> None:
    async with serving(lambda _: Reply(412, b'{"error":"requires 0.99"}')) as server, client() as it:
        with pytest.raises(RegistryError, match="newer Ollama") as caught:
            await it.manifest(reference_on(server))

    assert "requires 0.99" in caught.value.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not known"}]}', ": not known"),
        (b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', ": MANIFEST_UNKNOWN"),
        (b'{"error":"file does not exist"}', ": file does not exist"),
        (b'{"error":"see https://x.example/a?token=abc for more"}', ": see https://x.example/a?… for more"),
        (b'{"error":"' + b"x" * 1000 + b'"}', ": " + "x" * 199 + "…"),
        (json.dumps({"error": "\x1b[2Jred"}).encode(), ": \\x1b[2Jred"),
        (b'{"error":5}', ""),
        (b'{"errors":[]}', ""),
        (b'{"errors":["x"]}', ""),
        (b"<html>", ""),
        (b"[" * 50_000, ""),
        (b"x" * 2_000_000, ""),
    ],
)
async def test_an_error_body_is_quoted_briefly_if_at_all(body: bytes, said: str) -> None:
    async with serving(lambda _: Reply(404, body)) as server, client() as it:
        with pytest.raises(NotFoundError) as caught:
            await it.manifest(reference_on(server))

        assert caught.value.message == f"{server.authority} has no {reference_on(server).name}{said}"


async def test_an_endless_error_is_cut() -> None:
    async with serving(lambda _: Reply(404, endless=b"x" * 65536)) as server, client() as it:
        with pytest.raises(NotFoundError):
            await it.manifest(reference_on(server))

        assert server.sent < 16 * 1024 * 1024


async def test_an_error_that_never_ends_holds_nobody_up() -> None:
    async with serving(lambda _: Reply(404, b"{", announced=50, hang=True)) as server, client(read_timeout=0.2) as it:
        with pytest.raises(NotFoundError):
            await it.manifest(reference_on(server))


# Waiting: pure.


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("0", 0),
        (" 120 ", 120),
        ("86400", 3600),
        ("99999999999999999999", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 60),
        ("Wed, 21 Oct 2015 07:20:00 GMT", 0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 3600),
        ("Wed, 99 Oct 2099 07:28:00 GMT", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert answers.retry_after(value, now=1445412420.0) == seconds


def test_waits_grow_with_jitter_up_to_a_bound_and_a_last_try() -> None:
    policy = RetryPolicy(attempts=5, seconds=60, first_wait=1, longest_wait=4)

    waits = [policy.wait(failures, spent=0, asked=None, random=0.0) for failures in range(1, 6)]

    assert waits == [0.5, 1, 2, 2, None]
    assert policy.wait(2, spent=0, asked=None, random=0.999) == pytest.approx(2, abs=0.01)


def test_a_wait_that_was_asked_for_is_kept_to_if_there_is_time() -> None:
    policy = RetryPolicy(attempts=5, seconds=60, first_wait=1, longest_wait=4)

    assert policy.wait(1, spent=0, asked=30, random=0) == 30
    assert policy.wait(1, spent=40, asked=30, random=0) is None
