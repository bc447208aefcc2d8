"""What every registry does that syncd pulls from: one suite, for docker-registry and the scriptable registry."""

import http.client
from collections.abc import Iterator

import pytest

from tests.support.content import whole
from tests.support.docker_registry import DockerRegistry
from tests.support.http import Answer, Client
from tests.support.models import MANIFEST_TYPE, MIB, Model, build_model, synthetic_model
from tests.support.registry import ModelHandle, ScriptedRegistry

Registry = DockerRegistry | ScriptedRegistry

UNKNOWN = "sha256:" + 64 * "0"


@pytest.fixture(scope="module")
def model() -> Model:
    return build_model("mistral:7b", weights_bytes=3 * MIB)


@pytest.fixture(params=["docker-registry", "scriptable"])
def any_registry(request: pytest.FixtureRequest) -> Registry:
    fixture = {"docker-registry": "docker_registry", "scriptable": "registry"}[request.param]
    found: Registry = request.getfixturevalue(fixture)
    return found


@pytest.fixture
def served(any_registry: Registry, model: Model) -> ModelHandle:
    return any_registry.add(model)


@pytest.fixture
def client(any_registry: Registry) -> Iterator[Client]:
    with Client(any_registry.host) as connected:
        yield connected


def blob(client: Client, model: ModelHandle, digest: str, wanted: str | None = None, method: str = "GET") -> Answer:
    headers = {"Range": wanted} if wanted else {}
    return client.ask(method, f"/v2/{model.repository}/blobs/{digest}", headers)


def manifest(client: Client, model: ModelHandle, reference: str, method: str = "GET") -> Answer:
    return client.ask(method, f"/v2/{model.repository}/manifests/{reference}", {"Accept": MANIFEST_TYPE})


def test_it_answers_the_base_path(client: Client) -> None:
    assert client.ask("GET", "/v2/").status == 200


def test_a_manifest_comes_verbatim_by_tag(client: Client, served: ModelHandle) -> None:
    answer = manifest(client, served, served.tag)

    assert (answer.status, answer.body) == (200, served.manifest)
    assert answer.headers["Content-Type"] == MANIFEST_TYPE
    assert answer.headers["Docker-Content-Digest"] == served.digest
    assert int(answer.headers["Content-Length"]) == len(served.manifest)


def test_a_manifest_comes_verbatim_by_digest(client: Client, served: ModelHandle) -> None:
    answer = manifest(client, served, served.digest)

    assert (answer.status, answer.body) == (200, served.manifest)


def test_head_of_a_manifest_tells_its_digest_and_size(client: Client, served: ModelHandle) -> None:
    answer = manifest(client, served, served.tag, "HEAD")

    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Docker-Content-Digest"] == served.digest
    assert int(answer.headers["Content-Length"]) == len(served.manifest)


@pytest.mark.parametrize("reference", ["no-such-tag", UNKNOWN])
def test_an_unknown_manifest_is_not_found(client: Client, served: ModelHandle, reference: str) -> None:
    answer = manifest(client, served, reference)

    assert answer.status == 404
    assert b"MANIFEST_UNKNOWN" in answer.body


def test_an_unknown_repository_is_not_found(client: Client) -> None:
    assert client.ask("GET", "/v2/library/no-such-model/manifests/latest").status == 404
    assert client.ask("GET", f"/v2/library/no-such-model/blobs/{UNKNOWN}").status == 404


def test_every_blob_comes_whole(client: Client, served: ModelHandle) -> None:
    for digest, content in served.blobs.items():
        answer = blob(client, served, digest)

        assert (answer.status, answer.body) == (200, whole(content))
        assert answer.headers["Docker-Content-Digest"] == digest


def test_head_of_a_blob_tells_its_size(client: Client, served: ModelHandle) -> None:
    answer = blob(client, served, served.weights, method="HEAD")

    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) == served.weights_size
    assert answer.headers["Docker-Content-Digest"] == served.weights


def test_an_unknown_blob_is_not_found(client: Client, served: ModelHandle) -> None:
    answer = blob(client, served, UNKNOWN)

    assert answer.status == 404
    assert b"BLOB_UNKNOWN" in answer.body


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, 1000), (MIB, 2 * MIB), (1234, 1235), (-1, 0), (-1000, 0)],
    ids=["first byte", "start", "middle", "one byte within", "last byte", "end"],
)
def test_a_range_comes_exactly(client: Client, served: ModelHandle, start: int, stop: int) -> None:
    size = served.weights_size
    first, end = (start, stop) if start >= 0 else (size + start, size)

    answer = blob(client, served, served.weights, f"bytes={first}-{end - 1}")

    assert (answer.status, answer.body) == (206, whole(served.blobs[served.weights])[first:end])
    assert answer.headers.get_all("Content-Range") == [f"bytes {first}-{end - 1}/{size}"]
    assert int(answer.headers["Content-Length"]) == end - first


def test_an_open_range_comes_to_the_end(client: Client, served: ModelHandle) -> None:
    size = served.weights_size

    answer = blob(client, served, served.weights, f"bytes={size - 10}-")

    assert (answer.status, answer.body) == (206, whole(served.blobs[served.weights])[-10:])


def test_a_suffix_range_is_the_end(client: Client, served: ModelHandle) -> None:
    answer = blob(client, served, served.weights, "bytes=-10")

    assert (answer.status, answer.body) == (206, whole(served.blobs[served.weights])[-10:])


def test_a_range_past_the_end_is_cut_at_the_end(client: Client, served: ModelHandle) -> None:
    size = served.weights_size

    answer = blob(client, served, served.weights, f"bytes={size - 10}-{size + 10}")

    assert (answer.status, answer.body) == (206, whole(served.blobs[served.weights])[-10:])
    assert answer.headers["Content-Range"] == f"bytes {size - 10}-{size - 1}/{size}"


def test_a_range_beyond_the_end_is_refused(client: Client, served: ModelHandle) -> None:
    size = served.weights_size

    answer = blob(client, served, served.weights, f"bytes={size}-{size + 10}")

    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_many_ranges_come_over_one_connection(client: Client, served: ModelHandle) -> None:
    expected = whole(served.blobs[served.weights])
    blob(client, served, served.weights, "bytes=0-0")
    port = client.local_port()

    for start in (0, 4096, MIB, 5):
        assert blob(client, served, served.weights, f"bytes={start}-{start + 99}").body == expected[start : start + 100]

    assert client.local_port() == port


def test_a_blob_of_many_chunks_comes_by_ranges(any_registry: Registry) -> None:
    served = any_registry.add(synthetic_model("big:80m", weights_bytes=80 * MIB))
    content = served.blobs[served.weights]
    with Client(any_registry.host) as client:
        for start in (0, 16 * MIB - 1, 79 * MIB):
            answer = blob(client, served, served.weights, f"bytes={start}-{start + MIB - 1}")
            assert answer.body[:100] == bytes(content.read(start, 100))
            assert len(answer.body) == min(MIB, content.size - start)


def test_docker_registry_announces_the_whole_blob_with_a_416(docker_registry: DockerRegistry, model: Model) -> None:
    served = docker_registry.add(model)
    connection = http.client.HTTPConnection(docker_registry.host, timeout=10)
    connection.request(
        "GET", f"/v2/{served.repository}/blobs/{served.weights}", headers={"Range": f"bytes={served.weights_size}-"}
    )
    answer = connection.getresponse()

    assert int(answer.headers["Content-Length"]) == served.weights_size
    with pytest.raises(http.client.IncompleteRead) as broken:
        answer.read()
    assert len(broken.value.partial) == 33
    connection.close()
