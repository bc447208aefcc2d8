"""Ollama's JSON: what is there when a model has everything, and what when it has nothing."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from syncd.api import catalogue, wire
from syncd.api.library import Library
from syncd.api.pull_lines import PullLines
from syncd.jobs.progress import BlobProgress, BlobState, Phase, PullProgress
from syncd.jobs.verify import verify
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import ModelName, Reference
from syncd.store.root import Store
from tests.pull.world import pulled
from tests.support.gguf_files import Shape, language_model
from tests.support.models import build_model, model_from, synthetic_model
from tests.support.registry import ScriptedRegistry

WEIGHTS = language_model(Shape("llama", "small", 4096, 100_000, 1))


async def shown(registry: ScriptedRegistry, path: Path, model: Any, **how: Any) -> dict[str, Any]:
    name = registry.add(model).name
    await pulled(name, path)
    asked = {"verbose": False, "system": None, "with_path": False, **how}
    with Store.open(path, create=False) as store:
        return json.loads(msgspec.json.encode(Library(store).show(ModelName.parse(name), **asked)))


async def test_a_model_with_everything_shows_everything(registry: ScriptedRegistry, store_path: Path) -> None:
    template = '{{ range .Messages }}{{ .Thinking }}{{ end }}{{ if .Tools }}{{ .Tools }}{{ end }}{{ .Suffix }} "x"\n'
    model = model_from(
        "full:1",
        [
            ("model", WEIGHTS),
            ("template", template.encode()),
            ("system", b"Be brief."),
            ("params", b'{"stop":["a","b"],"temperature":0.5,"num_ctx":4096}'),
            ("messages", b'[{"role":"user","content":"hi"}]'),
            ("license", b"first"),
            ("license", b"second"),
        ],
    )
    found = await shown(registry, store_path, model)

    assert found["template"] == template
    assert found["system"] == "Be brief."
    assert found["license"] == "first\nsecond"
    assert found["messages"] == [{"role": "user", "content": "hi"}]
    assert [line.split() for line in found["parameters"].splitlines()] == [
        ["stop", '"a"'],
        ["stop", '"b"'],
        ["temperature", "0.5"],
        ["num_ctx", "4096"],
    ]
    assert found["capabilities"] == ["completion", "tools", "insert", "thinking"]
    assert found["model_info"]["general.architecture"] == "llama"
    assert found["model_info"]["tokenizer.ggml.tokens"] is None
    assert found["model_info"]["general.parameter_count"] > 0
    assert "general.name" not in found["model_info"]
    assert "tensors" not in found
    modelfile = found["modelfile"]
    assert f'TEMPLATE """{template}"""' in modelfile
    assert "SYSTEM Be brief.\nPARAMETER stop a\nPARAMETER stop b\n" in modelfile
    assert "LICENSE second\nMESSAGE user hi\n" in modelfile
    assert str(store_path) not in modelfile


async def test_verbose_adds_tensors_and_arrays(registry: ScriptedRegistry, store_path: Path) -> None:
    found = await shown(registry, store_path, build_model("mistral:7b"), verbose=True, with_path=True)

    assert found["tensors"][0] == {"name": "token_embd.weight", "type": "F16", "shape": [64, 83]}
    assert len(found["model_info"]["tokenizer.ggml.tokens"]) == 83
    assert f"FROM {store_path}/blobs/sha256-" in found["modelfile"]


async def test_a_projector_makes_vision(registry: ScriptedRegistry, store_path: Path) -> None:
    found = await shown(registry, store_path, build_model("llava:7b"))

    assert found["capabilities"] == ["completion", "vision"]
    assert found["projector_info"]["general.architecture"] == "clip"
    assert found["details"]["families"] == ["llama", "clip"]


async def test_what_the_config_lacks_comes_from_the_weights(registry: ScriptedRegistry, store_path: Path) -> None:
    nothing = dict.fromkeys(("model_format", "model_family", "model_families", "model_type", "file_type"))
    found = await shown(registry, store_path, model_from("bare:1", [("model", WEIGHTS)], config=nothing))

    assert found["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": wire.human_number(found["model_info"]["general.parameter_count"]),
        "quantization_level": "F16",
    }
    assert found["template"] == "{{ .Prompt }}"


async def test_weights_that_are_no_gguf_show_nothing_that_is_not_known(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    found = await shown(registry, store_path, synthetic_model(weights_bytes=100_000))

    assert found["model_info"] == {}
    assert "capabilities" not in found
    assert found["details"]["format"] == "gguf"  # so its config says


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"model_type": 7}', b"[" * 100_000, b'{"a":1,"a":2}'])
def test_an_odd_config_costs_its_model_the_details_and_no_other_anything(store_path: Path, config: bytes) -> None:
    with Store.open(store_path, create=True) as store:
        hexes = hashlib.sha256(config).hexdigest()
        (store_path / "blobs" / f"sha256-{hexes}").write_bytes(config)
        tag = store_path / "manifests/registry.ollama.ai/library/odd/latest"
        tag.parent.mkdir(parents=True)
        descriptor = {"mediaType": "application/x", "digest": f"sha256:{hexes}", "size": len(config)}
        tag.write_text(json.dumps({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]}))
        found = Library(store).tags()
    assert [(one.name, one.details) for one in found.models] == [("odd:latest", wire.Details())]


def plant(path: Path, name: str, layers: list[tuple[str, bytes]]) -> None:
    """A model as a registry may have made it, in the store at ``path``; a layer may be named often."""
    descriptors = []
    for content in {content for _, content in layers}:
        (path / "blobs" / f"sha256-{hashlib.sha256(content).hexdigest()}").write_bytes(content)
    for kind, content in layers:
        hexes = hashlib.sha256(content).hexdigest()
        media_type = f"application/vnd.ollama.image.{kind}"
        descriptors.append({"mediaType": media_type, "digest": f"sha256:{hexes}", "size": len(content)})
    tag = path / "manifests/registry.ollama.ai/library" / name / "latest"
    tag.parent.mkdir(parents=True)
    tag.write_text(json.dumps({"schemaVersion": 2, "config": descriptors[0], "layers": descriptors}))


@pytest.mark.parametrize("kind", ["license", "template", "system", "params", "messages", "prompt"])
async def test_a_layer_that_is_named_thousands_of_times_is_told_of_within_bounds(store_path: Path, kind: str) -> None:
    text = b'[{"role":"user","content":"' + b"x" * 60_000 + b'"}]'
    if kind == "params":
        text = b'{"stop":"' + b"x" * 60_000 + b'"}'
    with Store.open(store_path, create=True) as store:
        plant(store_path, "hostile", [("model", b"x"), *[(kind, text)] * 4000])
        await verify(store, None, on_progress=lambda _: None)
        name = ModelName.parse("hostile")
        started = time.process_time()
        shown = msgspec.json.encode(Library(store).show(name, verbose=True, system=None, with_path=False))
        described = catalogue.describe(store, name)
    assert time.process_time() - started < 5
    assert len(shown) < 8 << 20
    assert len(msgspec.json.encode(described.texts)) < 200_000
    assert ("x" * 50_000).encode() in shown


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (22_000, "22K"),
        (137_000_000, "137M"),
        (22_700_001, "22.70M"),
        (7 * 10**9, "7B"),
        (7_241_732_096, "7.2B"),
    ],
)
def test_numbers_are_written_as_ollama_writes_them(number: int, text: str) -> None:
    assert wire.human_number(number) == text


def moment(phase: Phase, *done: int) -> PullProgress:
    blobs = tuple(
        BlobProgress(Descriptor("m", Digest(f"{index:064x}"), 100), BlobState.FETCHING, one, one)
        for index, one in enumerate(done)
    )
    return PullProgress(Reference(ModelName.parse("x")), phase, None, blobs)


def test_a_reader_is_told_what_is_new_and_nothing_twice() -> None:
    told = PullLines()

    def lines(raw: bytes) -> list[dict[str, Any]]:
        return [json.loads(line) for line in raw.splitlines()]

    def blob(index: int, done: int) -> dict[str, Any]:
        digest = f"{index:064x}"
        moved = {"completed": done} if done else {}
        return {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": 100, **moved}

    assert lines(told.moment(None)) == [{"status": "pulling manifest"}]
    assert lines(told.moment(moment(Phase.RESOLVING))) == []
    assert lines(told.moment(moment(Phase.FETCHING, 0, 50))) == [blob(0, 0), blob(1, 50)]
    assert lines(told.moment(moment(Phase.FETCHING, 0, 60))) == [blob(1, 60)]
    assert lines(told.moment(moment(Phase.PUBLISHING, 100, 100))) == [
        blob(0, 100),
        blob(1, 100),
        {"status": "verifying sha256 digest"},
        {"status": "writing manifest"},
    ]
    assert lines(told.success(moment(Phase.DONE, 100, 100))) == [{"status": "success"}]


def test_who_comes_at_the_end_is_told_the_whole_story() -> None:
    statuses = [json.loads(line)["status"] for line in PullLines().success(moment(Phase.DONE, 100)).splitlines()]
    assert statuses == [
        "pulling manifest",
        f"pulling {0:012x}",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]


@pytest.mark.parametrize(
    "template", ["{{" * 500_000, '{{ "' + '\\"' * 500_000, '{{ "' + '\\"' * 400_000 + "}}", "{{ .Tools }}" * 80_000]
)
async def test_a_template_costs_no_more_than_its_length(
    registry: ScriptedRegistry, store_path: Path, template: str
) -> None:
    started = time.process_time()
    found = await shown(
        registry, store_path, model_from("hostile:1", [("model", b"x"), ("template", template.encode())])
    )
    assert time.process_time() - started < 3
    assert found["template"] == template
    assert found.get("capabilities", []) == (["tools"] if "Tools" in template else [])


async def test_a_model_whose_texts_are_none_does_not_hide_the_others(
    registry: ScriptedRegistry, store_path: Path
) -> None:
    half = {"model_family": "\ud800", "model_families": ["\udfff"]}
    await pulled(registry.add(model_from("hostile:1", [("model", WEIGHTS)], config=half)).name, store_path)
    await pulled(registry.add(build_model("mistral:7b")).name, store_path)
    with Store.open(store_path, create=False) as store:
        told = json.loads(msgspec.json.encode(Library(store).tags()))
    assert {one["details"]["family"] for one in told["models"]} == {"", "llama"}
