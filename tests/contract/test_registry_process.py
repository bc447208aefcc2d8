"""The scriptable registry as a process, and over TLS."""

import http.client
import json
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.http import Client
from tests.support.models import build_model
from tests.support.registry import ScriptedRegistry
from tests.support.tls import make_authority

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def process() -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    command = [sys.executable, "-m", "tests.support.registry", "--models", "one", "--weights-mib", "2"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield running, json.loads(running.stdout.readline())
        running.terminate()


def control(introduction: dict[str, Any], method: str = "", arguments: dict[str, Any] | None = None) -> Any:
    body = None if arguments is None else json.dumps(arguments).encode()
    with urllib.request.urlopen(f"{introduction['control']}/{method}", body, timeout=30) as answer:
        return json.load(answer)


def test_a_registry_process_can_be_steered_and_asked(
    process: tuple["subprocess.Popen[str]", dict[str, Any]],
) -> None:
    running, introduction = process
    model = introduction["models"][0]
    control(introduction, "drop_after", {"after": 1000, "times": 1})

    with Client(introduction["host"]) as client:
        path = f"/v2/library/mistral/blobs/{model['weights']}"
        assert len(client.ask("GET", path).body) == 1000
        assert len(client.ask("GET", path).body) == model["blobs"][model["weights"]]

    counts = control(introduction)
    assert counts["served"][model["weights"]] == 1000 + model["blobs"][model["weights"]]
    assert (counts["blob_requests"], counts["fired"]) == (2, [1])
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 0


@pytest.mark.parametrize(("method", "arguments"), [("add", {}), ("throttle", {"nonsense": 1})])
def test_it_refuses_what_it_does_not_know(
    process: tuple["subprocess.Popen[str]", dict[str, Any]], method: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        control(process[1], method, arguments)
    assert refused.value.code in (400, 404)
    refused.value.close()


def test_it_speaks_tls_to_those_who_trust_its_authority(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    with ScriptedRegistry(tls=authority.server) as registry:
        model = registry.add(build_model("mistral:7b"))
        trusting = ssl.create_default_context(cafile=str(authority.ca_file))
        connection = http.client.HTTPSConnection(registry.host, context=trusting, timeout=30)
        connection.request("GET", f"/v2/{model.repository}/manifests/{model.tag}")
        with connection.getresponse() as answer:
            assert answer.read() == model.manifest
        connection.close()

        strange = http.client.HTTPSConnection(registry.host, context=ssl.create_default_context(), timeout=30)
        with pytest.raises(ssl.SSLCertVerificationError):
            strange.request("GET", "/v2/")
        strange.close()
    assert registry.url.startswith("https://")
