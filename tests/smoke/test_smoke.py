"""``syncd smoke`` as a process, against stand-ins for Ollama that are told how often to fail."""

import signal
from itertools import pairwise
from pathlib import Path

import pytest

from tests.smoke.world import PATIENCE, Smoker, ended, place
from tests.support.models import build_model, model_from
from tests.support.standin import StandIn

MISTRAL, NOMIC = "mistral:7b", "nomic-embed-text:v1.5"
TEXT, EMBED = ("/api/chat", "/api/generate"), "/api/embed"


def name(server: StandIn) -> str:
    return f"127.0.0.1:{server.port}"


def asked(server: StandIn, *paths: str) -> int:
    return sum(len(server.requests(path)) for path in paths)


def test_servers_that_answer_everything_leave_exit_code_0(smoke: Smoker, server: StandIn, other: StandIn) -> None:
    done = smoke("--instance", server.url, "--instance", other.url, "--rps", "40", "--duration", "1s")

    assert done.code == 0, done.errors
    report = done.report
    assert (report["requests"], report["sent"], report["succeeded"]) == (40, 40, 40)
    for one in (server, other):
        assert asked(one, "/api/chat") == asked(one, "/api/generate") == 5
        assert asked(one, EMBED) == 10
        assert done.target(name(one), NOMIC)["ways"] == ["embed"]
        assert done.target(name(one), MISTRAL)["ways"] == ["chat", "generate"]


def test_every_failure_is_counted_once_with_its_reason(smoke: Smoker, server: StandIn, other: StandIn) -> None:
    server.not_found(MISTRAL, *TEXT, times=7)
    server.answer(500, EMBED, model=NOMIC, times=5)
    other.hang("/api/generate", model=MISTRAL, times=3)
    other.empty_answers(model=NOMIC, times=4)
    other.drop("/api/chat", model=MISTRAL, times=2)

    done = smoke(
        *("--instance", server.url, "--instance", other.url),
        *("--rps", "60", "--duration", "1.5s", "--timeout", "3s"),
    )

    assert done.code == 9
    assert done.failures(name(server), MISTRAL) == {("not_found", 404): 7}
    assert done.failures(name(server), NOMIC) == {("status", 500): 5}
    assert done.failures(name(other), MISTRAL) == {("timeout", None): 3, ("protocol", None): 2}
    assert done.failures(name(other), NOMIC) == {("empty", None): 4}
    report = done.report
    assert (report["requests"], report["failed"], report["succeeded"]) == (90, 21, 69)
    assert report["not_sent"] == report["unfinished"] == 0
    # What a server saw is what was sent: nothing was tried a second time.
    assert asked(server, *TEXT, EMBED) + asked(other, *TEXT, EMBED) == 90
    assert report["since_sent"]["max"] >= 3.0
    assert "21 of 90 requests failed" in done.errors
    assert done.events[-1]["exit_code"] == 9


def test_a_server_that_is_down_is_asked_for_what_the_others_list(
    smoke: Smoker, server: StandIn, other: StandIn
) -> None:
    other.stop()

    done = smoke("--instance", server.url, "--instance", other.url, "--rps", "40", "--duration", "1s")

    assert done.code == 9
    for model in (MISTRAL, NOMIC):
        assert done.failures(name(other), model) == {("refused", None): 10}
        assert done.failures(name(server), model) == {}
    assert [(one["instance"], one["reason"]) for one in done.report["unanswered"]] == [(name(other), "refused")]


def test_a_server_that_dies_on_the_way_refuses_from_then_on(smoke: Smoker, server: StandIn) -> None:
    server.die_at(EMBED)

    done = smoke("--instance", server.url, "--rps", "40", "--duration", "1s")

    assert done.code == 9
    target = done.target(name(server), NOMIC)
    assert target["failed"] == target["sent"] == 20
    assert done.failures(name(server), NOMIC)[("refused", None)] >= 18
    assert done.target(name(server), MISTRAL)["succeeded"] >= 1


def test_where_no_server_answers_there_is_nothing_to_ask(smoke: Smoker, server: StandIn) -> None:
    server.stop()

    done = smoke("--instance", server.url, "--duration", "1s")

    assert done.code == 9
    assert "cannot connect" in done.errors


def test_a_slow_server_does_not_lower_the_rate(smoke: Smoker, server: StandIn) -> None:
    server.slow(0.8, *TEXT)

    done = smoke(
        "--instance", server.url, *("--model", MISTRAL), *("--rps", "50", "--duration", "1s"), "--concurrency=50"
    )

    assert done.code == 0, done.errors
    began = sorted(one.began for path in TEXT for one in server.requests(path))
    assert len(began) == 50
    assert began[-1] - began[0] < 20  # waiting for each answer, one after another, takes 40 s
    assert done.report["since_due"]["p50"] >= 0.8


def test_what_could_not_be_sent_is_counted_and_fails_the_run(smoke: Smoker, server: StandIn, other: StandIn) -> None:
    server.hang(*TEXT, EMBED)

    done = smoke(
        *("--instance", server.url, "--instance", other.url),
        *("--rps", "40", "--duration", "1s", "--concurrency", "4", "--timeout", "4s"),
    )

    assert done.code == 9
    of_server = [one for one in done.report["targets"] if one["instance"] == name(server)]
    of_other = [one for one in done.report["targets"] if one["instance"] == name(other)]
    assert sum(one["sent"] for one in of_server) == asked(server, *TEXT, EMBED) == 4
    assert sum(one["not_sent"] for one in of_server) == 16
    assert sum(one["not_sent"] + one["failed"] for one in of_other) == 0
    assert "16 of 40 could not be sent" in done.errors


def test_only_the_models_that_are_named_are_asked(smoke: Smoker, server: StandIn) -> None:
    done = smoke("--instance", server.url, "--model", "nomic-embed-text:v1.5", "--rps", "20", "--duration", "500ms")

    assert done.code == 0, done.errors
    assert asked(server, *TEXT) == 0
    assert asked(server, EMBED) == 10


def test_a_model_that_a_server_does_not_have_fails_there(smoke: Smoker, server: StandIn, tmp_path: Path) -> None:
    store = place(tmp_path / "models", [build_model(NOMIC, 64 * 1024)])
    with StandIn(store, prune=False) as poor:
        done = smoke(
            *("--instance", server.url, "--instance", poor.url),
            *("--model", MISTRAL, "--rps", "20", "--duration", "1s"),
        )

    assert done.code == 9
    assert done.failures(name(poor), MISTRAL) == {("not_found", 404): 10}
    assert done.failures(name(server), MISTRAL) == {}


def test_stubs_of_hosted_models_are_not_asked(smoke: Smoker, tmp_path: Path) -> None:
    stub = model_from(
        "gpt-oss:120b-cloud",
        [("license", b"none")],
        {"remote_host": "https://ollama.example", "remote_model": "gpt-oss:120b", "capabilities": ["completion"]},
    )
    store = place(tmp_path / "models", [stub, build_model(NOMIC, 64 * 1024)])
    with StandIn(store, prune=False) as server:
        done = smoke("--instance", server.url, "--rps", "20", "--duration", "500ms")
        named = smoke("--instance", server.url, "--model", "gpt-oss:120b-cloud", "--duration", "500ms")
        requests = server.requests()

    assert done.code == 0, done.errors
    assert [one["model"] for one in done.report["targets"]] == [NOMIC]
    assert "gpt-oss:120b-cloud" in done.report["left_out"][0]
    assert named.code == 3
    assert {one.path for one in requests if one.model == "gpt-oss:120b-cloud"} == set()


def test_smoking_leaves_keep_alive_and_load_options_alone(smoke: Smoker, server: StandIn) -> None:
    smoke("--instance", server.url, "--rps", "40", "--duration", "500ms")

    bodies = [one.body for path in (*TEXT, EMBED) for one in server.requests(path)]
    assert len(bodies) == 20
    assert not any("keep_alive" in body or "num_ctx" in body.get("options", {}) for body in bodies)
    assert len(server.loads) == 2


# Which servers


def test_the_servers_are_those_of_the_settings(smoke: Smoker, server: StandIn, other: StandIn, tmp_path: Path) -> None:
    settings = tmp_path / "syncd.toml"
    settings.write_text(
        f'[[instances]]\nname = "gpu-1"\nurl = "{server.url}"\n[[instances]]\nname = "gpu-2"\nurl = "{other.url}"\n'
    )
    common = ("--config", str(settings), "--rps", "20", "--duration", "500ms")

    every, one, by_url = smoke(*common), smoke(*common, "--instance", "gpu-2"), smoke(*common, "--instance", other.url)
    unknown = smoke(*common, "--instance", "gpu-3")

    assert {target["instance"] for target in every.report["targets"]} == {"gpu-1", "gpu-2"}
    assert {target["instance"] for target in one.report["targets"]} == {"gpu-2"}
    assert {target["instance"] for target in by_url.report["targets"]} == {"gpu-2"}
    assert unknown.code == 2
    assert "gpu-1, gpu-2" in unknown.errors


def test_without_servers_it_says_how_to_name_one(smoke: Smoker) -> None:
    done = smoke("--duration", "1s")

    assert done.code == 10
    assert "--instance http://" in done.errors


def test_a_url_does_without_usable_settings(smoke: Smoker, server: StandIn, tmp_path: Path) -> None:
    settings = tmp_path / "syncd.toml"
    settings.write_text("no = such key\n")
    common = ("--config", str(settings), "--rps", "20", "--duration", "500ms")

    assert smoke(*common, "--instance", server.url).code == 0
    assert smoke(*common).code == 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("--instance", "ftp://127.0.0.1"),
        ("--instance", "http://user:secret@127.0.0.1"),
        ("--duration", "soon"),
        ("--rps", "0"),
        ("--rps", "nan"),
        ("--concurrency", "0"),
        ("--instance", "nobody"),
        ("--timeout", "0s"),
        ("--model", "../mistral"),
    ],
)
def test_what_cannot_be_meant_is_refused(smoke: Smoker, arguments: tuple[str, ...]) -> None:
    done = smoke(*arguments)

    assert done.code == 2
    assert "secret" not in done.errors


def test_more_connections_than_files_may_be_open_are_refused(smoke: Smoker, server: StandIn) -> None:
    done = smoke("--instance", server.url, "--concurrency", "500", open_files=200)

    assert done.code == 2
    assert "ulimit" in done.errors
    assert server.requests() == []


# How it looks


def test_people_get_lines_on_the_way_and_a_table_at_the_end(smoke: Smoker, server: StandIn) -> None:
    server.not_found(MISTRAL, "/api/chat", times=2)

    code, out, err = smoke.text("--instance", server.url, "--rps", "10", "--duration", "5.5s")

    assert code == 9
    assert "of 55 requests sent" in err
    assert err.endswith("error: 2 of 55 requests failed\n")
    for words in ("GOOD", "P99", "not_found", "404", MISTRAL, NOMIC):
        assert words in out


def test_programs_get_a_line_about_once_a_second(smoke: Smoker, server: StandIn) -> None:
    done = smoke("--instance", server.url, "--rps", "20", "--duration", "2.5s")

    moments = [event for event in done.events if event["event"] == "progress"]
    assert 2 <= len(moments) <= 3
    assert all(first["sent"] < second["sent"] for first, second in pairwise(moments))
    assert moments[0]["sent"] == moments[0]["succeeded"] + moments[0]["failed"] + moments[0]["unfinished"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_it_gets_what_has_been_so_far(smoke: Smoker, server: StandIn, number: signal.Signals) -> None:
    server.hang(EMBED)
    with smoke.start("--instance", server.url, "--rps", "20", "--duration", "1h", "--json") as process:
        server.wait_for_requests(6, EMBED)
        process.send_signal(number)
        done = ended(process)

    assert done.code == 128 + number
    assert done.report["interrupted"] is True
    assert done.report["seconds"] < PATIENCE
    assert done.target(name(server), MISTRAL)["succeeded"] >= 2
    assert done.target(name(server), NOMIC)["unfinished"] >= 6
    assert done.events[-1]["exit_code"] == 128 + number


def test_who_stops_reading_ends_it(smoke: Smoker, server: StandIn) -> None:
    with smoke.start("--instance", server.url, "--duration", "1h", "--json") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE


def test_a_terminal_shows_one_table_in_its_place(smoke: Smoker, server: StandIn) -> None:
    shown = smoke.on_a_terminal("--instance", server.url, "--rps", "20", "--duration", "1.5s")

    assert "\x1b[?25l" in shown
    assert shown.rindex("\x1b[?25h") > shown.index("\x1b[?25l")  # the cursor is back
    assert shown.rindex("P99") > shown.rindex("\x1b[?25h")  # and the last table stays
