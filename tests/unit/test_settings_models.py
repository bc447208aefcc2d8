"""Desired models, listeners and drop-ins in the settings: what they may say, and errors that lead to file and line."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.daemon.lines import Lines
from syncd.daemon.loaded import load
from syncd.daemon.places import socket_candidates, socket_path
from syncd.daemon.settings import Settings
from syncd.daemon.units import Address, Window
from syncd.errors import ConfigurationError, ExitCode
from syncd.oci.name import ModelName, Reference

DIGEST = "sha256:" + "0" * 64


def written(folder: Path, text: str, **drop_ins: str) -> Path:
    """A settings file, and its drop-ins by name without ``.toml``."""
    path = folder / "syncd.toml"
    path.write_text(text)
    for name, content in drop_ins.items():
        (folder / "conf.d").mkdir(exist_ok=True)
        (folder / "conf.d" / f"{name}.toml").write_text(content)
    return path


def refused(folder: Path, text: str, **drop_ins: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(written(folder, text, **drop_ins), {})
    assert caught.value.exit_code == ExitCode.CONFIGURATION
    return caught.value


# Models


def test_models_are_read_with_how_they_are_followed(tmp_path: Path) -> None:
    text = f"""
[[models]]
name = "mistral:7b"
update = {{ every = "12h", window = "22:00-04:30", apply = "notify" }}
[[models]]
name = "me/model@{DIGEST}"
"""
    first, second = load(written(tmp_path, text), {}).settings.models

    assert first.name == Reference.parse("mistral:7b")
    assert (first.update.every, first.update.window, first.update.apply) == (43200, Window(1320, 270), "notify")
    assert second.name.digest is not None
    assert (second.update.every, second.update.window, second.update.apply) == (21600, None, "auto")


def test_where_a_model_stands_is_known_however_it_is_spelled(tmp_path: Path) -> None:
    path = written(tmp_path, "[[models]]\nname = 'a'\n\n[[models]]\nname = 'B:7b'\n", more="[[models]]\nname = 'c'\n")
    loaded = load(path, {})

    assert loaded.where(ModelName.parse("a")) == f"{path}:1"
    assert loaded.where(ModelName.parse("b:7B")) == f"{path}:4"
    assert loaded.where(ModelName.parse("c")) == f"{tmp_path}/conf.d/more.toml:1"
    assert loaded.where(ModelName.parse("d")) is None


@pytest.mark.parametrize(
    ("entry", "line", "message", "hint"),
    [
        ("nam = 'c'", 7, "unknown key 'nam' in [[models]]", "did you mean 'name'?"),
        ("name = 'c'\nupdat.every = '1h'", 8, "unknown key 'updat' in [[models]]", "did you mean 'update'?"),
        ("name = 'c'\nupdate = { evry = '1h' }", 8, "unknown key 'evry' in [models.update]", "did you mean 'every'?"),
        ("name = 'c'\n[models.update]\nevry = '1h'", 9, "unknown key 'evry'", "did you mean 'every'?"),
        ("name = 'c'\nupdate.every = '59s'", 8, "every: '59s' is not between 60 and", None),
        ("name = 'c'\nupdate.every = '31d'", 8, "every: '31d' is not between 60 and", None),
        ("name = 'c'\nupdate.every = 5", 8, "every: 5 is not a time", None),
        ("name = 'c'\nupdate.apply = 'never'", 8, "apply: ", None),
        ("name = 'c'\nupdate.window = '1-2'", 8, "window: '1-2' is not a part of the day", None),
        ("name = 'c'\nupdate.window = '24:00-25:00'", 8, "window: ", None),
        ("name = 'c'\nupdate.window = '01:00-01:00'", 8, "no time at all", None),
        ("name = 'c'\nupdate = 'daily'", 8, "'update' is not a table", None),
        ("name = 'c'\n[models.update]\nwindow = 01:00:00", 9, "window: ", None),
        ("name = 'c d'", 7, "name: not a model name: 'c d'", "a name is [host/]"),
        ("name = '../c'", 7, "name: not a model name", "a name is [host/]"),
        ("name = 'c@sha256:12'", 7, "name: not a sha256 digest", None),
        ("name = 3", 7, "name: 3 is not a model's name", None),
        ("update.every = '1h'", 6, "[[models]] has no 'name'", None),
    ],
)
def test_the_error_for_the_third_model_leads_to_its_own_line(
    tmp_path: Path, entry: str, line: int, message: str, hint: str | None
) -> None:
    error = refused(tmp_path, f"[[models]]\nname = 'a'\n\n[[models]]\nname = 'b'\n[[models]]\n{entry}\n")

    assert error.message.startswith(f"{tmp_path}/syncd.toml:{line}: ")
    assert message in error.message
    assert hint is None or (error.hint or "").startswith(hint)


def test_models_that_are_no_list_of_tables_are_refused(tmp_path: Path) -> None:
    assert "syncd.toml:1: 'models' is not a list" in refused(tmp_path, "models = 3\n").message
    assert "syncd.toml:1: 'models' is not a list" in refused(tmp_path, "models = { name = 'a' }\n").message
    assert "syncd.toml:3: [[models]] is not a table" in refused(tmp_path, "models = [\n{name = 'a'},\n'b'\n]\n").message


def test_two_entries_for_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    error = refused(
        tmp_path, "[[models]]\nname = 'a'\n[[models]]\nname = 'b'\n", more=f"\n[[models]]\nname = 'a@{DIGEST}'\n"
    )

    assert error.message == f"{tmp_path}/conf.d/more.toml:3: a:latest is there twice: also at {tmp_path}/syncd.toml:1"


@pytest.mark.parametrize("other", ["Mistral:7b", "library/mistral:7B", "registry.ollama.ai/library/MISTRAL:7b"])
def test_one_name_in_two_spellings_is_refused_as_the_same(tmp_path: Path, other: str) -> None:
    assert "is there twice" in refused(tmp_path, f"[[models]]\nname='mistral:7b'\n[[models]]\nname='{other}'\n").message


@pytest.mark.parametrize(("one", "other"), [("me/a", "ME/b"), ("mistral:7b", "Mistral:8b"), ("a:Q4", "b:q4")])
def test_names_that_ollama_would_mix_up_are_refused(tmp_path: Path, one: str, other: str) -> None:
    error = refused(tmp_path, f"[[models]]\nname='{one}'\n[[models]]\nname='{other}'\n")

    assert "syncd.toml:4: " in error.message
    assert f"{tmp_path}/syncd.toml:1 only in case" in error.message


def test_ten_thousand_models_are_read_in_a_moment_and_more_are_refused(tmp_path: Path) -> None:
    text = "".join(f"[[models]]\nname = 'model-{number}'\n" for number in range(10_000))
    before = time.process_time()

    loaded = load(written(tmp_path, text), {})

    assert time.process_time() - before < 5
    assert loaded.where(ModelName.parse("model-9999")) == f"{tmp_path}/syncd.toml:19999"
    assert "at most 10000" in refused(tmp_path, f"{text}[[models]]\nname = 'one-more'\n").message


# Lines


@pytest.mark.parametrize(
    ("text", "keys", "line"),
    [
        ("[[models]]\n[[models]]\n[[models]]\nname=1\n", ("models", 2, "name"), 4),
        ("[[models]]\n[[models]]\n[[models]]\nname=1\n", ("models", 1, "name"), 2),
        (
            "[[models]]\n[models.update]\nevery=1\n[[models]]\n[models.update]\nevery=1\n",
            ("models", 1, "update", "every"),
            6,
        ),
        (
            "models = [\n  { name = 'a' },\n\n  { name = 'b' }, { name = 'c' },  # ]\n]\nx = 1\n",
            ("models", 2, "name"),
            4,
        ),
        ("models = [\n  { name = 'a' },\n]\nx = 1\n", ("x",), 4),
        ("models = [{ name = 'a' },\n {name = 'b'}]\nx = 1\n", ("models", 1), 1),
        ("models = [\n { name = 'a',\n x = [\n1] },\n]\ny = 1\n", ("y",), 6),
        ("[a]\nlist = [\n 'x',\n 'y',\n]\n[b]\nz = 1\n", ("a", "list", 1), 4),
        ("[a]\nlist = [\n 'x',\n 'y',\n]\n[b]\nz = 1\n", ("b", "z"), 7),
        ("a.b.c = 1\na.b.d = 2\n", ("a", "b", "d"), 2),
        ("\na.b.c = 1\n", ("a", "b"), 2),
        ("[a.b]\n[a]\n", ("a",), 2),
        ("[x.y]\n[[x.y.z]]\n[[x.y.z]]\nk = 1\n", ("x", "y", "z", 1, "k"), 4),
        ("", ("a",), 1),
    ],
)
def test_the_line_of_a_key_is_found(text: str, keys: tuple[str | int, ...], line: int) -> None:
    assert Lines.of(text).of_key(keys) == line


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=8))
def test_every_model_is_found_whatever_stands_around_it(entries: list[tuple[int, bool]]) -> None:
    lines, expected = ["# models", "[download]", "connections = 8"], []
    for blank, table in entries:
        lines += [""] * blank + ["[[models]]  # one more"]
        expected.append(len(lines))
        lines += ['name = "x = [1]"', *(["[models.update]", "every = '1h'"] if table else [])]

    assert [Lines.of("\n".join(lines)).of_key(("models", index)) for index in range(len(entries))] == expected


# Drop-ins


def test_drop_ins_are_merged_in_the_order_of_their_names(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "prune = true\n[download]\nconnections = 1\nmax_rate = '1 MB/s'\n[[models]]\nname = 'a'\n",
        b="[download]\nconnections = 3\n[[models]]\nname = 'c'\n",
        a="[download]\nconnections = 2\n[[models]]\nname = 'b'\n[registries.'r.lan']\nplain_http = true\n",
    )
    (tmp_path / "conf.d" / "ignored.conf").write_text("broken")
    (tmp_path / "conf.d" / ".hidden.toml").write_text("broken")

    loaded = load(path, {})

    assert [file.path.name for file in loaded.files] == ["syncd.toml", "a.toml", "b.toml"]
    assert (loaded.settings.download.connections, loaded.settings.download.max_rate, loaded.settings.prune) == (
        3,
        1e6,
        True,
    )
    assert [str(model.name) for model in loaded.settings.models] == ["a:latest", "b:latest", "c:latest"]
    assert loaded.settings.registries["r.lan"].plain_http
    assert loaded.origin(("download", "connections")) == f"{tmp_path}/conf.d/b.toml:2"
    assert loaded.origin(("download", "max_rate")) == f"{path}:4"
    assert loaded.origin(("models", 1, "name")) == f"{tmp_path}/conf.d/a.toml:4"
    assert loaded.origin(("min_free",)) is None


def test_drop_ins_alone_are_settings(tmp_path: Path) -> None:
    path = written(tmp_path, "", a="prune = true\n")
    path.unlink()

    assert load(None, {}, system_file=path).settings.prune
    with pytest.raises(ConfigurationError, match="there are no settings at"):
        load(path, {})


@pytest.mark.parametrize(
    ("drop_in", "line", "message"),
    [
        ("\n[download]\nconections = 1\n", 3, "unknown key 'conections'"),
        ("[download]\nconnections = 0\n", 2, "connections: "),
        ("\n[[models]]\nname = 'a'\n[[models]]\nname = ':'\n", 5, "name: not a model name"),
        ("[download\n", 1, "not TOML"),
        ("\ndownload = 3\n", 2, "'download' is a table in one settings file and none in another"),
        ("\nmodels = 3\n", 2, "'models' is not a list"),
        ("[registries.'R.lan']\n", 1, "twice, in different case"),
    ],
)
def test_an_error_in_a_drop_in_leads_there(tmp_path: Path, drop_in: str, line: int, message: str) -> None:
    main = "[download]\nconnections = 5\n[registries.'r.lan']\n[[models]]\nname = 'x'\n"
    error = refused(tmp_path, main, extra=drop_in)

    assert error.message.startswith(f"{tmp_path}/conf.d/extra.toml:{line}: ")
    assert message in error.message


def test_a_fault_in_the_file_that_a_drop_in_adds_to_leads_to_the_file(tmp_path: Path) -> None:
    error = refused(tmp_path, "\n[download]\nconnections = 0\n", extra="[download]\nmax_rate = '1 MB/s'\n")

    assert error.message.startswith(f"{tmp_path}/syncd.toml:3: connections: ")


def test_a_drop_in_that_leads_nowhere_or_is_no_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "", a="")
    (tmp_path / "conf.d" / "b.toml").symlink_to("/no/such")
    with pytest.raises(ConfigurationError, match=r"b\.toml leads to a file that is not there"):
        load(path, {})

    (tmp_path / "conf.d" / "b.toml").unlink()
    (tmp_path / "conf.d" / "c.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"c\.toml is no file"):
        load(path, {})


def test_more_drop_ins_than_anybody_means_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "", **{f"d{number}": "" for number in range(257)})

    with pytest.raises(ConfigurationError, match="more than 256 files"):
        load(path, {})


# Control and ops


def test_listeners_are_read(tmp_path: Path) -> None:
    text = """
[control]
socket = "/run/other.sock"
group = "gpu"
listen = "0.0.0.0:11500"
token_file = "/etc/syncd/token"
allowed_hosts = ["gpu-host.lan", "[fd00::1]"]
[ops]
listen = "[::]:9000"
[download]
keep_partials = "2d"
"""
    settings = load(written(tmp_path, text), {}).settings

    assert (settings.control.socket, settings.control.group) == (Path("/run/other.sock"), "gpu")
    assert (settings.control.listen, settings.control.token_file) == (
        Address.parse("0.0.0.0:11500"),
        Path("/etc/syncd/token"),
    )
    assert settings.control.allowed_hosts == ("gpu-host.lan", "[fd00::1]")
    assert settings.ops.listen == Address("::", 9000)
    assert settings.download.keep_partials == 2 * 86400


def test_by_default_there_is_no_tcp_listener_but_that_for_metrics_on_loopback() -> None:
    assert Settings().control.listen is None
    assert Settings().ops.listen == Address("127.0.0.1", 9811)


def test_an_empty_text_is_no_listener(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "control.listen = ''\nops.listen = ''\n"), {}).settings

    assert (settings.control.listen, settings.ops.listen) == (None, None)


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "gpu-host:1", "[::ffff:10.0.0.1]:1"])
def test_a_listener_that_others_can_reach_needs_a_token(tmp_path: Path, listen: str) -> None:
    error = refused(tmp_path, f"[control]\nallowed_hosts = []\nlisten = '{listen}'\n")

    assert error.message.startswith(f"{tmp_path}/syncd.toml:3: listen: {listen} can be reached from other hosts")
    assert "token" in (error.hint or "")


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.8.9.1:1", "[::1]:0", "localhost:1", "[::ffff:127.0.0.1]:1"])
def test_a_listener_on_loopback_needs_none(tmp_path: Path, listen: str) -> None:
    found = load(written(tmp_path, f"control.listen = '{listen}'\n"), {}).settings.control.listen

    assert found is not None
    assert found.is_loopback
    assert str(found) == listen


@pytest.mark.parametrize(
    "text",
    [
        "control.listen = 11500",
        "control.listen = '11500'",
        "control.listen = ':11500'",
        "control.listen = '127.0.0.1'",
        "control.listen = '127.0.0.1:65536'",
        "control.listen = '127.1:80'",
        "control.listen = '::1:80'",
        "control.listen = '[127.0.0.1]:80'",
        "control.listen = '[::g]:80'",
        "control.listen = 'a b:80'",
        "control.listen = 'http://x:80'",
        "control.socket = 'relative.sock'",
        f"control.socket = '/{'x' * 107}'",
        "control.group = 'a b'",
        "control.group = ''",
        f"control.group = '{'g' * 33}'",
        "control.allowed_hosts = ['a b']",
        "control.allowed_hosts = ['']",
        f"control.allowed_hosts = {['h'] * 65}",
        "control.allowed_hosts = 'h'",
        "control.token_file = 'relative'",
        "ops.listen = false",
        "ops.listn = '127.0.0.1:1'",
        "prune = 'yes'",
        "download.keep_partials = '59m'",
        "download.keep_partials = '367d'",
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, f"\n{text}\n").message.startswith(f"{tmp_path}/syncd.toml:2: ")


def test_a_window_holds_its_first_minute_and_not_its_last() -> None:
    night, day = Window.parse("22:00-04:30"), Window.parse("09:00-17:00")

    assert [night.holds(minute) for minute in (1319, 1320, 1439, 0, 269, 270)] == [False, True, True, True, True, False]
    assert [day.holds(minute) for minute in (539, 540, 1019, 1020)] == [False, True, True, False]
    assert (str(night), str(day)) == ("22:00-04:30", "09:00-17:00")


# The socket


def test_a_named_socket_is_the_only_candidate(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "control.socket = '/from/settings'\n"), {}).settings
    environ = {"SYNCD_SOCKET": "/from/variable", "XDG_RUNTIME_DIR": "/run/user/7"}

    assert socket_candidates(settings, environ) == [Path("/from/variable")]
    assert socket_candidates(settings, {}) == [Path("/from/settings")]
    assert socket_path(settings, environ, 7) == Path("/from/variable")
    assert socket_path(settings, {}, 7) == Path("/from/settings")


def test_the_systems_socket_goes_before_the_users() -> None:
    assert socket_candidates(Settings(), {"XDG_RUNTIME_DIR": "/run/user/7"}) == [
        Path("/run/syncd/syncd.sock"),
        Path("/run/user/7/syncd/syncd.sock"),
    ]
    assert socket_candidates(Settings(), {"XDG_RUNTIME_DIR": "relative"}) == [Path("/run/syncd/syncd.sock")]


def test_the_daemon_binds_where_its_user_may(tmp_path: Path) -> None:
    mine, none = tmp_path / "syncd.sock", tmp_path / "none" / "syncd.sock"
    environ = {"XDG_RUNTIME_DIR": "/run/user/7"}

    assert socket_path(Settings(), environ, 0, system_socket=none) == none
    assert socket_path(Settings(), environ, 7, system_socket=mine) == mine
    assert socket_path(Settings(), environ, 7, system_socket=none) == Path("/run/user/7/syncd/syncd.sock")
    with pytest.raises(ConfigurationError, match="can make no socket"):
        socket_path(Settings(), {}, 7, system_socket=none)
