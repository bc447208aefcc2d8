"""The models that tests pull are real: the gguf package reads their weights, and their manifests say what is so."""

import json
from pathlib import Path

import gguf
import pytest

from tests.support.content import digest_of, whole
from tests.support.models import MIB, build_model, five_models

NAMES = ["mistral:7b", "llama3.2:3b", "codellama:7b", "llava:7b", "nomic-embed-text:v1.5"]


def test_there_are_the_five_of_the_readme() -> None:
    assert [model.name for model in five_models()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_gguf_reads_every_weights_blob(name: str, tmp_path: Path) -> None:
    model = build_model(name, weights_bytes=2 * MIB)
    path = tmp_path / "weights.gguf"
    for digest in (*model.layers("model"), *model.layers("projector")):
        path.write_bytes(whole(model.blobs[digest]))

        reader = gguf.GGUFReader(path)

        assert "general.architecture" in reader.fields
        assert sum(int(tensor.n_bytes) for tensor in reader.tensors) <= path.stat().st_size


def test_weights_are_about_as_large_as_asked() -> None:
    for size in (MIB, 8 * MIB):
        assert 0.95 * size < build_model("mistral:7b", size).weights_size < 1.25 * size


def test_the_same_seed_gives_the_same_model_and_another_gives_other_weights() -> None:
    build_model.cache_clear()
    first = build_model("llava:7b")
    build_model.cache_clear()

    assert build_model("llava:7b").digest == first.digest
    other = build_model("llava:7b", seed=2)
    assert other.weights != first.weights
    assert other.layers("template") == first.layers("template")


def test_manifests_describe_their_blobs() -> None:
    for model in five_models():
        manifest = json.loads(model.manifest)
        described = {blob["digest"]: blob["size"] for blob in (manifest["config"], *manifest["layers"])}
        assert described == {digest: blob.size for digest, blob in model.blobs.items()}
        assert all(digest_of(whole(blob)) == digest for digest, blob in model.blobs.items())


def test_llava_has_a_projector_and_the_embedder_no_template() -> None:
    llava, embedder = build_model("llava:7b"), build_model("nomic-embed-text:v1.5")

    assert len(llava.layers("projector")) == 1
    assert embedder.layers("template") == []
    assert json.loads(whole(embedder.blobs[embedder.config]))["model_family"] == "nomic-bert"


def test_models_share_blobs() -> None:
    mistral, codellama = build_model("mistral:7b"), build_model("codellama:7b")

    assert mistral.layers("template") == codellama.layers("template")
    assert mistral.weights != codellama.weights
