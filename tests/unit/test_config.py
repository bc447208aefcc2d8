"""``syncd config``: what can be used, what cannot and where that is written, and where every value comes from."""

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from syncd.daemon.loaded import Loaded, load
from syncd.daemon.origins import as_toml, dotted, effective
from syncd.daemon.places import StoreChoice
from syncd.daemon.usable import usable
from syncd.errors import ConfigurationError
from tests.support import commands

CANARY = "canary-4711"
WHOLE = """\
store = "/srv/ollama/models"
min_free = "10 GB"
prune = true

[download]
max_rate = "1.5 MB/s"
stall_timeout = "250s"

[registries."Reg.lan:5000"]
mirrors = ["http://me:canary-4711@mirror.lan:5000/x?sig=canary-4711", "http://plain.lan"]
username = "from the file"

[control]
listen = "[::1]:11500"
allowed_hosts = ["gpu-host.lan"]

[ops]
listen = ""

[[models]]
name = "mistral:7b"
update = { every = "90m", window = "22:30-04:00", apply = "notify" }
[[models]]
name = "hf.co/me/model:q4"
"""


def written(folder: Path, text: str = WHOLE) -> Path:
    path = folder / "syncd.toml"
    path.write_text(text)
    return path


def shown(loaded: Loaded, environ: dict[str, str] | None = None) -> str:
    store = StoreChoice(loaded.settings.store or Path("/default"), "Ollama's default")
    return as_toml(effective(loaded, environ or {}, store=store, socket=Path("/run/s.sock")))


def syncd(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": os.environ["PATH"], "HOME": str(home), **environ}
    return commands.completed("config", *arguments, environ=own, cwd=home)


# show


def test_every_value_is_shown_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path)

    lines = shown(load(path, {})).splitlines()

    assert f'store = "/srv/ollama/models"  # {path}:1' in lines
    assert f'min_free = "10 GB"  # {path}:2' in lines
    assert "connections = 8  # default" in lines
    assert f'stall_timeout = "250s"  # {path}:7' in lines
    assert f'listen = "[::1]:11500"  # {path}:14' in lines
    assert f'username = "from the file"  # {path}:11' in lines
    assert f'update.window = "22:30-04:00"  # {path}:22' in lines
    assert f'name = "hf.co/me/model:q4"  # {path}:24' in lines
    assert "# group is not set" in lines


def test_what_is_shown_is_a_settings_file_that_says_the_same(tmp_path: Path) -> None:
    first = load(written(tmp_path, WHOLE.replace(CANARY, "x").replace("me:x@", "").replace("?sig=x", "")), {})

    again = load(written(tmp_path, shown(first)), {})

    assert again.settings.control.socket == Path("/run/s.sock")
    assert again.settings.registries == first.settings.registries
    assert again.settings.models == first.settings.models
    assert again.settings.download == first.settings.download
    assert again.settings.ops == first.settings.ops
    assert again.settings.control.allowed_hosts == first.settings.control.allowed_hosts


def test_the_defaults_are_shown_where_there_is_no_file() -> None:
    tables = tomllib.loads(shown(Loaded()))

    assert tables["ops"] == {"listen": "127.0.0.1:9811"}
    assert tables["control"]["listen"] == ""
    assert tables["store"] == "/default"


def test_drop_ins_show_as_the_origin_of_what_they_say(tmp_path: Path) -> None:
    path = written(tmp_path)
    drop_in = tmp_path / "conf.d" / "50.toml"
    drop_in.parent.mkdir()
    drop_in.write_text("\n[download]\nconnections = 3\n[[models]]\nname = 'gemma'\n")

    lines = shown(load(path, {})).splitlines()

    assert f"connections = 3  # {drop_in}:3" in lines
    assert f'name = "gemma:latest"  # {drop_in}:5' in lines
    assert f'max_rate = "1500 kB/s"  # {path}:6' in lines


def test_no_secret_is_shown(tmp_path: Path) -> None:
    environ = {
        "SYNCD_REGISTRY_REG_LAN_5000_PASSWORD": CANARY,
        "SYNCD_REGISTRY_REG_LAN_5000_USERNAME": "from outside",
        "SYNCD_REGISTRY_REGISTRY_OLLAMA_AI_TOKEN": CANARY,
    }

    text = shown(load(written(tmp_path), {}), environ)

    assert CANARY not in text
    assert 'mirrors = ["http://***@mirror.lan:5000/x?***", "http://plain.lan"]' in text
    assert 'username = "from outside"  # SYNCD_REGISTRY_REG_LAN_5000_USERNAME' in text
    assert "# password: ***  # SYNCD_REGISTRY_REG_LAN_5000_PASSWORD" in text
    assert "# token: ***  # SYNCD_REGISTRY_REGISTRY_OLLAMA_AI_TOKEN" in text
    assert tomllib.loads(text)


def test_values_from_outside_cannot_reach_the_terminal(tmp_path: Path) -> None:
    text = shown(load(written(tmp_path, 'store = "/srv/\\u001b[31m\\u202e\\"x"\n'), {}))

    assert "\x1b" not in text
    assert "\u202e" not in text
    assert tomllib.loads(text)["store"] == '/srv/\x1b[31m\u202e"x'


def test_programs_get_the_same_with_the_key_in_one_word(tmp_path: Path) -> None:
    path = written(tmp_path)

    done = syncd(tmp_path, "show", "--json", "--config", str(path), SYNCD_STORE="/other", SYNCD_SOCKET="/run/mine")

    told = json.loads(done.stdout)
    values = {one["key"]: (one["value"], one["origin"]) for one in told["settings"]}
    assert done.returncode == 0
    assert told["files"] == [str(path)]
    assert values["store"] == ("/other", "SYNCD_STORE")
    assert values["control.socket"] == ("/run/mine", "SYNCD_SOCKET")
    assert values["models[0].update.every"] == ("90m", f"{path}:22")
    assert values['registries."reg.lan:5000".username'] == ("from the file", f"{path}:11")
    assert CANARY not in done.stdout
    assert dotted(("models", 1, "name")) == "models[1].name"


# check


def test_settings_that_can_be_used_are_named_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "[[models]]\nname = 'mistral'\n")
    drop_in = tmp_path / "conf.d" / "1.toml"
    drop_in.parent.mkdir()
    drop_in.write_text("[[models]]\nname = 'gemma'\n")

    done = syncd(tmp_path, "check", str(path))

    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == [str(path), str(drop_in)]
    assert "can be used by" in done.stdout
    assert "2 models" in done.stdout


def test_programs_are_told_what_was_checked(tmp_path: Path) -> None:
    path = written(tmp_path, "[control]\nallowed_hosts = ['x']\n")

    told = json.loads(syncd(tmp_path, "check", "--json", str(path)).stdout)

    assert told["files"] == [str(path)]
    assert told["models"] == 0
    assert told["warnings"] == ["[control] token_file and allowed_hosts do nothing: there is no listen"]


def test_without_any_file_the_defaults_are_checked(tmp_path: Path) -> None:
    done = syncd(tmp_path, "check", XDG_CONFIG_HOME=str(tmp_path))

    assert done.returncode == 0
    assert "defaults can be used" in done.stdout


def test_a_fault_ends_with_its_line_a_hint_and_exit_code_10(tmp_path: Path) -> None:
    path = written(tmp_path, "[[models]]\nname = 'a'\n[[models]]\nnam = 'b'\n")

    done = syncd(tmp_path, "check", "--json", str(path))

    assert done.returncode == 10
    assert done.stderr == f"error: {path}:4: unknown key 'nam' in [[models]]\nhint: did you mean 'name'?\n"
    assert json.loads(done.stdout)["exit_code"] == 10


def test_the_command_alone_says_what_is_missing(tmp_path: Path) -> None:
    done = syncd(tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith("error: Missing command")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("\n[control]\nlisten = '0.0.0.0:1'\ntoken_file = '/no/such'\n", 4, "token_file: /no/such cannot be used"),
        ("[control]\ngroup = 'no_such_group'\n", 2, "there is no group 'no_such_group'"),
        ("[registries.'A.lan']\nusername = 'me'\n\npassword_file = '/no/such'\n", 4, "password_file /no/such cannot"),
        ("[registries.'A.lan']\nmirrors = ['ftp://x']\n", 2, "has no usable base URL"),
        ("[registries.'a.lan']\nca_file = '/no/such'\n", 2, "ca_file /no/such cannot"),
    ],
)
def test_what_the_settings_name_must_be_there(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        usable(load(written(tmp_path, text), {}), {}, own_key=None)

    assert caught.value.message.startswith(f"{tmp_path}/syncd.toml:{line}: ")
    assert reason in caught.value.message


def test_an_update_that_does_nothing_is_pointed_out(tmp_path: Path) -> None:
    pinned = f"[[models]]\nname = 'mistral@sha256:{'0' * 64}'\nupdate.every = '1h'\n"

    (notice,) = usable(load(written(tmp_path, pinned), {}), {}, own_key=None).notices

    assert notice == f"mistral:latest is pinned: its update does nothing ({tmp_path}/syncd.toml:1)"
