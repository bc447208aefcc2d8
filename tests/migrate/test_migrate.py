"""A host on which eight servers pulled by themselves comes to one store, whatever interrupts that."""

from pathlib import Path

from tests.migrate.world import ruined, standing, with_daemon
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry


def test_after_it_every_model_is_proved_on_all_eight_servers(tmp_path: Path, registry: ScriptedRegistry) -> None:
    with with_daemon(tmp_path / "host", registry) as host:
        done = host.migrate()

        assert done.code == 0, done.errors
        assert assert_store_whole(host.store) == host.published
        assert [standing(server) for server in done.end["servers"]] == [{True}] * 8
        assert all(server["up"] for server in done.end["servers"])


def test_without_a_daemon_the_store_is_mended_and_servers_are_left_alone(
    tmp_path: Path, registry: ScriptedRegistry
) -> None:
    with ruined(tmp_path / "host", registry) as host:
        done = host.migrate()

        assert done.code == 0, done.errors
        assert assert_store_whole(host.store) == host.published
        assert done.end["servers"] is None
