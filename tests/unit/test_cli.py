"""The command as a process of its own: exit codes, what goes to which stream, signals."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncd import __version__
from syncd.cli.failure import expected
from syncd.errors import NotFoundError
from tests.support import commands
from tests.support.models import MIB, build_model, model_from, synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry

COMMANDS = ("init", "pull", "list", "show", "rm", "verify", "gc", "status", "cancel", "reload", "smoke")


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
    own = {"SYNCD_STORE": str(home / "models"), "SYNCD_SOCKET": str(home / "syncd.sock")}
    return {**kept, "HOME": str(home), **own, **more}


class Cli:
    """Runs syncd in a home folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = home / "models"

    def __call__(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return commands.completed(*arguments, environ=environment(self.home, **environ), cwd=self.home)

    def interpreted(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """In an interpreter of its own, as whoever types it has it."""
        return commands.interpreted(*arguments, environ=environment(self.home), cwd=self.home)

    def start(self, *arguments: str) -> commands.Process:
        return commands.Process.start(*arguments, environ=environment(self.home), cwd=self.home)

    def start_interpreted(self, *python: str, **more: Any) -> subprocess.Popen[str]:
        """Python with these arguments."""
        return subprocess.Popen(
            [sys.executable, *python],
            env=environment(self.home, PYTHONPATH=str(commands.ROOT)),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# Its face.


def processor_seconds() -> float:
    """What the processes that this one has waited for have used: unlike the clock, it does not see other load."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_version_is_there_at_once(cli: Cli) -> None:
    before = processor_seconds()
    done = cli.interpreted("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"syncd {__version__}\n", "")
    assert processor_seconds() - before < 0.4


def test_the_version_costs_none_of_the_large_imports(cli: Cli) -> None:
    code = "import sys, syncd.cli.main as main; main.run(['--version']); print(*sys.modules)"
    with cli.start_interpreted("-c", code) as process:
        imported, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert "click" in imported.split()
    assert not {"aiohttp", "asyncio", "cryptography", "msgspec", "rich", "structlog"} & set(imported.split())


def test_ctrl_c_while_it_starts_ends_it_without_a_traceback(cli: Cli) -> None:
    (cli.home / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = cli.interpreted("--version")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    done = cli.interpreted(command, "--help")  # which imports all that the command needs
    assert done.returncode == 0
    assert f"  syncd {command}" in done.stdout.partition("Example")[2].replace("sudo ", "")
    assert "--json" in done.stdout


def test_the_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    shown = cli("--help").stdout
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    assert "8 busy" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nosuch"],
        ["pull"],
        ["rm"],
        ["show"],
        ["list", "--nosuch"],
        ["pull", "x", "--connections", "65"],
        ["pull", "x", "--max-rate", "5 Mb/s"],
        ["pull", "bad name"],
        ["pull", "x@sha256:../../etc"],
        ["show", "../x"],
        ["rm", "a:b:c:d/\n"],
        ["verify", "-x"],
    ],
)
def test_what_cannot_be_meant_is_exit_code_2_and_touches_nothing(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "\nhint: " in done.stderr
    assert not cli.store.exists()


def test_what_the_user_typed_is_escaped(cli: Cli) -> None:
    for arguments in (
        ["\x1b[31m"],
        ["pull", "a\x1b]0;x\x07b"],
        ["list", "--\x1b[2J"],
        ["--store", "/no\x1b[2J", "list"],
    ):
        done = cli(*arguments)
        assert done.returncode != 0
        assert "\x1b" not in done.stderr + done.stdout
        assert "\\x1b" in done.stderr


def test_an_error_with_json_is_an_event_too(cli: Cli) -> None:
    done = cli("show", "mistral:7b", "--json")
    (event,) = objects(done.stdout)
    assert done.returncode == 3
    assert event["event"] == "error"
    assert event["exit_code"] == 3
    assert done.stderr == f"error: {event['message']}\nhint: {event['hint']}\n"


def test_an_unexpected_error_is_one_line_and_a_way_to_more(capsys: pytest.CaptureFixture[str]) -> None:
    brief = expected(ZeroDivisionError("division by zero"), verbose=False)
    full = expected(ZeroDivisionError("division by zero"), verbose=True)

    assert brief.message == "unexpected ZeroDivisionError: division by zero"
    assert "-v" in str(brief.hint)
    assert full.hint is None
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err
    assert expected(NotFoundError("x"), verbose=False).exit_code == 3


def test_settings_that_cannot_be_used_are_exit_code_10_with_their_line(cli: Cli) -> None:
    settings = cli.home / "mine.toml"
    settings.write_text("\n[download]\nconections = 4\n")

    for done in (
        cli("--config", str(settings), "list"),
        cli("list", "--config", str(settings)),
        cli("list", SYNCD_CONFIG=str(settings)),
    ):
        assert done.returncode == 10
        assert f"error: {settings}:3: unknown key 'conections' in [download]\n" in done.stderr
        assert "hint: did you mean 'connections'?\n" in done.stderr


def test_a_settings_file_that_is_missing_is_exit_code_10(cli: Cli) -> None:
    assert cli("list", "--config", "/no/such.toml").returncode == 10


def test_a_store_option_counts_before_and_after_the_command(cli: Cli) -> None:
    one, other = cli.home / "one", cli.home / "other"
    assert cli("--store", str(one), "init").stderr == f"store: {one} (--store)\n"
    assert cli("init", "--store", str(other)).stderr == f"store: {other} (--store)\n"
    assert cli("--store", str(one), "init", "--store", str(other)).stderr == f"store: {other} (--store)\n"
    assert (one / ".syncd").is_dir()


def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    cli("init")
    with cli.start_interpreted(*commands.INTERPRETED[1:], "list") as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""
        assert process.wait(30) == 128 + signal.SIGPIPE


# What it does.


def test_a_store_is_made_listed_and_empty(cli: Cli) -> None:
    assert cli("list").returncode == 3
    assert objects(cli("init", "--json").stdout) == [{"event": "initialised", "store": str(cli.store)}]
    assert cli("list").stdout == "NAME    DIGEST    SIZE    MODIFIED\n"
    assert objects(cli("list", "--json").stdout) == [{"store": str(cli.store), "models": [], "broken": []}]


def test_a_pull_says_what_it_did_and_the_next_one_that_it_is_current(cli: Cli, registry: ScriptedRegistry) -> None:
    handle = registry.add(build_model("mistral:7b"))
    name = f"{registry.host}/library/mistral:7b"

    first, second = cli("pull", name), cli("pull", name)

    assert first.returncode == second.returncode == 0
    assert first.stdout.startswith(f"{name}: fetched 1.1 MB for 5 of 5 blobs, ")
    assert first.stdout.endswith(f", published {handle.digest}\n")
    assert first.stderr.splitlines() == [
        f"store: {cli.store} (SYNCD_STORE)",
        f"{name}: asking for the manifest",
        f"{name}: fetching 1.1 MB",
        f"{name}: publishing",
    ]
    assert second.stdout.startswith(f"{name} is current ({handle.digest}), checked in ")
    assert assert_store_whole(cli.store) == {name: str(handle.digest)}


def test_a_pull_without_settings_home_or_terminal_tells_programs_all(cli: Cli, registry: ScriptedRegistry) -> None:
    handle = registry.add(build_model("mistral:7b"))
    name = f"{registry.host}/library/mistral:7b"

    done = cli("pull", "--json", name)

    events = objects(done.stdout)
    assert [event["event"] for event in events if event["event"] != "progress"] == [
        "resolving",
        "publishing",
        "published",
    ]
    assert events[-1]["digest"] == str(handle.digest)
    assert events[-1]["fetched_bytes"] == handle.size
    assert done.stderr == f"store: {cli.store} (SYNCD_STORE)\n"


def test_quiet_is_quiet(cli: Cli, registry: ScriptedRegistry) -> None:
    registry.add(build_model("mistral:7b"))
    done = cli("pull", "-q", f"{registry.host}/library/mistral:7b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_one_name_that_fails_does_not_stop_the_others(cli: Cli, registry: ScriptedRegistry) -> None:
    registry.add(build_model("mistral:7b"))
    good, bad = f"{registry.host}/library/mistral:7b", f"{registry.host}/library/nosuch:1b"

    done = cli("pull", "--json", bad, good)

    ends = [event for event in objects(done.stdout) if event["event"] in {"error", "published"}]
    assert done.returncode == 3
    assert [(event["event"], event["name"]) for event in ends] == [("error", bad), ("published", good)]
    assert done.stderr.count("error: ") == 1


def test_what_was_pulled_is_listed_shown_verified_and_removed(cli: Cli, registry: ScriptedRegistry) -> None:
    model = build_model("mistral:7b")
    handle = registry.add(model)
    name = f"{registry.host}/library/mistral:7b"
    cli("pull", name)

    (listed,) = objects(cli("list", "--json").stdout)[0]["models"]
    assert (listed["name"], listed["digest"], listed["size"]) == (name, str(handle.digest), handle.size)
    assert cli("list").stdout.splitlines()[1].split()[:4] == [name, str(handle.digest)[7:19], "1.1", "MB"]

    (shown,) = objects(cli("show", name.replace("mistral", "Mistral"), "--json").stdout)
    assert shown["name"] == name
    assert {layer["status"] for layer in (*shown["layers"], shown["config"])} == {"stored"}
    assert shown["texts"]["license"].startswith("Apache License")
    assert "weights" in cli("show", name).stdout

    (verified,) = objects(cli("verify", "--json").stdout)
    assert (verified["event"], verified["models"], verified["blobs"], verified["faults"]) == ("verified", 1, 5, 0)

    (planned,) = objects(cli("rm", "--dry-run", "--json", name).stdout)
    assert assert_store_whole(cli.store)
    (removed,) = objects(cli("rm", "--json", name).stdout)
    assert {**planned, "dry_run": False} == removed
    assert removed["freed_bytes"] == handle.size
    assert assert_store_whole(cli.store) == {}
    assert cli("rm", name).returncode == 3


def test_every_fault_is_reported_with_exit_code_6(cli: Cli, registry: ScriptedRegistry) -> None:
    model = build_model("mistral:7b")
    registry.add(model)
    name = f"{registry.host}/library/mistral:7b"
    cli("pull", name)
    weights = cli.store / "blobs" / model.weights.replace(":", "-")
    license_ = cli.store / "blobs" / model.layers("license")[0].replace(":", "-")
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.write(b"x")
    license_.unlink()

    done, told = cli("verify"), cli("verify", name, "--json")

    assert done.returncode == told.returncode == 6
    assert f"{name}: wrong bytes: " in done.stdout
    assert f"{name}: missing: " in done.stdout
    assert "error: 2 faults in 1 model" in done.stderr
    assert [event["event"] for event in objects(told.stdout)] == ["fault", "fault", "verified", "error"]
    assert cli("pull", name).returncode == 0
    assert cli("verify").returncode == 0


def test_a_collection_takes_nothing_that_is_young(cli: Cli, registry: ScriptedRegistry) -> None:
    registry.add(build_model("mistral:7b"))
    name = f"{registry.host}/library/mistral:7b"
    cli("pull", name)
    cli("rm", name)

    assert cli("gc", "--dry-run").stdout == "0 B would be given back\n"
    assert objects(cli("gc", "--json").stdout)[0]["blobs"] == []


def test_a_license_cannot_paint_the_terminal(cli: Cli, registry: ScriptedRegistry) -> None:
    text = "\x1b[2J\x1b]0;owned\x07\n\u202efree\x9b2J"
    registry.add(model_from("evil:1b", [("model", b"weights"), ("license", text.encode())]))
    name = f"{registry.host}/library/evil:1b"
    cli("pull", name)

    shown = cli("show", name).stdout
    as_json = cli("show", "--json", name).stdout

    assert not {"\x1b", "\x9b", "\u202e"} & {*shown, *as_json}
    assert "\\x1b[2J" in shown
    assert json.loads(as_json)["texts"]["license"] == text


def test_a_list_of_thousands_takes_no_time(cli: Cli, registry: ScriptedRegistry) -> None:
    registry.add(build_model("mistral:7b"))
    cli("pull", f"{registry.host}/library/mistral:7b")
    (manifest,) = [path for path in (cli.store / "manifests").rglob("*") if path.is_file()]
    for number in range(2000):
        (manifest.parent / f"tag{number}").write_bytes(manifest.read_bytes())

    before = processor_seconds()
    done = cli.interpreted("list")

    assert len(done.stdout.splitlines()) == 2002
    assert processor_seconds() - before < 1.5


# Signals.


@pytest.fixture
def slow(registry: ScriptedRegistry) -> str:
    """The name of a model that takes five seconds through one connection."""
    registry.add(synthetic_model("slow:1b", 128 * MIB))
    registry.throttle(24 * MIB)
    return f"{registry.host}/library/slow:1b"


@pytest.fixture
def endless(registry: ScriptedRegistry) -> str:
    """The name of a model that no test waits for."""
    registry.add(synthetic_model("endless:1b", 512 * MIB))
    registry.throttle(0.5 * MIB)
    return f"{registry.host}/library/endless:1b"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_a_pull_that_the_next_one_resumes(
    cli: Cli, registry: ScriptedRegistry, slow: str, number: signal.Signals
) -> None:
    with cli.start("pull", "--connections", "1", slow) as process:
        registry.wait_until(lambda it: it.bytes_served() >= 40 * MIB)
        process.send_signal(number)
        output, errors = process.communicate()

    assert process.returncode == 128 + number
    assert output == ""
    assert errors.endswith("\ninterrupted; run the same command to resume\n")
    assert assert_store_whole(cli.store) == {}
    registry.heal()
    assert cli("pull", slow).returncode == 0
    assert len(assert_store_whole(cli.store)) == 1
    assert registry.bytes_served() < 2 * 128 * MIB - 16 * MIB


def test_an_interruption_is_an_event_for_programs(cli: Cli, registry: ScriptedRegistry, endless: str) -> None:
    with cli.start("pull", "--json", endless) as process:
        registry.wait_until(lambda it: it.bytes_served() >= MIB)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()

    assert objects(output)[-1] == {
        "event": "error",
        "name": None,
        "message": "interrupted",
        "hint": "run the same command to resume",
        "exit_code": 143,
    }


def test_a_signal_that_was_ignored_stays_ignored(cli: Cli, registry: ScriptedRegistry) -> None:
    registry.add(synthetic_model("slow:1b", 8 * MIB))
    registry.throttle(4 * MIB)
    pull = (*commands.INTERPRETED[1:], "pull", f"{registry.host}/library/slow:1b")
    with cli.start_interpreted(*pull, preexec_fn=ignore_hangups) as process:
        registry.wait_until(lambda it: it.bytes_served() >= MIB)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=30)

    assert process.returncode == 0


def ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_removal_cancels_the_pull_of_that_name(cli: Cli, registry: ScriptedRegistry, endless: str) -> None:
    with cli.start("pull", endless) as process:
        registry.wait_until(lambda it: it.bytes_served() >= MIB)

        removed = cli("rm", endless)
        _, errors = process.communicate()

    assert removed.stdout == f"{endless}: its pull was cancelled; no such model was visible\n"
    assert process.returncode == 1
    assert f"error: {endless} was removed while it was being pulled\n" in errors
    assert assert_store_whole(cli.store) == {}


def test_a_second_signal_ends_work_that_does_not_end(cli: Cli) -> None:
    code = """
import asyncio
from syncd.cli import running

async def stubborn():
    print("ready", flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("asked", flush=True)

running.run(stubborn())
"""
    with cli.start_interpreted("-c", code) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


# Users.


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_pulls_as_the_owner_with_secrets_that_only_root_can_read(
    open_home: Path, registry: ScriptedRegistry
) -> None:
    cli = Cli(open_home)
    registry.add(build_model("mistral:7b"))
    registry.require_basic("reader", "s3cret")
    secret = open_home / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    settings = open_home / "syncd.toml"
    settings.write_text(f"[registries.'{registry.host}']\nusername = 'reader'\npassword_file = '{secret}'\n")

    made = cli("init", "--owner", "nobody")
    done = cli("pull", "--config", str(settings), f"{registry.host}/library/mistral:7b")

    assert made.stderr == f"store: {cli.store} (SYNCD_STORE), as nobody\n"
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"store: {cli.store} (SYNCD_STORE), as nobody\n")
    nobody = cli.store.stat().st_uid
    assert nobody != 0
    assert {path.lstat().st_uid for path in cli.store.rglob("*")} == {nobody}
    assert assert_store_whole(cli.store)
