"""What containers' labels say."""

from typing import Any

import pytest

from syncd.instances.containers import Container
from syncd.instances.labels import MAX_INSTANCES, labelled
from syncd.instances.model import Instance, Origin, Prove, ReloadWay


def container(
    called: str = "ollama-1", /, *, host_network: bool = True, addresses: tuple[str, ...] = (), **labels: str
) -> Container:
    told: dict[str, Any] = {
        "Id": f"{called}-id",
        "Name": f"/{called}",
        "State": {"Running": True, "StartedAt": "2026-05-01T12:00:00.123456789Z"},
        "Config": {"Labels": {"syncd.instance": "true", **{f"syncd.{key}": value for key, value in labels.items()}}},
        "HostConfig": {"NetworkMode": "host" if host_network else "bridge"},
        "NetworkSettings": {"Networks": {f"net-{at}": {"IPAddress": one} for at, one in enumerate(addresses)}},
    }
    return Container.of(told)


def test_the_mark_alone_makes_an_instance_where_ollama_listens_by_default() -> None:
    found = labelled([container()])

    assert found.instances == (
        Instance(name="ollama-1", url="http://127.0.0.1:11434", container="ollama-1", origin=Origin.DOCKER),
    )
    assert found.faults == ()


def test_every_label_counts() -> None:
    marked = container(
        "c1", port="11436", host="gpu.lan", reload="signal", signal="SIGUSR1", prove="never", prewarm="true"
    )

    (found,) = labelled([marked]).instances

    assert found == Instance(
        name="c1",
        url="http://gpu.lan:11436",
        container="c1",
        reload=ReloadWay.SIGNAL,
        signal="SIGUSR1",
        prove=Prove.NEVER,
        prewarm=True,
        origin=Origin.DOCKER,
    )


def test_a_container_outside_the_hosts_network_is_reached_at_its_own_address() -> None:
    (found,) = labelled([container(host_network=False, addresses=("172.17.0.5", "10.0.0.2"))]).instances

    assert found.url == "http://172.17.0.5:11434"


@pytest.mark.parametrize(
    ("host", "url"),
    [("::1", "http://[::1]:11434"), ("[fd00::2]", "http://[fd00::2]:11434"), ("10.0.0.7", "http://10.0.0.7:11434")],
)
def test_an_address_is_written_as_a_url_wants_it(host: str, url: str) -> None:
    assert labelled([container(host=host)]).instances[0].url == url


def test_containers_without_the_mark_are_left_alone() -> None:
    unmarked = [container(instance=value) for value in ("false", "", "0", "yes please")]

    assert labelled(unmarked) == labelled([])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", "0"),
        ("port", "65536"),
        ("port", "11434/tcp"),
        ("port", "9" * 5000),
        ("port", "١١٤٣٤"),
        ("host", "evil.example/path?"),
        ("host", "user@host"),
        ("host", "a" * 300),
        ("host", ""),
        ("name", "../etc"),
        ("name", "x" * 65),
        ("name", "a\x1b[31mred"),
        ("name", "two\nlines"),
        ("reload", "exec"),
        ("reload", "reboot"),
        ("signal", "KILL; rm"),
        ("prove", "sometimes"),
        ("prewarm", "maybe"),
    ],
)
def test_a_label_that_cannot_be_meant_leaves_out_its_container_and_no_other(key: str, value: str) -> None:
    found = labelled([container("bad-one", **{key: value}), container("good-one")])

    assert [one.name for one in found.instances] == ["good-one"]
    (fault,) = found.faults
    assert "bad-one" in fault
    assert fault.isprintable()
    assert len(fault) < 400


def test_no_address_is_reported() -> None:
    found = labelled([container(host_network=False)])

    assert found.instances == ()
    assert "syncd.host" in found.faults[0]


def test_of_two_with_one_name_the_first_counts() -> None:
    found = labelled([container("b2", name="gpu"), container("a1", name="gpu")])

    assert [one.container for one in found.instances] == ["a1"]
    assert "b2" in found.faults[0]


def test_a_label_that_nobody_knows_is_reported_and_the_container_stays() -> None:
    found = labelled([container(prewarn="true")])

    assert len(found.instances) == 1
    assert "syncd.prewarn" in found.faults[0]


def test_their_number_is_bounded() -> None:
    found = labelled([container(f"c{number:04}") for number in range(MAX_INSTANCES + 2)])

    assert len(found.instances) == MAX_INSTANCES
    assert len(found.faults) == 2
