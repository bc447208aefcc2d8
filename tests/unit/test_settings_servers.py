"""Servers in the settings: what they may say, what they may not, and errors that lead to file and line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.daemon.loaded import load
from syncd.daemon.server_settings import EngineUrl, ServerUrl, SignalName
from syncd.daemon.settings import Settings
from syncd.errors import ConfigurationError
from syncd.instances.model import Instance, Origin, Prove, ReloadWay

WHOLE = """
[[instances]]
name = "ollama-1"
url = "http://127.0.0.1:11434/"
container = "ollama-1"
reload = "signal"
signal = "USR1"
prove = "always"
prewarm = true

[[instances]]
name = "ollama-2"
url = "http://[::1]:11435"
reload = "exec"
exec = ["/usr/bin/systemctl", "restart", "ollama"]

[[models]]
name = "mistral:7b"
prewarm = true

[docker]
url = "tcp://127.0.0.1:2375"
discover = true

[probes]
every = "30s"
deep_every = "10m"
timeout = "2s"
proof_timeout = "10m"

[reload]
max_unavailable = 2
settle = "0s"
"""


def written(folder: Path, text: str, **drop_ins: str) -> Path:
    path = folder / "syncd.toml"
    path.write_text(text)
    for name, content in drop_ins.items():
        (folder / "conf.d").mkdir(exist_ok=True)
        (folder / "conf.d" / f"{name}.toml").write_text(content)
    return path


def refused(folder: Path, text: str, **drop_ins: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(written(folder, text, **drop_ins), {})
    return caught.value


def test_every_key_is_read(tmp_path: Path) -> None:
    settings = load(written(tmp_path, WHOLE), {}).settings

    assert [one.instance() for one in settings.instances] == [
        Instance(
            name="ollama-1",
            url="http://127.0.0.1:11434",
            container="ollama-1",
            reload=ReloadWay.SIGNAL,
            signal="SIGUSR1",
            prove=Prove.ALWAYS,
            prewarm=True,
        ),
        Instance(
            name="ollama-2",
            url="http://[::1]:11435",
            reload=ReloadWay.EXEC,
            command=("/usr/bin/systemctl", "restart", "ollama"),
            origin=Origin.SETTINGS,
        ),
    ]
    assert {type(one.instance().url) for one in settings.instances} == {str}  # JSON is made of no other
    assert settings.models[0].prewarm
    assert (settings.docker.url, settings.docker.discover) == ("tcp://127.0.0.1:2375", True)
    probes, reload = settings.probes, settings.reload
    assert (probes.every, probes.deep_every, probes.timeout, probes.proof_timeout) == (30, 600, 2, 600)
    assert (reload.max_unavailable, reload.settle) == (2, 0)


def test_without_any_of_it_the_defaults_are_the_documented_ones() -> None:
    settings = Settings()

    assert (settings.instances, settings.docker.url, settings.docker.discover) == ((), None, False)
    assert (settings.probes.every, settings.probes.deep_every) == (15, 300)
    assert (settings.probes.timeout, settings.probes.proof_timeout) == (5, 300)
    assert (settings.reload.max_unavailable, settings.reload.settle) == (1, 10)


FIRST = "[[instances]]\nname = 'a'\nurl = 'http://127.0.0.1:11434'\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[[instances]]\nname = 'a'\n", 1, "[[instances]] has no 'url'"),
        (FIRST + "relaod = 'auto'\n", 4, "unknown key 'relaod' in [[instances]]"),
        (FIRST + "reload = 'kick'\n", 4, "reload: Invalid enum value 'kick'"),
        (FIRST + "reload = 'exec'\n", 4, "reload: there is no exec to run"),
        (FIRST + "reload = 'exec'\nexec = []\n", 5, "exec: expected"),
        (FIRST + "reload = 'exec'\nexec = ['']\n", 5, "exec: expected"),
        (FIRST + "exec = ['true']\n", 4, 'exec does nothing with reload = "auto"'),
        (FIRST + "signal = 'SIGHUP'\n", 4, 'signal does nothing with reload = "auto"'),
        (FIRST + "reload = 'restart'\n", 4, "reload: restart needs the container"),
        (FIRST + "container = 'c'\nreload = 'restart'\n", 5, "reload: restart needs the Docker Engine"),
        (FIRST + "container = 'c'\nreload = 'signal'\n", 5, "reload: signal needs the Docker Engine"),
        (
            FIRST + "container = 'c'\nreload = 'signal'\nsignal = 'SIGNOPE'\n",
            6,
            "signal: 'SIGNOPE' is not a signal",
        ),
        (FIRST + "container = '../c'\n", 4, "container: expected"),
        (FIRST + "prove = 'often'\n", 4, "prove: Invalid enum value 'often'"),
        ("[[instances]]\nname = 'a b'\nurl = 'http://h'\n", 2, "name: expected"),
        (FIRST + "[[instances]]\nname = 'A'\nurl = 'http://h'\n", 5, "name: A is there twice: also at"),
        (FIRST + "[[instances]]\nname = 'b'\nurl = 'http://127.0.0.1:11434/'\n", 6, "url: http://127.0.0.1:11434 is"),
        ("[docker]\ndiscover = true\n", 2, "discover: there is no url"),
        ("[docker]\nurl = 'http://127.0.0.1:2375'\n", 2, "url: 'http://127.0.0.1:2375' is not an Engine's address"),
        ("[probes]\nevery = '0.5s'\n", 2, "every: '0.5s' is not between 1 and 3600 seconds"),
        ("[probes]\nproof_timeout = '2h'\n", 2, "proof_timeout: '2h' is not between"),
        ("[reload]\nmax_unavailable = 0\n", 2, "max_unavailable: expected"),
        ("instances = 3\n", 1, "'instances' is not a list of tables"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_stands(tmp_path: Path, text: str, line: int, message: str) -> None:
    error = refused(tmp_path, text)

    assert error.message.startswith(f"{tmp_path}/syncd.toml:{line}: ")
    assert message in error.message


def test_drop_ins_add_servers_and_two_of_one_name_are_found_over_files(tmp_path: Path) -> None:
    more = "[[instances]]\nname = 'b'\nurl = 'http://127.0.0.1:11435'\n"
    assert len(load(written(tmp_path, FIRST, more=more), {}).settings.instances) == 2

    error = refused(tmp_path, FIRST, more=more + "[[instances]]\nname = 'a'\nurl = 'http://h'\n")

    assert f"conf.d/more.toml:5: name: a is there twice: also at {tmp_path}/syncd.toml:1" in error.message


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("http://GPU-host.lan:11434/", "http://gpu-host.lan:11434"),
        ("http://h:80", "http://h"),
        ("https://h:443", "https://h"),
        ("http://[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_a_servers_address_has_one_form(text: str, url: str) -> None:
    assert ServerUrl.parse(text) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "127.0.0.1:11434", "ftp://h", "http://", "http://h:0", "http://h:99999", "http://h/v1", "http://h?x"),
        *("http://h#x", "http://h h", "http://\x1b", "http://[::1", 5, None),
    ],
)
def test_what_is_no_servers_address_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="address"):
        ServerUrl.parse(text)


def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for url in ("http://me:hunter2@h", "ftp://me:hunter2@h", "http://me:hunter2@h:bad"):
        error = refused(tmp_path, f"[[instances]]\nname = 'a'\nurl = '{url}'\n")

        assert "hunter2" not in error.message


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    for kind in (ServerUrl, EngineUrl, SignalName):
        try:
            found = kind.parse(text)
        except ValueError:
            continue
        assert kind.parse(found) == found
