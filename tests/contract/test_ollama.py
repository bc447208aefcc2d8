"""What an Ollama server does to its store and says about it: one suite, for the stand-in and for a real server.

The real one is the file that ``OLLAMA_BINARY`` names; without it those tests are skipped. The stand-in was held
against Ollama's source of 2026-08-21. It is known to differ in this:

| what | Ollama | the stand-in |
|---|---|---|
| bytes of the weights that are damaged but not missing | loads them, answers nonsense | the load fails with 500 |
| its own pull from a registry that does not redirect | fails | takes the bytes |
| what a stub of a hosted model is asked | goes to that host where it is allowed | 400, as where it is not allowed |
| show | adds a modelfile, licence and tensors in full | the modelfile is an outline |
| capabilities beyond completion, embedding, vision, tools and insert | yes | no |
| names that end in `:cloud` | are asked of the cloud | are names like others |
| memory | evicts by what the GPU has | evicts by ``max_loaded`` alone |
| times | in the server's zone | in UTC |
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import Model, build_model, five_models
from tests.support.ollama_servers import Server, Start, ask
from tests.support.ollama_store import age, blob_path, hosted, manifest_path, put
from tests.support.registry import ScriptedRegistry

MISTRAL, LLAVA, NOMIC = "mistral:7b", "llava:7b", "nomic-embed-text:v1.5"
CALLS = ("/api/show", "/api/generate", "/api/chat", "/api/embed")


def names(server: Server) -> list[str]:
    answer = ask(server, "/api/tags")
    assert answer.status == 200, answer.body
    return [model["name"] for model in answer.json["models"]]


@pytest.fixture
def mistral() -> Model:
    return build_model(MISTRAL)


# Listing


def test_it_lists_every_model_with_digest_size_and_details_the_newest_first(start: Start, store: Path) -> None:
    models = five_models()
    for number, model in enumerate(models):
        age(put(store, model), 100.0 * number)

    entries = ask(start(store), "/api/tags").json["models"]

    assert [entry["name"] for entry in entries] == [model.name for model in models]
    for entry, model in zip(entries, models, strict=True):
        assert entry["model"] == model.name
        assert f"sha256:{entry['digest']}" == model.digest
        assert entry["size"] == sum(
            part["size"] for part in (json.loads(model.manifest)["config"], *json.loads(model.manifest)["layers"])
        )
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name[LLAVA]["details"]["families"] == ["llama", "clip"]
    assert by_name[LLAVA]["capabilities"] == ["completion", "vision"]
    assert by_name[NOMIC]["capabilities"] == ["embedding"]
    assert by_name[NOMIC]["details"]["context_length"] == 2048


def test_a_model_of_another_registry_is_shown_with_its_host(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral, "hf.co/somebody/mistral-GGUF:Q8_0")
    put(store, mistral, "somebody/mistral:7b")

    assert sorted(names(start(store))) == ["hf.co/somebody/mistral-GGUF:Q8_0", "somebody/mistral:7b"]


def test_a_new_manifest_is_seen_without_a_restart(start: Start, store: Path, mistral: Model) -> None:
    server = start(store)
    assert names(server) == []

    put(store, mistral)

    assert names(server) == [MISTRAL]
    assert ask(server, "/api/show", {"model": MISTRAL}).status == 200


def test_a_replaced_manifest_shows_its_new_digest_without_a_restart(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    server = start(store)
    names(server)
    update = build_model(MISTRAL, seed=2)

    put(store, update)

    assert [f"sha256:{each['digest']}" for each in ask(server, "/api/tags").json["models"]] == [update.digest]


@pytest.mark.parametrize("name", ["7b.tmp", "_7b"])
def test_a_stray_file_beside_a_manifest_is_taken_for_a_model(
    start: Start, store: Path, mistral: Model, name: str
) -> None:
    path = put(store, mistral)
    (path.parent / name).write_bytes(mistral.manifest)

    assert sorted(names(start(store))) == sorted([MISTRAL, f"mistral:{name}"])


def test_a_dotfile_beside_a_manifest_is_passed_over_but_stops_the_pruning(
    start: Start, store: Path, mistral: Model
) -> None:
    path = put(store, mistral)
    (path.parent / ".7b.tmp").write_bytes(mistral.manifest)
    stray = store / "blobs" / f"sha256-{'0' * 64}"
    stray.write_bytes(b"")
    age(stray)

    assert names(start(store)) == [MISTRAL]
    assert stray.exists()


def test_a_model_whose_config_is_gone_is_left_out(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    put(store, build_model("llama3.2:3b"))
    blob_path(store, mistral.config).unlink()

    assert names(start(store)) == ["llama3.2:3b"]


def test_a_file_that_does_not_parse_is_passed_over(start: Start, store: Path, mistral: Model) -> None:
    path = put(store, mistral)
    (path.parent / "broken").write_bytes(mistral.manifest[:100])

    assert names(start(store)) == [MISTRAL]


def test_a_dangling_link_fails_every_call_for_whatever_model(start: Start, store: Path, mistral: Model) -> None:
    path = put(store, mistral)
    server = start(store)
    (path.parent / "gone").symlink_to("nowhere")

    statuses = {call: ask(server, call, {"model": MISTRAL, "keep_alive": 0}).status for call in CALLS}

    assert ask(server, "/api/tags").status == 500
    assert statuses == {"/api/show": 400, "/api/generate": 404, "/api/chat": 400, "/api/embed": 404}
    assert ask(server, "/api/delete", {"model": MISTRAL}, "DELETE").status == 404
    assert path.exists()


# Names


@pytest.mark.parametrize("name", ["Mistral:7B", "LIBRARY/mistral:7b", "Registry.Ollama.AI/library/mistral:7b"])
def test_names_are_looked_up_without_regard_to_case(start: Start, store: Path, mistral: Model, name: str) -> None:
    put(store, mistral)

    assert ask(start(store), "/api/show", {"model": name}).status == 200


def test_a_part_that_differs_in_case_from_another_models_makes_lookups_fail_at_random(
    start: Start, store: Path, mistral: Model
) -> None:
    put(store, mistral, "x:q8_0")
    put(store, mistral, "hf.co/a/b-GGUF:Q8_0")
    server = start(store)

    statuses = [ask(server, "/api/show", {"model": "x:q8_0"}).status for _ in range(60)]

    assert set(statuses) == {200, 404}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_name_is_refused(start: Start, store: Path, call: str) -> None:
    answer = ask(start(store), call, {"model": "no name"})

    assert (answer.status, answer.json) == (400, {"error": "invalid model name"})


@pytest.mark.parametrize(
    ("call", "status", "error"),
    [
        ("/api/show", 404, "model 'nope:latest' not found"),
        ("/api/generate", 404, "model 'nope' not found"),
        ("/api/chat", 404, "model 'nope' not found"),
        ("/api/embed", 404, 'model "nope" not found, try pulling it first'),
    ],
)
def test_a_model_that_is_not_there_is_not_found(start: Start, store: Path, call: str, status: int, error: str) -> None:
    answer = ask(start(store), call, {"model": "nope"})

    assert (answer.status, answer.json) == (status, {"error": error})
    assert answer.kind == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("call", "status", "error"),
    [
        ("/api/show", 400, "model is required"),
        ("/api/generate", 404, "model '' not found"),
        ("/api/chat", 400, "model is required"),
        ("/api/embed", 404, "model '' not found"),
    ],
)
def test_a_call_without_a_model_is_refused(start: Start, store: Path, call: str, status: int, error: str) -> None:
    answer = ask(start(store), call, {"model": ""})

    assert (answer.status, answer.json) == (status, {"error": error})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("body", "error"), [("", "missing request body"), ("{", "unexpected EOF")])
def test_a_body_that_cannot_be_read_is_refused(start: Start, store: Path, call: str, body: str, error: str) -> None:
    answer = ask(start(store), call, body)

    assert (answer.status, answer.json) == (400, {"error": error})


def test_what_else_is_asked_is_answered_as_by_ollama(start: Start, store: Path) -> None:
    server = start(store)

    assert ask(server, "/").body == b"Ollama is running"
    assert list(ask(server, "/api/version").json) == ["version"]
    assert ask(server, "/api/ps").json == {"models": []}
    assert (ask(server, "/nope").status, ask(server, "/nope").body) == (404, b"404 page not found")
    assert (ask(server, "/api/generate").status, ask(server, "/api/tags", "{}").status) == (405, 405)


# Show


def test_show_tells_what_the_manifest_the_config_and_the_weights_say(start: Start, store: Path) -> None:
    put(store, build_model(LLAVA))

    shown = ask(start(store), "/api/show", {"model": LLAVA}).json

    assert shown["capabilities"] == ["completion", "vision"]
    assert shown["details"]["quantization_level"] == "F16"
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 32768
    assert shown["model_info"]["general.parameter_count"] > 100_000
    assert shown["projector_info"]["clip.has_vision_encoder"] is True
    assert shown["template"].startswith("[INST]")
    assert shown["parameters"].splitlines()[0].split() == ["stop", '"[INST]"']
    assert "general.name" not in shown["model_info"]


def test_show_of_an_embedding_model_says_so(start: Start, store: Path) -> None:
    put(store, build_model(NOMIC))

    shown = ask(start(store), "/api/show", {"model": NOMIC}).json

    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"]["nomic-bert.pooling_type"] == 1


@pytest.mark.parametrize("kind", ["weights", "config", "template"])
def test_show_of_a_model_with_a_missing_blob_is_not_found(start: Start, store: Path, mistral: Model, kind: str) -> None:
    put(store, mistral)
    digest = {"weights": mistral.weights, "config": mistral.config, "template": mistral.layers("template")[0]}[kind]
    blob_path(store, digest).unlink()

    assert ask(start(store), "/api/show", {"model": MISTRAL}).status == 404


def test_show_of_weights_that_are_no_gguf_fails(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    blob_path(store, mistral.weights).write_bytes(b"\0" * 4096)

    assert ask(start(store), "/api/show", {"model": MISTRAL}).status == 500


def test_show_of_weights_that_were_cut_short_fails(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    os.truncate(blob_path(store, mistral.weights), mistral.weights_size // 2)

    assert ask(start(store), "/api/show", {"model": MISTRAL}).status == 500


def test_show_does_not_notice_weights_that_hold_other_bytes(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    with blob_path(store, mistral.weights).open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))

    assert ask(start(store), "/api/show", {"model": MISTRAL}).status == 200


def test_what_was_shown_once_is_shown_again_though_the_weights_are_gone(
    start: Start, store: Path, mistral: Model
) -> None:
    put(store, mistral)
    server = start(store)
    ask(server, "/api/show", {"model": MISTRAL})

    blob_path(store, mistral.weights).unlink()

    assert ask(server, "/api/show", {"model": MISTRAL}).status == 200


# Requests that never reach a runner


@pytest.mark.parametrize(("call", "verb"), [("/api/generate", "generate"), ("/api/chat", "chat")])
def test_an_embedding_model_generates_nothing(start: Start, store: Path, call: str, verb: str) -> None:
    put(store, build_model(NOMIC))

    answer = ask(start(store), call, {"model": NOMIC, "prompt": "x"})

    assert (answer.status, answer.json) == (400, {"error": f'"{NOMIC}" does not support {verb}'})


@pytest.mark.parametrize("call", ["/api/generate", "/api/chat"])
def test_unloading_what_is_not_loaded_is_done_at_once(start: Start, store: Path, mistral: Model, call: str) -> None:
    put(store, mistral)

    answer = ask(start(store), call, {"model": MISTRAL, "keep_alive": 0})

    assert (answer.status, answer.json["done"], answer.json["done_reason"]) == (200, True, "unload")


def test_a_keep_alive_that_is_no_duration_is_refused(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)

    assert ask(start(store), "/api/generate", {"model": MISTRAL, "keep_alive": "soon"}).status == 400


def test_weights_that_are_missing_at_the_first_request_are_missed_until_the_restart(
    start: Start, store: Path, mistral: Model
) -> None:
    put(store, mistral)
    weights = blob_path(store, mistral.weights)
    away = weights.rename(store / "away")
    server = start(store)

    first = ask(server, "/api/generate", {"model": MISTRAL, "prompt": "x"})
    away.rename(weights)
    again = ask(server, "/api/generate", {"model": MISTRAL, "prompt": "x"})

    assert (first.status, again.status) == (400, 400)
    assert again.json == {"error": f'"{MISTRAL}" does not support generate'}


def test_weights_that_go_missing_later_fail_the_load_with_404(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    server = start(store)
    ask(server, "/api/generate", {"model": MISTRAL, "keep_alive": 0})
    blob_path(store, mistral.weights).unlink()

    answer = ask(server, "/api/generate", {"model": MISTRAL, "prompt": "x"})

    assert (answer.status, answer.json) == (404, {"error": f'model "{MISTRAL}" not found, try pulling it first'})


def test_weights_that_are_no_gguf_fail_the_load(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    server = start(store)
    ask(server, "/api/generate", {"model": MISTRAL, "keep_alive": 0})
    blob_path(store, mistral.weights).write_bytes(b"\0" * 4096)

    assert ask(server, "/api/generate", {"model": MISTRAL, "prompt": "x"}).status == 500
    assert ask(server, "/api/ps").json == {"models": []}


def test_a_stub_of_a_hosted_model_is_listed_with_its_host_and_not_run_here(start: Start, store: Path) -> None:
    put(store, hosted("big:stub"))
    server = start(store)

    (entry,) = ask(server, "/api/tags").json["models"]
    shown = ask(server, "/api/show", {"model": "big:stub"}).json
    answer = ask(server, "/api/generate", {"model": "big:stub", "prompt": "x"})

    assert (entry["remote_host"], entry["remote_model"]) == ("https://example.invalid:443", "big:1t")
    assert shown["remote_host"] == "https://example.invalid:443"
    assert (answer.status, answer.json) == (400, {"error": "this server cannot run this remote model"})


# Start


def test_at_start_it_deletes_unreferenced_blobs_older_than_an_hour(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    for path in (store / "blobs").iterdir():
        age(path)
    orphan, young = (store / "blobs" / f"sha256-{digit * 64}" for digit in "01")
    partial = store / "blobs" / f"sha256-{'2' * 64}-partial"
    for path in (orphan, young, partial):
        path.write_bytes(b"x")
    age(orphan)
    age(partial)

    server = start(store)

    assert (orphan.exists(), young.exists(), partial.exists()) == (False, True, False)
    assert ask(server, "/api/show", {"model": MISTRAL}).status == 200


def test_with_noprune_it_deletes_nothing(start: Start, store: Path) -> None:
    orphan = store / "blobs" / f"sha256-{'0' * 64}"
    orphan.write_bytes(b"x")
    age(orphan)
    empty = store / "manifests/registry.ollama.ai/library/empty"
    empty.mkdir(parents=True)

    start(store, prune=False)

    assert orphan.exists()
    assert empty.exists()


def test_with_a_corrupt_manifest_it_prunes_nothing(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral).write_bytes(b"")

    for path in (store / "blobs").iterdir():
        age(path)
    start(store)

    assert len(list((store / "blobs").iterdir())) == len(mistral.blobs)


def test_at_start_it_removes_empty_folders(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    empty = store / "manifests/registry.ollama.ai/library/empty"
    empty.mkdir()

    start(store)

    assert not empty.exists()


def test_at_start_it_renames_blobs_with_a_colon_in_subfolders_too(start: Start, store: Path, mistral: Model) -> None:
    put(store, mistral)
    weights = blob_path(store, mistral.weights)
    weights.rename(weights.with_name(mistral.weights))
    below = store / "blobs/below"
    below.mkdir()
    (below / "sha256:x").write_bytes(b"")

    server = start(store)

    assert ask(server, "/api/show", {"model": MISTRAL}).status == 200
    assert [path.name for path in below.iterdir()] == ["sha256-x"]


# Delete


@pytest.mark.parametrize("prune", [True, False])
def test_delete_takes_the_blobs_that_no_other_model_names(
    start: Start, store: Path, mistral: Model, *, prune: bool
) -> None:
    path = put(store, mistral)
    codellama = build_model("codellama:7b")
    put(store, codellama)
    server = start(store, prune=prune)

    answer = ask(server, "/api/delete", {"model": MISTRAL}, "DELETE")

    assert (answer.status, answer.body) == (200, b"")
    assert not path.parent.exists()
    assert {each.name.replace("-", ":") for each in (store / "blobs").iterdir()} == set(codellama.blobs)


def test_delete_of_a_model_that_is_not_there_is_not_found(start: Start, store: Path) -> None:
    answer = ask(start(store), "/api/delete", {"model": "nope"}, "DELETE")

    assert (answer.status, answer.json) == (404, {"error": "model 'nope' not found"})


# Its own pull


def pulled(registry: ScriptedRegistry, model: Model) -> dict[str, Any]:
    """The body of a pull. By another host name than the CDN's: Ollama wants to be redirected to another host."""
    repository, _, tag = model.name.partition(":")
    name = f"localhost:{registry.host.rpartition(':')[2]}/library/{repository}:{tag}"
    return {"model": name, "insecure": True}


def test_its_own_pull_stores_the_manifest_verbatim(
    start: Start, store: Path, mistral: Model, ollama_registry: ScriptedRegistry
) -> None:
    ollama_registry.add(mistral)
    server = start(store)

    answer = ask(server, "/api/pull", pulled(ollama_registry, mistral))

    assert answer.kind == "application/x-ndjson"
    assert answer.lines[0] == {"status": "pulling manifest"}
    assert [line["status"] for line in answer.lines[-3:]] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    path = manifest_path(store, pulled(ollama_registry, mistral)["model"])
    assert path.read_bytes() == mistral.manifest
    assert {each.name.replace("-", ":") for each in (store / "blobs").iterdir()} == set(mistral.blobs)


def test_its_own_pull_trusts_a_blob_that_exists(
    start: Start, store: Path, mistral: Model, ollama_registry: ScriptedRegistry
) -> None:
    ollama_registry.add(mistral)
    blob_path(store, mistral.weights).write_bytes(b"not it")

    answer = ask(start(store), "/api/pull", pulled(ollama_registry, mistral))

    assert answer.lines[-1] == {"status": "success"}
    assert blob_path(store, mistral.weights).read_bytes() == b"not it"


def test_its_own_pull_of_wrong_bytes_fails_and_removes_them(
    start: Start, store: Path, mistral: Model, ollama_registry: ScriptedRegistry
) -> None:
    ollama_registry.add(mistral)
    ollama_registry.flip(1000, digest=mistral.weights)

    answer = ask(start(store), "/api/pull", pulled(ollama_registry, mistral))

    assert "digest mismatch" in answer.lines[-1]["error"]
    assert not blob_path(store, mistral.weights).exists()


@pytest.mark.parametrize("prune", [True, False])
def test_its_own_pull_of_an_update_deletes_what_it_replaced_unless_noprune(
    start: Start, store: Path, mistral: Model, ollama_registry: ScriptedRegistry, *, prune: bool
) -> None:
    update = build_model(MISTRAL, seed=2)
    server = start(store, prune=prune)
    for version in (mistral, update):
        ollama_registry.add(version)
        assert ask(server, "/api/pull", pulled(ollama_registry, mistral)).lines[-1] == {"status": "success"}

    assert blob_path(store, mistral.weights).exists() is not prune
    assert blob_path(store, update.weights).exists()


def test_its_own_pull_of_what_is_not_there_fails(
    start: Start, store: Path, mistral: Model, ollama_registry: ScriptedRegistry
) -> None:
    answer = ask(start(store), "/api/pull", pulled(ollama_registry, mistral))

    assert answer.lines[-1] == {"error": "pull model manifest: file does not exist"}


def test_without_a_stream_a_pull_answers_once(
    start: Start, store: Path, mistral: Model, ollama_registry: ScriptedRegistry
) -> None:
    ollama_registry.add(mistral)

    answer = ask(start(store), "/api/pull", {**pulled(ollama_registry, mistral), "stream": False})

    assert (answer.status, answer.json) == (200, {"status": "success"})


# A folder that others write


def test_blobs_that_a_pull_wrote_are_for_everybody_to_read(
    start: Start, store: Path, mistral: Model, ollama_registry: ScriptedRegistry
) -> None:
    ollama_registry.add(mistral)

    ask(start(store), "/api/pull", pulled(ollama_registry, mistral))

    assert stat.S_IMODE(blob_path(store, mistral.weights).stat().st_mode) == 0o644
