"""Policy: what is not to be here does not come in by any way, not by a byte, and the refusal names the rule."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from syncd.jobs.policy import MaxSize, Patterns, Policy, PolicyError, refuse
from syncd.oci.name import ModelName
from tests.history.world import refused, run, version, versions, visible
from tests.pull.world import pulled
from tests.support.daemon import RunningDaemon, eventually
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry

MISTRAL = ModelName.parse("mistral:7b")
FOREIGN = ModelName.parse("hf.co/user/repo-GGUF:Q4_K_M")


def listed(*patterns: str) -> Patterns:
    return Patterns(patterns, "/etc/syncd/syncd.toml:7")


@pytest.mark.parametrize(
    ("policy", "name", "rule"),
    [
        (Policy(deny_registries=listed("hf.co")), FOREIGN, 'policy.deny_registries has "hf.co"'),
        (Policy(deny_registries=listed("HF.*")), FOREIGN, 'policy.deny_registries has "HF.*"'),
        (Policy(allow_registries=listed("*.lan:5000")), FOREIGN, "policy.allow_registries has no pattern for it"),
        (Policy(deny_names=listed("mistral:*")), MISTRAL, 'policy.deny_names has "mistral:*"'),
        (Policy(deny_names=listed("*/library/mistral:*")), MISTRAL, "policy.deny_names"),
        (Policy(allow_names=listed("llama*")), MISTRAL, "policy.allow_names has no pattern for it"),
        (Policy(allow_names=listed("*"), deny_names=listed("*:7b")), MISTRAL, 'policy.deny_names has "*:7b"'),
    ],
)
def test_a_refusal_names_its_rule_and_its_line(policy: Policy, name: ModelName, rule: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        refuse(policy, name, None)

    assert rule in refusal.value.message
    assert "/etc/syncd/syncd.toml:7" in refusal.value.message


@pytest.mark.parametrize("host", ["hf.co:443", "hf.co.", "HF.co", "hf.co.:443"])
def test_what_is_denied_is_denied_however_its_host_is_spelled(host: str) -> None:
    name = ModelName.parse(f"{host}/user/repo-GGUF:Q4_K_M")

    for policy in (Policy(deny_registries=listed("hf.co")), Policy(deny_names=listed("hf.co/user/*"))):
        with pytest.raises(PolicyError):
            refuse(policy, name, None)
    with pytest.raises(PolicyError):
        refuse(Policy(deny_names=listed("mistral:*")), replace(MISTRAL, host="registry.ollama.ai:443"), None)


def test_an_allowed_host_is_that_host_and_no_other_port_of_it() -> None:
    with pytest.raises(PolicyError):
        refuse(Policy(allow_registries=listed("hf.co")), ModelName.parse("hf.co:8443/user/repo-GGUF:Q4_K_M"), None)


@pytest.mark.parametrize(
    "policy",
    [
        Policy(),
        Policy(allow_registries=listed("registry.ollama.ai"), allow_names=listed("mistral:*")),
        Policy(deny_registries=listed("hf.co"), deny_names=listed("llama*"), max_size=MaxSize(100)),
        Policy(allow_names=listed("registry.ollama.ai/library/*")),
    ],
)
def test_what_no_rule_is_against_comes_in(policy: Policy) -> None:
    refuse(policy, MISTRAL, 100)


def test_the_size_limit_is_of_all_blobs_together() -> None:
    with pytest.raises(PolicyError, match="more than the policy allows"):
        refuse(Policy(max_size=MaxSize(99)), MISTRAL, 100)


RULES = [
    ("deny_registries", '["127.0.0.1:*"]', 0),
    ("allow_registries", '["registry.ollama.ai"]', 0),
    ("deny_names", '["*/mistral:*"]', 0),
    ("allow_names", '["llama*"]', 0),
    ("max_size", '"100 kB"', 1),
]


@pytest.fixture
def mistral(registry: ScriptedRegistry) -> ModelHandle:
    return version(registry, 1)


@pytest.mark.parametrize(("key", "value", "requests"), RULES)
def test_a_pull_is_refused_before_its_first_byte(
    registry: ScriptedRegistry, mistral: ModelHandle, host: RunningDaemon, key: str, value: str, requests: int
) -> None:
    host.write_settings(f"[policy]\n{key} = {value}")

    error = refused(host, "pull", mistral.name, code=4)

    assert f"policy.{key}" in error
    assert f"{host.config}:4" in error
    assert len(registry.manifest_requests()) == len(registry.requests) == requests
    assert visible(host.store) == {}


def test_a_daemon_refuses_pulls_by_every_way(
    registry: ScriptedRegistry, mistral: ModelHandle, host: RunningDaemon
) -> None:
    host.write_settings('[policy]\nmax_size = "100 kB"')

    with host, host.connection() as connection:
        error = refused(host, "pull", mistral.name, code=4)
        body = json.dumps({"model": mistral.name})
        connection.request("POST", "/api/pull", body, {"Content-Type": "application/json"})
        told = connection.getresponse().read().decode()

    assert "policy.max_size" in error
    assert "policy.max_size" in told
    assert not registry.blob_requests()


@pytest.mark.parametrize(("key", "value", "requests"), [RULES[2], RULES[4]])
def test_the_reconcile_shows_the_rule_and_does_not_try_again_and_again(
    registry: ScriptedRegistry, mistral: ModelHandle, host: RunningDaemon, key: str, value: str, requests: int
) -> None:
    host.write_settings(f'[[models]]\nname = "{mistral.name}"\n[policy]\n{key} = {value}')

    with host:
        eventually(lambda: host.model(mistral.name)["state"] == "failing")
        shown = host.model(mistral.name)
        assert f"policy.{key}" in shown["reason"]
        assert f"{host.config}:6" in shown["reason"]
        assert len(registry.requests) == requests

        host.write_settings(f'[[models]]\nname = "{mistral.name}"')
        eventually(lambda: host.model(mistral.name)["state"] == "published")


async def test_adopting_and_rolling_back_are_refused_too(
    registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    foreign = version(registry, 1)
    await pulled(foreign.name, source)
    host.write_settings('[policy]\ndeny_names = ["*/mistral:*"]')

    assert "policy.deny_names" in refused(host, "adopt", str(source), code=4)
    assert visible(host.store) == {}
    host.write_settings("")
    _, second = await versions(registry, host.store, 2)
    host.write_settings('[policy]\ndeny_names = ["*/mistral:*"]')
    assert "policy.deny_names" in refused(host, "rollback", second.name, code=4)
    host.write_settings("")
    run(host, "rollback", second.name)


async def test_what_is_here_already_is_mended_whatever_the_policy_says_by_now(
    registry: ScriptedRegistry, mistral: ModelHandle, host: RunningDaemon
) -> None:
    await pulled(mistral.name, host.store)
    weights = host.store / "blobs" / mistral.weights.replace(":", "-")
    weights.chmod(0o644)
    weights.write_bytes(b"not what it was")
    host.write_settings('[policy]\ndeny_names = ["*/mistral:*"]\nmax_size = "1 kB"')

    run(host, "verify", "--repair")

    assert assert_store_whole(host.store) == {mistral.name: mistral.digest}
    registry.forget_requests()
    assert "policy.deny_names" in refused(host, "pull", mistral.name, code=4)
    assert not registry.requests


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("deny_names = []", "deny_names"),
        ('allow_names = "x"', "allow_names"),
        ('max_size = "big"', "max_size"),
        ("deny_name = ['x']", "deny_names"),
    ],
)
def test_a_policy_that_says_nothing_is_refused(host: RunningDaemon, setting: str, says: str) -> None:
    host.write_settings(f"[policy]\n{setting}")

    assert says in refused(host, "config", "check", code=10)


async def test_migrating_is_refused_too(registry: ScriptedRegistry, host: RunningDaemon, tmp_path: Path) -> None:
    source = tmp_path / "source"
    foreign = version(registry, 1)
    await pulled(foreign.name, source)
    host.write_settings('[policy]\nallow_registries = ["registry.ollama.ai"]')

    assert "policy.allow_registries" in refused(host, "migrate", str(source), code=4)

    assert visible(host.store) == {}
