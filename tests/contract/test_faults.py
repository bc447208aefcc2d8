"""The scriptable registry does what it is told: each fault as a plain client sees it."""

import base64
import gzip
import hashlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.content import whole
from tests.support.http import Answer, Client
from tests.support.models import MIB, build_model, synthetic_model
from tests.support.registry import Kind, ModelHandle, Origin, ScriptedRegistry
from tests.support.registry.access import basic_header

SIZE = 4 * MIB


@pytest.fixture
def model(registry: ScriptedRegistry) -> ModelHandle:
    return registry.add(synthetic_model(weights_bytes=SIZE))


@pytest.fixture
def weights(model: ModelHandle) -> bytes:
    return whole(model.blobs[model.weights])


@pytest.fixture
def client(registry: ScriptedRegistry) -> Iterator[Client]:
    with Client(registry.host) as connected:
        yield connected


def blob_path(model: ModelHandle) -> str:
    return f"/v2/{model.repository}/blobs/{model.weights}"


def get(client: Client, model: ModelHandle, wanted: str | None = None) -> Answer:
    return client.ask("GET", blob_path(model), {"Range": wanted} if wanted else {})


def follow(answer: Answer) -> tuple[str, str]:
    """Host and path of a redirect."""
    host, _, path = answer.headers["Location"].partition("://")[2].partition("/")
    return host, f"/{path}"


def test_it_counts_what_was_asked_and_sent(client: Client, registry: ScriptedRegistry, model: ModelHandle) -> None:
    get(client, model, "bytes=0-99")
    get(client, model, "bytes=100-149")
    client.ask("GET", f"/v2/{model.repository}/manifests/{model.tag}")

    assert registry.bytes_served(model.weights) == 150
    assert [request.range for request in registry.requests_for(model.weights)] == ["bytes=0-99", "bytes=100-149"]
    assert [(request.tag, request.status) for request in registry.manifest_requests()] == [("7b", 200)]
    assert len({request.peer_port for request in registry.requests}) == 1


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("after", [0, 1, 3 * MIB])
def test_it_drops_a_connection_after_so_many_bytes(
    client: Client, registry: ScriptedRegistry, model: ModelHandle, weights: bytes, after: int, *, reset: bool
) -> None:
    rule = registry.drop_after(after, reset=reset, times=1)

    try:
        first = get(client, model)
    except ConnectionResetError:
        assert reset
    else:
        assert first.broken
        assert int(first.headers["Content-Length"]) == SIZE
        assert weights.startswith(first.body)
        assert reset or len(first.body) == after

    assert registry.bytes_served(model.weights) == after
    assert rule.fired == 1
    assert get(client, model).body == weights


def test_a_fault_hits_only_answers_that_reach_it(
    client: Client, registry: ScriptedRegistry, model: ModelHandle
) -> None:
    rule = registry.drop_after(MIB, times=1)

    assert not get(client, model, "bytes=0-99").broken
    assert rule.fired == 0
    assert get(client, model).broken


def test_it_hangs_up_without_an_answer(client: Client, registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.hang_up(times=1)

    with pytest.raises(http.client.RemoteDisconnected):
        get(client, model)
    assert get(client, model).status == 200


@pytest.mark.parametrize("after", [None, 0, MIB])
def test_it_stalls_until_the_rule_is_lifted(
    registry: ScriptedRegistry, model: ModelHandle, weights: bytes, after: int | None
) -> None:
    rule = registry.stall(after)
    answers = []
    with Client(registry.host) as client:
        asking = threading.Thread(target=lambda: answers.append(get(client, model)))
        asking.start()
        registry.wait_until(lambda _: rule.fired == 1)
        asking.join(0.1)

        assert asking.is_alive()
        assert registry.bytes_served(model.weights) == (after or 0)

        rule.lift()
        asking.join(30)
    assert answers[0].body == weights


def test_a_registry_can_be_closed_while_a_connection_stalls() -> None:
    began = time.monotonic()
    with ScriptedRegistry() as closing:
        model = closing.add(synthetic_model(weights_bytes=SIZE))
        closing.stall()
        with socket.create_connection(("127.0.0.1", int(closing.host.partition(":")[2]))) as connection:
            connection.sendall(f"GET {blob_path(model)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            closing.wait_until(lambda r: len(r.requests) == 1)
    assert time.monotonic() - began < 50


def test_it_throttles_one_connection_among_fast_ones(registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.throttle(MIB, times=1, sticky=True)
    with Client(registry.host) as slow, Client(registry.host) as fast:
        seconds = []
        for client in (slow, fast, slow):
            began = time.monotonic()
            get(client, model, f"bytes=0-{MIB - 1}")
            seconds.append(time.monotonic() - began)

    assert seconds[0] > 0.8
    assert seconds[2] > 0.8
    assert seconds[1] < 0.8


def test_it_flips_one_bit(client: Client, registry: ScriptedRegistry, model: ModelHandle, weights: bytes) -> None:
    registry.flip(MIB + 5, times=1)

    assert get(client, model, "bytes=0-99").body == weights[:100]
    wrong = get(client, model, f"bytes={MIB}-{MIB + 9}").body
    assert [index for index in range(10) if wrong[index] != weights[MIB + index]] == [5]
    assert get(client, model).body == weights


def test_it_sends_more_than_there_is_in_chunks(
    client: Client, registry: ScriptedRegistry, model: ModelHandle, weights: bytes
) -> None:
    registry.overrun(1000)

    answer = get(client, model)

    assert answer.body == weights + bytes(1000)
    assert answer.headers["Content-Length"] is None


def test_it_sends_more_than_it_announced(registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.overrun(1000, announced="honestly")

    with socket.create_connection(("127.0.0.1", int(registry.host.partition(":")[2])), timeout=10) as connection:
        connection.sendall(f"GET {blob_path(model)} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-9\r\n\r\n".encode())
        everything = b"".join(iter(lambda: connection.recv(1 << 16), b""))

    head, _, body = everything.partition(b"\r\n\r\n")
    assert b"Content-Length: 10\r\n" in head
    assert len(body) == 1010


def test_it_announces_more_than_the_descriptor_says(
    client: Client, registry: ScriptedRegistry, model: ModelHandle
) -> None:
    registry.overrun(1000, announced="wholly")

    assert len(get(client, model).body) == SIZE + 1000


def test_an_endless_body_ends_when_the_client_hangs_up(registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.overrun()
    with socket.create_connection(("127.0.0.1", int(registry.host.partition(":")[2])), timeout=10) as connection:
        connection.sendall(f"GET {blob_path(model)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        taken = 0
        while taken < 4 * SIZE:
            taken += len(connection.recv(1 << 18))

    registry.wait_until(lambda r: r.requests[-1].finished, seconds=30)


def test_it_lies_about_ranges(client: Client, registry: ScriptedRegistry, model: ModelHandle, weights: bytes) -> None:
    wanted = "bytes=100-199"

    def lied(lie: object) -> Answer:
        registry.heal()
        registry.lie_about_range(lie)  # type: ignore[arg-type] # each of them is named below
        return get(client, model, wanted)

    answer = lied("whole")
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (200, weights, None)

    answer = lied("wrong start")
    assert (answer.headers["Content-Range"], answer.body) == (f"bytes 101-200/{SIZE}", weights[101:201])

    answer = lied("wrong total")
    assert (answer.headers["Content-Range"], answer.body) == (f"bytes 100-199/{SIZE + 1}", weights[100:200])

    answer = lied("no header")
    assert (answer.status, answer.headers["Content-Range"]) == (206, None)

    answer = lied("duplicate header")
    assert answer.headers.get_all("Content-Range") == [f"bytes 100-199/{SIZE}", f"bytes 0-99/{SIZE}"]

    answer = lied("416")
    assert (answer.status, answer.headers["Content-Range"], answer.broken) == (416, f"bytes */{SIZE}", False)

    answer = lied("416 as docker")
    assert (answer.status, len(answer.body), answer.broken) == (416, 33, True)
    assert int(answer.headers["Content-Length"]) == SIZE


def test_a_lie_about_ranges_leaves_other_requests_alone(
    client: Client, registry: ScriptedRegistry, model: ModelHandle, weights: bytes
) -> None:
    registry.lie_about_range("416")

    assert get(client, model).body == weights


@pytest.mark.parametrize("status", [401, 403, 404, 408, 410, 429, 500, 503])
def test_it_answers_the_first_requests_with_a_status(
    client: Client, registry: ScriptedRegistry, model: ModelHandle, status: int
) -> None:
    registry.answer(status, times=2, retry_after="7")

    answers = [get(client, model, "bytes=0-0") for _ in range(3)]

    assert [answer.status for answer in answers] == [status, status, 206]
    assert answers[0].headers["Retry-After"] == "7"


def test_it_answers_a_share_of_requests_with_a_status(
    client: Client, registry: ScriptedRegistry, model: ModelHandle
) -> None:
    registry.answer(503, rate=0.5)

    statuses = [get(client, model, "bytes=0-0").status for _ in range(100)]

    assert 30 < statuses.count(503) < 70


def test_scopes_choose_requests(client: Client, registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.answer(500, kind="manifest", skip=1, times=1)
    registry.answer(501, where=lambda request: request.range == "bytes=7-7")
    registry.answer(502, digest=model.config)

    manifests = [client.ask("GET", f"/v2/{model.repository}/manifests/7b").status for _ in range(3)]

    assert manifests == [200, 500, 200]
    assert get(client, model, "bytes=6-6").status == 206
    assert get(client, model, "bytes=7-7").status == 501
    assert client.ask("GET", f"/v2/{model.repository}/blobs/{model.config}").status == 502


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_it_redirects(client: Client, registry: ScriptedRegistry, model: ModelHandle, status: int) -> None:
    registry.redirect("file:///etc/passwd", status=status, times=1)

    answer = get(client, model)

    assert (answer.status, answer.headers["Location"]) == (status, "file:///etc/passwd")
    assert get(client, model).status == 200


def test_it_redirects_in_a_loop(client: Client, registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.redirect_loop()

    assert get(client, model).headers["Location"] == blob_path(model)


def test_it_compresses_unasked(client: Client, registry: ScriptedRegistry, model: ModelHandle, weights: bytes) -> None:
    registry.compress(times=1)
    answer = get(client, model)
    assert (answer.headers["Content-Encoding"], gzip.decompress(answer.body)) == ("gzip", weights)

    registry.compress(bomb=8 * MIB, kind="manifest")
    answer = client.ask("GET", f"/v2/{model.repository}/manifests/7b")
    assert len(answer.body) < MIB
    assert gzip.decompress(answer.body) == bytes(8 * MIB)


def test_it_sends_a_wrong_digest_header(client: Client, registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.wrong_digest_header()

    answer = client.ask("GET", f"/v2/{model.repository}/manifests/7b")

    assert answer.headers.get_all("Docker-Content-Digest") == ["sha256:" + 64 * "0"]
    assert answer.body == model.manifest


def test_it_serves_hostile_manifests_verbatim(client: Client, registry: ScriptedRegistry) -> None:
    name = registry.put_manifest(b"\x00{nonsense", "library/bad", "1", content_type="text/html", content_length=False)

    answer = client.ask("GET", "/v2/library/bad/manifests/1")

    assert name == f"{registry.host}/library/bad:1"
    assert (answer.body, answer.headers["Content-Type"]) == (b"\x00{nonsense", "text/html")
    assert (answer.headers["Content-Length"], answer.headers["Transfer-Encoding"]) == (None, "chunked")


def test_it_restarts_on_its_port(client: Client, registry: ScriptedRegistry, model: ModelHandle) -> None:
    get(client, model, "bytes=0-0")
    host = registry.host

    registry.restart()

    assert registry.host == host
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        get(client, model, "bytes=0-0")
    assert get(client, model, "bytes=0-0").status == 206


def test_a_stopped_registry_refuses_connections(registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.stop()
    with Client(registry.host) as client, pytest.raises(ConnectionRefusedError):
        get(client, model)

    registry.start()
    with Client(registry.host) as client:
        assert get(client, model, "bytes=0-0").status == 206


def test_a_blinking_network_breaks_all_connections(registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.throttle(MIB)
    with socket.create_connection(("127.0.0.1", int(registry.host.partition(":")[2])), timeout=10) as connection:
        connection.sendall(f"GET {blob_path(model)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        registry.wait_until(lambda r: r.bytes_served(model.weights) > 0)

        registry.drop_connections()

        received = sum(len(piece) for piece in iter(lambda: connection.recv(1 << 16), b""))
    assert received < SIZE


def test_signed_urls_serve_from_another_origin_and_expire(
    client: Client, registry: ScriptedRegistry, model: ModelHandle, weights: bytes
) -> None:
    registry.serve_blobs_from_cdn()
    redirect = get(client, model, "bytes=0-9")
    host, path = follow(redirect)

    assert redirect.status == 307
    assert f"http://{host}" == registry.cdn_url
    assert host != registry.host
    with Client(host) as cdn:
        assert cdn.ask("GET", path, {"Range": "bytes=0-9"}).body == weights[:10]
        assert cdn.ask("GET", path, {"Authorization": "Bearer x"}).status == 400
        assert cdn.ask("GET", path.replace("sig=", "sig=0")).status == 403
        registry.expire()
        assert cdn.ask("GET", path, {"Range": "bytes=0-9"}).status == 403
        assert registry.bytes_served(model.weights) == 10


def test_signed_urls_are_good_for_so_many_requests(
    client: Client, registry: ScriptedRegistry, model: ModelHandle
) -> None:
    registry.serve_blobs_from_cdn(uses=2)
    host, path = follow(get(client, model))

    with Client(host) as cdn:
        assert [cdn.ask("GET", path, {"Range": "bytes=0-0"}).status for _ in range(3)] == [206, 206, 403]


def token_for(challenge: str, authorization: str | None = None) -> Answer:
    fields = dict(part.split("=", 1) for part in challenge.removeprefix("Bearer ").split(","))
    realm, service, scope = (fields[name].strip('"') for name in ("realm", "service", "scope"))
    host, _, path = realm.partition("://")[2].partition("/")
    with Client(host) as client:
        headers = {"Authorization": authorization} if authorization else {}
        return client.ask("GET", f"/{path}?service={service}&scope={scope}", headers)


@pytest.mark.parametrize("origin", [Origin.REGISTRY, Origin.TOKEN])
def test_tokens_open_one_repository_until_they_expire(
    client: Client, registry: ScriptedRegistry, model: ModelHandle, origin: Origin
) -> None:
    registry.require_token(on=origin, uses=2)

    refused = get(client, model, "bytes=0-0")
    token = json.loads(token_for(refused.headers["WWW-Authenticate"]).body)["token"]

    def status(path: str) -> int:
        return client.ask("GET", path, {"Authorization": f"Bearer {token}", "Range": "bytes=0-0"}).status

    assert refused.status == 401
    assert f'scope="repository:{model.repository}:pull"' in refused.headers["WWW-Authenticate"]
    assert status(f"/v2/library/other/blobs/{model.weights}") == 401
    assert [status(blob_path(model)) for _ in range(3)] == [206, 206, 401]
    assert registry.secrets == (token,)
    assert registry.requests[1].origin == origin
    assert registry.requests[1].kind == Kind.TOKEN


def test_the_token_service_wants_the_right_password(
    client: Client, registry: ScriptedRegistry, model: ModelHandle
) -> None:
    registry.require_token(login=("me", "right"), field="access_token", lifetime=60)
    challenge = get(client, model).headers["WWW-Authenticate"]

    assert token_for(challenge).status == 401
    assert token_for(challenge, basic_header("me", "wrong")).status == 401
    granted = json.loads(token_for(challenge, basic_header("me", "right")).body)
    assert granted["expires_in"] == 60
    assert granted["access_token"] in registry.secrets


def test_basic_credentials_open_everything(client: Client, registry: ScriptedRegistry, model: ModelHandle) -> None:
    registry.require_basic("me", "right")

    assert get(client, model).headers["WWW-Authenticate"].startswith("Basic realm=")
    right = client.ask("GET", blob_path(model), {"Authorization": basic_header("me", "right"), "Range": "bytes=0-0"})
    assert right.status == 206


def signed_request(registry: ScriptedRegistry, key: Ed25519PrivateKey, nonce: str, stamp: int) -> Answer:
    """As ollama server/auth.go and auth/auth.go do it, written anew from the wire format."""
    scope = "repository%3Alibrary%2Fmistral%3Apull"
    path = f"/token?nonce={nonce}&scope={scope}&service=registry&ts={stamp}"
    empty = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    raw = key.public_key().public_bytes_raw()
    wire = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + raw
    signature = key.sign(f"GET,{registry.url}{path},{empty}".encode())
    header = f"{base64.b64encode(wire).decode()}:{base64.b64encode(signature).decode()}"
    with Client(registry.host) as client:
        return client.ask("GET", path, {"Authorization": header})


def test_ollamas_signature_opens_a_private_model(
    client: Client, registry: ScriptedRegistry, model: ModelHandle
) -> None:
    key, stranger, now = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate(), int(time.time())
    registry.require_token(keys=(key.public_key().public_bytes_raw(),))

    assert signed_request(registry, stranger, "A" * 22, now).status == 401
    assert signed_request(registry, key, "B" * 22, now - 3600).status == 401
    assert signed_request(registry, key, "C" * 5, now).status == 401
    granted = signed_request(registry, key, "D" * 22, now)
    assert signed_request(registry, key, "D" * 22, now).status == 401

    token = json.loads(granted.body)["token"]
    answer = client.ask("GET", blob_path(model), {"Authorization": f"Bearer {token}", "Range": "bytes=0-0"})
    assert answer.status == 206


@pytest.fixture
def ollama_model(ollama_registry: ScriptedRegistry) -> ModelHandle:
    return ollama_registry.add(build_model("mistral:7b"))


def test_it_can_answer_as_ollamas_registry(ollama_registry: ScriptedRegistry, ollama_model: ModelHandle) -> None:
    manifests = f"/v2/{ollama_model.repository}/manifests"
    with Client(ollama_registry.host) as client:
        answer = client.ask("GET", f"{manifests}/7b")

        assert answer.body == ollama_model.manifest
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert answer.headers["Content-Length"] is None
        assert answer.headers["Docker-Content-Digest"] is None
        assert client.ask("HEAD", f"{manifests}/7b").status == 405
        assert client.ask("GET", f"{manifests}/{ollama_model.digest}").status == 404
        assert client.ask("GET", "/v2/").status == 404
        assert get(client, ollama_model).status == 307


def test_a_new_version_takes_the_tag(client: Client, registry: ScriptedRegistry) -> None:
    old, new = (registry.add(synthetic_model(weights_bytes=10, seed=seed)) for seed in (1, 2))

    assert client.ask("GET", f"/v2/{new.repository}/manifests/7b").body == new.manifest
    assert client.ask("GET", f"/v2/{new.repository}/manifests/{old.digest}").body == old.manifest
