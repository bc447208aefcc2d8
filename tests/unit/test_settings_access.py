"""Secrets: from files or the environment, read at once, bounded, shown nowhere."""

import os
from pathlib import Path
from typing import Any

import pytest

from syncd.daemon.access import Access, registry_access, variable
from syncd.daemon.loaded import Loaded, load
from syncd.errors import ConfigurationError

CANARY = "canary-4711"


def settings(folder: Path, text: str) -> Loaded:
    path = folder / "syncd.toml"
    path.write_text(text)
    return load(path, {})


def secret(folder: Path, content: bytes = CANARY.encode() + b"\n", mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def access(loaded: Loaded, environ: dict[str, str] | None = None, **more: Any) -> Access:
    return registry_access(loaded, environ or {}, own_key=None, **more)


def test_a_password_comes_from_its_file_without_the_newline(tmp_path: Path) -> None:
    loaded = settings(tmp_path, f"[registries.'r.lan']\nusername = 'me'\npassword_file = '{secret(tmp_path)}'\n")

    found = access(loaded)

    assert found.configs["r.lan"].credentials.basic == ("me", CANARY)
    assert found.notices == ()
    assert CANARY not in repr(found)


def test_a_token_comes_from_its_file(tmp_path: Path) -> None:
    loaded = settings(tmp_path, f"[registries.'r.lan']\ntoken_file = '{secret(tmp_path)}'\n")

    assert access(loaded).configs["r.lan"].credentials.token == CANARY


def test_the_environment_goes_before_files(tmp_path: Path) -> None:
    loaded = settings(tmp_path, f"[registries.'r.lan:5000']\nusername = 'me'\npassword_file = '{secret(tmp_path)}'\n")
    environ = {"SYNCD_REGISTRY_R_LAN_5000_USERNAME": "you", "SYNCD_REGISTRY_R_LAN_5000_PASSWORD": "other"}

    assert access(loaded, environ).configs["r.lan:5000"].credentials.basic == ("you", "other")


def test_ollamas_registry_takes_secrets_from_the_environment_without_settings() -> None:
    found = access(Loaded(), {"SYNCD_REGISTRY_REGISTRY_OLLAMA_AI_TOKEN": CANARY})

    assert found.configs["registry.ollama.ai"].credentials.token == CANARY
    assert found.default.credentials is None


def test_a_host_with_a_similar_name_gets_nothing_from_the_environment() -> None:
    environ = {"SYNCD_REGISTRY_REGISTRY_OLLAMA_AI_TOKEN": CANARY}

    found = access(Loaded(), environ, asked=["registry-ollama.ai"])

    assert "registry-ollama.ai" not in found.configs
    assert found.notices == (
        'SYNCD_REGISTRY_REGISTRY_OLLAMA_AI_TOKEN is not used: the settings have no [registries."registry-ollama.ai"]',
    )


def test_two_hosts_that_share_a_variable_are_refused_it(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "[registries.'a-b.c']\n[registries.'a.b-c']\n")

    assert access(loaded).configs.keys() >= {"a-b.c", "a.b-c"}
    with pytest.raises(ConfigurationError, match="could mean"):
        access(loaded, {variable("a-b.c", "TOKEN"): CANARY})


def test_a_secret_that_everybody_can_read_is_used_with_a_warning(tmp_path: Path) -> None:
    path = secret(tmp_path, mode=0o644)
    loaded = settings(tmp_path, f"[registries.'r.lan']\ntoken_file = '{path}'\n")

    assert access(loaded).notices == (f"{path} can be read by everybody: chmod 600 it",)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xfe", b"esc\x1b[2J", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    loaded = settings(tmp_path, f"\n[registries.'r.lan']\ntoken_file = '{secret(tmp_path, content)}'\n")

    with pytest.raises(ConfigurationError, match=r"syncd\.toml:3: token_file .* cannot be used") as caught:
        access(loaded)
    assert "two" not in caught.value.message


def test_a_secret_that_is_missing_is_refused_with_its_line(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "[registries.'r.lan']\nusername = 'me'\npassword_file = '/no/such'\n")

    with pytest.raises(ConfigurationError, match=r"syncd\.toml:3: password_file /no/such cannot be used: No such file"):
        access(loaded)


def test_a_fifo_in_place_of_a_secret_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    loaded = settings(tmp_path, f"[registries.'r.lan']\ntoken_file = '{tmp_path}/fifo'\n")

    with pytest.raises(ConfigurationError, match="it is empty"):
        access(loaded)


@pytest.mark.parametrize(
    ("table", "missing"), [("username = 'me'", "no password"), ("password_file = 'SECRET'", "no username")]
)
def test_half_of_basic_auth_is_refused(tmp_path: Path, table: str, missing: str) -> None:
    loaded = settings(tmp_path, f"[registries.'r.lan']\n{table.replace('SECRET', str(secret(tmp_path)))}\n")

    with pytest.raises(ConfigurationError, match=missing):
        access(loaded)


def test_a_mirror_that_is_no_url_is_refused_with_its_line_and_unquoted(tmp_path: Path) -> None:
    loaded = settings(tmp_path, f"[registries.'r.lan']\nmirrors = ['http://u:{CANARY}@mirror']\n")

    with pytest.raises(ConfigurationError, match=r"syncd\.toml:2: a mirror of r\.lan") as caught:
        access(loaded)
    assert CANARY not in caught.value.message


def test_a_ca_file_that_is_missing_is_refused_with_its_line(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "[registries.'r.lan']\nca_file = '/no/such.pem'\n")

    with pytest.raises(ConfigurationError, match=r"syncd\.toml:2: ca_file"):
        access(loaded)


def test_ollamas_own_key_opens_every_registry_that_has_no_other(tmp_path: Path) -> None:
    own, other = secret(tmp_path), tmp_path / "other"
    other.write_bytes(b"other")
    other.chmod(0o600)
    loaded = settings(tmp_path, f"[registries.'r.lan']\nkey_file = '{other}'\n[registries.'s.lan']\n")

    found = registry_access(loaded, {}, own_key=own)

    own.unlink()
    assert found.default.key_pem == CANARY.encode() + b"\n"
    assert found.configs["r.lan"].key_pem == b"other"
    assert found.configs["s.lan"].key_pem == found.default.key_pem
    assert CANARY not in repr(found)


def test_no_key_of_ollamas_is_no_fault(tmp_path: Path) -> None:
    found = registry_access(Loaded(), {}, own_key=tmp_path / "none")

    assert not found.default.has_key
    assert found.notices == ()
