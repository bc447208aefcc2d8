import json
from pathlib import Path
from typing import Any

import pytest

from syncd.errors import InvalidManifestError
from syncd.oci.digest import Digest
from syncd.oci.manifest import MAX_MANIFEST_BYTES, Manifest

GOLDEN = Path(__file__).parent.parent / "golden"
BLOB = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'a' * 64}", "size": 7}


def document(**changes: Any) -> bytes:
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {**BLOB, "digest": f"sha256:{'c' * 64}"},
        "layers": [BLOB],
    }
    return json.dumps({key: value for key, value in {**manifest, **changes}.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("file", "identity", "size"),
    [
        # Raw, as Ollama's registry sends them; the identity is what `ollama list` shows for each.
        ("gemma-2b.json", "b50d6c999e59", 1_678_456_656),
        ("gemma3-12b.json", "f4031aab637d", 8_149_190_253),
        ("gemma4-e4b.json", "c6eb396dbd59", 9_608_350_718),
    ],
)
def test_real_manifests_keep_their_bytes_and_their_identity(file: str, identity: str, size: int) -> None:
    raw = (GOLDEN / file).read_bytes()

    manifest = Manifest.parse(raw)

    assert manifest.raw == raw
    assert manifest.digest.short == identity
    assert manifest.size == size
    assert manifest.weights[0].media_type == "application/vnd.ollama.image.model"


def test_a_digest_that_is_both_config_and_layer_is_one_blob() -> None:
    manifest = Manifest.parse(document(config=BLOB))

    assert len(manifest.blobs) == 1
    assert manifest.size == 7


def test_layers_that_are_null_are_none_as_for_ollama() -> None:
    assert Manifest.parse(document(layers=None)).layers == ()


def test_foreign_urls_and_unknown_keys_are_ignored() -> None:
    layer = {**BLOB, "urls": ["http://169.254.169.254/"], "annotations": {"a": "b"}}

    assert Manifest.parse(document(layers=[layer], extra=1)).layers[0].digest == Digest("a" * 64)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not json",
        b'"text"',
        b"[]",
        b"\xff\xfe",
        b"{" * 50_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" * 50_000 + b"]" * 50_000,
        b'{"schemaVersion":2,"schemaVersion":2}',
        b" " * (MAX_MANIFEST_BYTES + 1),
        document(layers=...),
        document(config=...),
        document(config=[]),
        document(layers={}),
        document(layers=[7]),
        document(schemaVersion=1),
        document(schemaVersion=True),
        document(layers=[{}] * 1_000_000)[:MAX_MANIFEST_BYTES],
        document(layers=[BLOB, {**BLOB, "size": 8}]),
        document(layers=[{**BLOB, "mediaType": "text"}]),
        document(layers=[{**BLOB, "mediaType": 5}]),
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_what_is_no_manifest_is_refused_with_a_reason(raw: bytes) -> None:
    with pytest.raises(InvalidManifestError, match="manifest"):
        Manifest.parse(raw)


@pytest.mark.parametrize("size", [-1, 2**63, 10**400, 1.0, 1.5, 1e3, True, "7", None, [7], float("nan"), float("inf")])
def test_an_impossible_size_is_refused(size: Any) -> None:
    with pytest.raises(InvalidManifestError):
        Manifest.parse(document(layers=[{**BLOB, "size": size}]))


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "../../../../etc/passwd",
        "sha256:../../../../etc/passwd",
        f"sha256-{'a' * 64}",
        f"sha256:{'A' * 64}",
        f"sha256:{'a' * 63}",
        f"sha256:{'a' * 65}",
        f"sha256:{'a' * 64}\n",
        f"sha512:{'a' * 128}",
        f"sha256:{'a' * 61}/..",
        7,
    ],
)
def test_a_digest_that_is_not_sha256_is_refused(digest: Any) -> None:
    with pytest.raises(InvalidManifestError):
        Manifest.parse(document(layers=[{**BLOB, "digest": digest}]))


@pytest.mark.parametrize(
    "changes",
    [
        {"mediaType": "application/vnd.oci.image.index.v1+json"},
        {"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": []},
        {"manifests": [BLOB]},
    ],
)
def test_a_list_of_manifests_is_named_as_such(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifestError, match="list of manifests") as refused:
        Manifest.parse(document(**changes))

    assert refused.value.hint
