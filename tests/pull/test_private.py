"""Registries that not everybody may read, or reach: keys, passwords, tokens, an authority of one's own, proxies."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from syncd.errors import NotAuthorisedError, RegistryError
from syncd.oci.chunks import CHUNK_SIZE
from syncd.registry.hosts import Credentials, RegistryConfig
from syncd.registry.proxies import Proxies
from syncd.registry.transport import Outside
from tests.pull.world import pulled
from tests.support.models import synthetic_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry
from tests.support.tls import make_authority
from tests.unit.registry_world import Names

PASSWORD = RegistryConfig(credentials=Credentials(username="reader", password="canary"))
MISTRAL = synthetic_model(weights_bytes=CHUNK_SIZE + 99)


@pytest.fixture
def model(registry: ScriptedRegistry) -> ModelHandle:
    return registry.add(MISTRAL)


def key() -> tuple[bytes, bytes]:
    """An ed25519 key as ``ollama`` makes it: the private one in OpenSSH's form, and the raw public one."""
    made = Ed25519PrivateKey.generate()
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return pem, made.public_key().public_bytes_raw()


async def test_a_private_model_opens_to_ollamas_key(
    registry: ScriptedRegistry, model: ModelHandle, store_path: Path
) -> None:
    pem, public = key()
    registry.require_token(keys=(public,))

    await pulled(model.name, store_path, configs={registry.host: RegistryConfig(key_pem=pem)})

    assert assert_store_whole(store_path) == {model.name: model.digest}


async def test_a_private_model_stays_closed_to_another_key_and_to_none(
    registry: ScriptedRegistry, model: ModelHandle, store_path: Path
) -> None:
    registry.require_token(keys=(key()[1],))

    for config in (RegistryConfig(key_pem=key()[0]), RegistryConfig()):
        with pytest.raises(NotAuthorisedError) as refused:
            await pulled(model.name, store_path, configs={registry.host: config})
        assert refused.value.exit_code == 4
        assert refused.value.hint

    assert assert_store_whole(store_path) == {}
    assert registry.blob_requests() == []


async def test_a_password_opens_a_registry_and_its_token_service(
    registry: ScriptedRegistry, model: ModelHandle, store_path: Path
) -> None:
    registry.require_token(login=("reader", "canary"), lifetime=60)

    await pulled(model.name, store_path, configs={registry.host: PASSWORD})

    assert assert_store_whole(store_path) == {model.name: model.digest}


async def test_a_password_opens_a_registry_that_asks_for_no_more(
    registry: ScriptedRegistry, model: ModelHandle, store_path: Path
) -> None:
    registry.require_basic("reader", "canary")

    await pulled(model.name, store_path, configs={registry.host: PASSWORD})

    assert assert_store_whole(store_path) == {model.name: model.digest}


async def test_a_wrong_password_is_not_authorised_and_not_told(
    registry: ScriptedRegistry, model: ModelHandle, store_path: Path
) -> None:
    registry.require_basic("reader", "another")

    with pytest.raises(NotAuthorisedError) as refused:
        await pulled(model.name, store_path, configs={registry.host: PASSWORD})

    assert "canary" not in f"{refused.value.message} {refused.value.hint}"
    assert assert_store_whole(store_path) == {}


async def test_no_password_reaches_the_host_that_blobs_are_redirected_to(
    registry: ScriptedRegistry, model: ModelHandle, store_path: Path
) -> None:
    registry.serve_blobs_from_cdn(status=307, uses=1)
    registry.require_basic("reader", "canary")

    await pulled(model.name, store_path, configs={registry.host: PASSWORD})

    there = [request for request in registry.requests if request.origin == "cdn"]
    assert there
    assert not any(request.authorization or request.headers.get("Cookie") for request in there)
    assert assert_store_whole(store_path) == {model.name: model.digest}


async def test_a_registry_with_a_certificate_of_ones_own_authority_is_trusted_where_that_is_set(
    store_path: Path, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path)
    with ScriptedRegistry(tls=authority.server) as registry:
        model = registry.add(MISTRAL)
        name = model.name.removeprefix("https://")

        with pytest.raises(RegistryError):
            await pulled(name, store_path, configs={registry.host: RegistryConfig(plain_http=False)})
        assert assert_store_whole(store_path) == {}

        config = RegistryConfig(plain_http=False, ca_file=authority.ca_file)
        await pulled(name, store_path, configs={registry.host: config})

        assert assert_store_whole(store_path) == {name: model.digest}


async def test_plain_http_is_not_spoken_beyond_loopback_unless_the_settings_say_so(
    registry: ScriptedRegistry, model: ModelHandle, store_path: Path
) -> None:
    host = f"registry.test:{registry.host.rpartition(':')[2]}"
    name = f"{host}/{model.repository}:{model.tag}"
    outside = Outside(proxies=Proxies({}), resolver=Names(registry_test="127.0.0.1"))

    with pytest.raises(RegistryError) as refused:
        await pulled(name, store_path, outside=outside)

    assert refused.value.exit_code == 5
    assert refused.value.hint
    assert registry.requests == ()
    assert assert_store_whole(store_path) == {}

    await pulled(name, store_path, outside=outside, configs={host: RegistryConfig(plain_http=True)})
    assert assert_store_whole(store_path) == {name: model.digest}


async def test_a_proxy_is_asked_for_everything(
    registry: ScriptedRegistry, model: ModelHandle, store_path: Path
) -> None:
    # The registry is its own proxy: it understands requests that name their host, and nobody else knows that name.
    outside = Outside(proxies=Proxies({"http": f"http://user:canary@{registry.host}"}), resolver=Names())
    name = f"registry.test/{model.repository}:{model.tag}"

    await pulled(name, store_path, outside=outside, configs={"registry.test": RegistryConfig(plain_http=True)})

    assert assert_store_whole(store_path) == {name: model.digest}
    assert all(request.headers["Host"] == "registry.test" for request in registry.requests)
    assert all(request.headers.get("Proxy-Authorization") for request in registry.requests)
