"""The metrics of the servers: clean, true, and bounded by the servers that there are."""

import os
import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry

from syncd.api.exposition import Exposition
from syncd.daemon.telemetry_instances import InstanceTelemetry
from syncd.instances.model import Instance
from syncd.instances.ollama import Reason
from syncd.instances.probe import Cell, Level, Row, Word
from syncd.oci.name import ModelName

MODELS = [ModelName.parse(name) for name in ("mistral:7b", "llava:7b")]


def row(name: str, *words: Word, up: bool | None = True, version: str | None = "0.12.6") -> Row:
    cells = tuple(
        Cell(model=model, digest="a" * 64, word=word, served=word is Word.SERVED, proved=word is Word.PROVED)
        for model, word in zip(MODELS, words, strict=False)
    )
    return Row(instance=Instance(name=name, url="http://h"), up=up, version=version, fault=None, life=1, cells=cells)


def read(exposition: Exposition) -> str:
    return exposition.render("")[0].decode()


def test_what_servers_serve_is_told_by_server_and_model() -> None:
    metrics = Exposition(CollectorRegistry())
    telemetry = InstanceTelemetry(metrics)
    telemetry.watch(lambda: (row("a", Word.PROVED, Word.MISSING), row("b", up=None, version=None)))
    telemetry.probed("a", Level.SHOW, 0.01, None)
    telemetry.probed("a", Level.PROOF, 3.0, Reason.TIMEOUT)

    text = read(metrics)

    assert 'syncd_instance_up{instance="a"} 1.0' in text
    assert 'syncd_instance_up{instance="b"}' not in text  # nobody has asked it yet
    assert 'syncd_instance_info{instance="a",version="0.12.6"} 1.0' in text
    assert 'syncd_instance_model_available{instance="a",model="mistral:7b"} 1.0' in text
    assert 'syncd_instance_model_available{instance="a",model="llava:7b"} 0.0' in text
    assert 'syncd_instance_model_state{instance="a",model="llava:7b",state="missing"} 1.0' in text
    assert 'syncd_instance_model_state{instance="a",model="llava:7b",state="proved"} 0.0' in text
    assert 'syncd_instance_probe_failures_total{instance="a",level="proof",reason="timeout"} 1.0' in text
    assert 'syncd_instance_probe_failures_total{instance="a",level="look",reason="refused"} 0.0' in text
    assert 'syncd_instance_probe_seconds_count{instance="a",level="proof"} 1.0' in text


def test_a_server_that_left_leaves_no_metric() -> None:
    metrics = Exposition(CollectorRegistry())
    telemetry = InstanceTelemetry(metrics)
    rows = [row("a", Word.PROVED), row("b", Word.PROVED)]
    telemetry.watch(lambda: tuple(rows))
    for one in rows:
        telemetry.probed(one.instance.name, Level.LOOK, 0.01, Reason.REFUSED)

    rows.pop()
    read(metrics)

    assert 'instance="b"' not in read(metrics)
    assert 'instance="a"' in read(metrics)


def test_promtool_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is not installed (Debian: apt install prometheus)"
        pytest.skip("NOT RUN: promtool is not installed")
    metrics = Exposition(CollectorRegistry())
    telemetry = InstanceTelemetry(metrics)
    telemetry.watch(lambda: (row("a", *Word),))
    telemetry.probed("a", Level.LOOK, 0.01, Reason.STATUS)

    done = subprocess.run(
        [promtool, "check", "metrics"], input=read(metrics), text=True, capture_output=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
