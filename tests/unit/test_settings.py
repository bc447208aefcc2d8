"""The settings file: where it is looked for, what it may hold, and errors that lead to the line."""

from pathlib import Path

import pytest

from syncd.daemon.loaded import Loaded, load
from syncd.daemon.places import choose_store
from syncd.errors import ConfigurationError, ExitCode

WHOLE = """\
store = "/srv/ollama/models"
allow_network_filesystem = true
min_free = "10 GB"

[registries."registry.ollama.ai"]
mirrors = ["http://mirror.lan:5000", "https://other.lan/cache"]

[registries."Reg.LAN:5000"]
plain_http = true
auth_hosts = ["auth.lan"]
username = "reader"
password_file = "/run/secrets/reg"

[download]
connections = 16
max_rate = "200 MB/s"
stall_timeout = "10s"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "syncd.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(written(folder, text), {})
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    return caught.value


def test_every_key_is_read(tmp_path: Path) -> None:
    settings = load(written(tmp_path, WHOLE), {}).settings

    assert settings.store == Path("/srv/ollama/models")
    assert settings.allow_network_filesystem
    assert settings.min_free == 10**10
    assert settings.registries["registry.ollama.ai"].mirrors == ("http://mirror.lan:5000", "https://other.lan/cache")
    assert settings.registries["reg.lan:5000"].plain_http is True
    assert settings.registries["reg.lan:5000"].password_file == Path("/run/secrets/reg")
    assert (settings.download.connections, settings.download.max_rate, settings.download.stall_timeout) == (16, 2e8, 10)


def test_without_a_file_the_defaults_work(tmp_path: Path) -> None:
    loaded = load(None, {"XDG_CONFIG_HOME": str(tmp_path)}, system_file=tmp_path / "none.toml")

    assert loaded == Loaded()
    assert loaded.settings.download.connections == 8
    assert loaded.settings.min_free == 512 * 2**20


def test_the_users_file_is_found_and_the_systems_goes_before_it(tmp_path: Path) -> None:
    system, home = tmp_path / "system.toml", tmp_path / "home"
    (home / "syncd").mkdir(parents=True)
    (home / "syncd" / "syncd.toml").write_text("[download]\nconnections = 3\n")
    environ = {"XDG_CONFIG_HOME": str(home)}

    assert load(None, environ, system_file=system).settings.download.connections == 3
    system.write_text("[download]\nconnections = 4\n")
    assert load(None, environ, system_file=system).settings.download.connections == 4


def test_a_named_file_goes_before_all_others(tmp_path: Path) -> None:
    system = written(tmp_path, "[download]\nconnections = 4\n")
    mine = tmp_path / "mine.toml"
    mine.write_text("[download]\nconnections = 5\n")

    assert load(None, {"SYNCD_CONFIG": str(mine)}, system_file=system).settings.download.connections == 5
    assert load(mine, {"SYNCD_CONFIG": "/no/such"}, system_file=system).settings.download.connections == 5


@pytest.mark.parametrize(("named", "environ"), [(Path("/no/such.toml"), {}), (None, {"SYNCD_CONFIG": "/no/such.toml"})])
def test_a_named_file_that_is_missing_is_an_error(named: Path | None, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"/no/such\.toml"):
        load(named, environ)


@pytest.mark.parametrize(
    ("text", "line", "key", "near"),
    [
        ("\nstroe = '/srv'\n", 2, "stroe", "store"),
        ("[download]\n# more\nconections = 3\n", 3, "conections", "connections"),
        ("download = { conections = 3 }\n", 1, "conections", "connections"),
        ("download.conections = 3\n", 1, "conections", "connections"),
        ("[registries.'a.b:5000']\nmirror = []\n", 2, "mirror", "mirrors"),
        ("store = '/x'\n[downlod]\nconnections = 3\n", 2, "downlod", "download"),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_one(
    tmp_path: Path, text: str, line: int, key: str, near: str
) -> None:
    error = refused(tmp_path, text)

    assert f"syncd.toml:{line}: unknown key {key!r}" in error.message
    assert error.hint == f"did you mean {near!r}?"


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("store = 5\n", 1, "store"),
        ("store = 'models'\n", 1, "store"),
        ("\nmin_free = '1 Gb'\n", 2, "min_free"),
        ("allow_network_filesystem = 'yes'\n", 1, "allow_network_filesystem"),
        ("[download]\nconnections = 65\n", 2, "connections"),
        ("[download]\nconnections = 0\n", 2, "connections"),
        ("[download]\n\nmax_rate = '5 Mb/s'\n", 3, "max_rate"),
        ("[download]\nstall_timeout = '10ms'\n", 2, "stall_timeout"),
        ("[registries.'a.b']\nmirrors = ['http://x', 3]\n", 2, "mirrors"),
        ("[registries.'a.b']\nkey_file = 'relative'\n", 2, "key_file"),
    ],
)
def test_a_wrong_value_is_refused_with_file_line_and_key(tmp_path: Path, text: str, line: int, key: str) -> None:
    assert f"syncd.toml:{line}: {key}: " in refused(tmp_path, text).message


def test_text_that_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "syncd.toml:2: not TOML" in refused(tmp_path, "store = '/x'\n[download\n").message


@pytest.mark.parametrize("host", ["https://a.b", "a/b", "", "a b", "a:port", "[::1]x"])
def test_a_registry_that_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    assert "is not a registry's host" in refused(tmp_path, f"[registries.'{host}']\n").message


def test_a_registry_written_twice_in_different_case_is_refused(tmp_path: Path) -> None:
    assert "twice" in refused(tmp_path, "[registries.'a.b']\n[registries.'A.B']\n").message


def test_registries_that_are_no_table_are_refused(tmp_path: Path) -> None:
    assert "is not a table" in refused(tmp_path, "registries = 3\n").message
    assert "is not a table" in refused(tmp_path, "download = 3\n").message


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="larger than"):
        load(Path("/dev/zero"), {})


def test_the_store_comes_from_the_first_that_names_one(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, "store = '/from/settings'\n"), {})
    everything = {"SYNCD_STORE": "/from/syncd", "OLLAMA_MODELS": "/from/ollama"}

    chosen = [
        choose_store(Path("/from/option"), everything, loaded),
        choose_store(None, everything, loaded),
        choose_store(None, {"OLLAMA_MODELS": "/from/ollama"}, loaded),
        choose_store(None, {"OLLAMA_MODELS": '"/from/ollama" '}, Loaded()),
    ]

    assert [str(one.path) for one in chosen] == ["/from/option", "/from/syncd", "/from/settings", "/from/ollama"]
    assert [one.origin for one in chosen] == ["--store", "SYNCD_STORE", str(tmp_path / "syncd.toml"), "OLLAMA_MODELS"]


def test_without_any_name_the_store_is_ollamas_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    chosen = choose_store(None, {}, Loaded())

    assert chosen.path == tmp_path / ".ollama" / "models"
    assert chosen.origin == "Ollama's default"


def test_what_the_readme_shows_can_be_used(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    example = readme.partition("\n## Settings\n")[2].partition("```toml\n")[2].partition("```")[0]

    settings = load(written(tmp_path, example), {}).settings

    assert [str(model.name) for model in settings.models] == ["mistral:7b"]
    assert settings.control.listen is not None
    assert len(settings.registries) == 2
