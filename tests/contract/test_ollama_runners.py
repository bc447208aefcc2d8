"""Runners: when a server loads, keeps, reloads and unloads (Ollama's ``server/sched.go``).

Held against a real server as well, whose inference engine is replaced by one that only reads the weights.
"""

import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import Model, build_model, model_from
from tests.support.ollama_servers import Answer, Server, Start, ask
from tests.support.ollama_store import blob_path, put
from tests.support.standin import StandIn

MISTRAL, LLAMA, LLAVA, NOMIC = "mistral:7b", "llama3.2:3b", "llava:7b", "nomic-embed-text:v1.5"
SECOND = timedelta(seconds=1)


@pytest.fixture
def mistral(store: Path) -> Model:
    """mistral:7b, in the store."""
    model = build_model(MISTRAL)
    put(store, model)
    return model


@pytest.fixture
def server(start: Start, store: Path) -> Server:
    """A server of either kind."""
    return start(store)


@pytest.fixture
def standin(store: Path) -> Iterator[StandIn]:
    with StandIn(store) as running:
        yield running


def generate(server: Server | str, prompt: str = "x", model: str = MISTRAL, **fields: Any) -> Answer:
    return ask(server, "/api/generate", {"model": model, "prompt": prompt, "stream": False, **fields})


def text_of(weights: str) -> str:
    """What the stand-in answers from these weights."""
    return weights.removeprefix("sha256:")


def loaded(server: Server) -> list[Any]:
    models: list[Any] = ask(server, "/api/ps").json["models"]
    return models


def left(server: Server) -> timedelta:
    """How long the one loaded model will stay."""
    (model,) = loaded(server)
    # Python knows microseconds only, and years up to 9999.
    return datetime.fromisoformat(model["expires_at"]) - datetime.now(UTC)


def until_unloaded(server: Server) -> None:
    """An unload follows the answer; a real server tells nobody of it."""
    deadline = time.monotonic() + 10
    while loaded(server):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Loading


def test_a_prompt_loads_the_model_and_tokens_come(server: Server, mistral: Model) -> None:
    answer = generate(server)

    assert (answer.status, answer.json["response"]) == (200, text_of(mistral.weights))
    (model,) = loaded(server)
    assert (model["name"], f"sha256:{model['digest']}") == (MISTRAL, mistral.digest)
    assert model["context_length"] == 4096


def test_no_prompt_loads_the_model_and_says_so(server: Server, mistral: Model) -> None:
    answer = generate(server, prompt="")

    assert (answer.json["done_reason"], answer.json["response"]) == ("load", "")
    assert [f"sha256:{model['digest']}" for model in loaded(server)] == [mistral.digest]


def test_one_token_is_all_that_is_made_if_no_more_is_asked_for(server: Server, mistral: Model) -> None:
    answer = generate(server, options={"num_predict": 1}).json

    assert (answer["response"], answer["done_reason"]) == (text_of(mistral.weights)[:8], "length")
    assert answer["eval_count"] == 1


def test_a_stream_brings_the_same_tokens_line_by_line(server: Server, mistral: Model) -> None:
    answer = ask(server, "/api/generate", {"model": MISTRAL, "prompt": "x"})

    assert answer.kind == "application/x-ndjson"
    assert "".join(line["response"] for line in answer.lines) == text_of(mistral.weights)
    assert [line["done"] for line in answer.lines] == [False] * 8 + [True]


@pytest.mark.parametrize("stream", [True, False])
def test_chat_answers_with_a_message(server: Server, mistral: Model, *, stream: bool) -> None:
    body = {"model": MISTRAL, "messages": [{"role": "user", "content": "x"}], "stream": stream}

    lines = ask(server, "/api/chat", body).lines

    assert "".join(line["message"]["content"] for line in lines) == text_of(mistral.weights)
    assert lines[-1]["done"]


@pytest.mark.parametrize(("given", "count"), [("x", 1), (["x", "yy"], 2), ("", 0), (None, 0)])
def test_embed_answers_with_a_vector_per_text(server: Server, store: Path, given: Any, count: int) -> None:
    put(store, build_model(NOMIC))

    answer = ask(server, "/api/embed", {"model": NOMIC, "input": given})

    assert len(answer.json["embeddings"]) == count
    assert [model["name"] for model in loaded(server)] == [NOMIC]


def test_embed_refuses_what_is_no_text(server: Server, store: Path) -> None:
    put(store, build_model(NOMIC))

    assert ask(server, "/api/embed", {"model": NOMIC, "input": [1]}).status == 400


def test_two_requests_at_once_load_once(store: Path, mistral: Model) -> None:
    with StandIn(store, slow_load=0.1) as server:
        threads = [threading.Thread(target=generate, args=(server,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [load.weights for load in server.loads] == [blob_path(store, mistral.weights).name]


def test_weights_with_other_bytes_fail_the_stand_ins_load(standin: StandIn, store: Path, mistral: Model) -> None:
    with blob_path(store, mistral.weights).open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))

    answer = generate(standin)

    assert answer.status == 500
    assert "error loading model" in answer.json["error"]
    assert loaded(standin) == []


# Staying


@pytest.mark.parametrize(("keep_alive", "seconds"), [(None, 300), ("10m", 600), (20, 20), ("1h30m", 5400), (1.5, 1.5)])
@pytest.mark.usefixtures("mistral")
def test_a_model_stays_for_its_keep_alive(server: Server, keep_alive: Any, seconds: float) -> None:
    generate(server, **({} if keep_alive is None else {"keep_alive": keep_alive}))

    assert abs(left(server) - timedelta(seconds=seconds)) < 5 * SECOND


@pytest.mark.usefixtures("mistral")
@pytest.mark.parametrize("keep_alive", [-1, "-1m"])
def test_a_negative_keep_alive_is_for_ever(server: Server, keep_alive: Any) -> None:
    generate(server, keep_alive=keep_alive)

    assert left(server) > timedelta(days=365 * 250)


@pytest.mark.usefixtures("mistral")
def test_a_request_without_keep_alive_leaves_what_another_set(server: Server) -> None:
    generate(server, keep_alive="2h")

    generate(server)

    assert abs(left(server) - timedelta(hours=2)) < 5 * SECOND


@pytest.mark.usefixtures("mistral")
def test_a_request_with_keep_alive_replaces_what_another_set(server: Server) -> None:
    generate(server, keep_alive=-1)

    generate(server, keep_alive="1m")

    assert left(server) < timedelta(minutes=1)


@pytest.mark.usefixtures("mistral")
def test_a_model_goes_when_its_time_is_up(server: Server) -> None:
    generate(server, keep_alive=0.05)

    until_unloaded(server)


@pytest.mark.usefixtures("mistral")
def test_a_prompt_with_keep_alive_0_unloads_when_it_is_answered(server: Server) -> None:
    assert generate(server, keep_alive=0).json["response"]
    until_unloaded(server)


@pytest.mark.usefixtures("mistral")
@pytest.mark.parametrize("call", ["/api/generate", "/api/chat"])
def test_keep_alive_0_without_a_prompt_unloads(server: Server, call: str) -> None:
    generate(server, keep_alive=-1)

    answer = ask(server, call, {"model": MISTRAL, "keep_alive": 0})

    assert answer.json["done_reason"] == "unload"
    until_unloaded(server)


def test_a_request_in_flight_ends_undisturbed_by_an_unload(store: Path, mistral: Model) -> None:
    answers: list[Answer] = []
    with StandIn(store, token_seconds=0.05) as server:
        flying = threading.Thread(target=lambda: answers.append(generate(server)))
        flying.start()
        server.wait_until(lambda: bool(server.loads))

        ask(server, "/api/generate", {"model": MISTRAL, "keep_alive": 0})
        flying.join()

        assert answers[0].json["response"] == text_of(mistral.weights)
        server.wait_until(lambda: bool(server.unloads))


@pytest.mark.usefixtures("mistral")
def test_where_only_one_fits_the_next_evicts_it(store: Path) -> None:
    put(store, build_model(LLAMA))
    with StandIn(store, max_loaded=1) as server:
        generate(server, keep_alive=-1)

        generate(server, model=LLAMA)

        assert [model["name"] for model in loaded(server)] == [LLAMA]


# Reloading


@pytest.mark.usefixtures("mistral")
def test_another_context_length_reloads(server: Server) -> None:
    generate(server, options={"num_ctx": 8192})

    generate(server)

    assert server.contexts == [8192, 4096]
    assert [model["context_length"] for model in loaded(server)] == [4096]


@pytest.mark.usefixtures("mistral")
@pytest.mark.parametrize("options", [{"num_ctx": 8192}, {}])
def test_the_context_length_that_ps_shows_reloads_nothing(server: Server, options: dict[str, int]) -> None:
    generate(server, options=options)
    (model,) = loaded(server)

    generate(server, options={"num_ctx": model["context_length"]})

    assert len(server.contexts) == 1


def test_a_context_length_is_bounded_by_what_the_model_was_trained_for(server: Server, store: Path) -> None:
    put(store, build_model(NOMIC))  # it asks for 8192 itself, and was trained for 2048

    ask(server, "/api/embed", {"model": NOMIC, "input": "x"})
    ask(server, "/api/embed", {"model": NOMIC, "input": "x", "options": {"num_ctx": 4096}})

    assert server.contexts == [2048]


def test_a_model_that_sees_gets_at_least_2048(server: Server, store: Path) -> None:
    put(store, build_model(LLAVA))

    generate(server, model=LLAVA, options={"num_ctx": 512})

    assert server.contexts == [2048]


@pytest.mark.usefixtures("mistral")
def test_options_of_sampling_reload_nothing(server: Server) -> None:
    generate(server)

    generate(server, options={"temperature": 0, "num_predict": 1})

    assert len(server.contexts) == 1


# Changes under it


def test_changed_weights_load_beside_the_old_ones(server: Server, store: Path, mistral: Model) -> None:
    generate(server, keep_alive=-1)
    update = build_model(MISTRAL, seed=2)
    put(store, update)

    answer = generate(server)

    assert answer.json["response"] == text_of(update.weights)
    assert [f"sha256:{model['digest']}" for model in loaded(server)] == [mistral.digest, update.digest]
    assert {model["name"] for model in loaded(server)} == {MISTRAL}


def test_unloading_by_name_after_an_update_leaves_the_old_weights(server: Server, store: Path, mistral: Model) -> None:
    generate(server, keep_alive=-1)
    put(store, build_model(MISTRAL, seed=2))

    answer = generate(server, prompt="", keep_alive=0)

    assert answer.json["done_reason"] == "unload"
    assert [f"sha256:{model['digest']}" for model in loaded(server)] == [mistral.digest]


def test_after_a_change_of_the_template_the_runner_stays_under_its_old_digest(
    server: Server, store: Path, mistral: Model
) -> None:
    generate(server)
    update = model_from(MISTRAL, [("model", mistral.blobs[mistral.weights]), ("template", b"{{ .Prompt }}")])
    put(store, update)

    generate(server)

    assert update.digest != mistral.digest
    assert len(server.contexts) == 1
    assert [f"sha256:{model['digest']}" for model in loaded(server)] == [mistral.digest]


def test_a_loaded_model_answers_from_the_bytes_it_loaded(server: Server, store: Path, mistral: Model) -> None:
    generate(server)
    path = blob_path(store, mistral.weights)
    path.unlink()
    path.write_bytes(b"corrupt")

    assert generate(server).json["response"] == text_of(mistral.weights)
    generate(server, prompt="", keep_alive=0)
    until_unloaded(server)
    assert generate(server).status == 500


@pytest.mark.usefixtures("mistral")
def test_a_restart_forgets_what_was_loaded(server: Server) -> None:
    generate(server, keep_alive=-1)
    url = server.url

    server.restart()

    assert (server.url, loaded(server)) == (url, [])
