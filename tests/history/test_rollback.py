"""Rolling back: what was published once is published again, fetched only as far as it is gone, and stays."""

from tests.history.world import Versions, told
from tests.support.daemon import RunningDaemon
from tests.support.registry import ScriptedRegistry


def test_the_version_before_is_back_without_the_network(host: RunningDaemon, registry: ScriptedRegistry) -> None:
    versions = Versions(host, registry)
    registry.stop()

    rolled = told(host, "rollback", versions.name)

    assert rolled["digest"] == versions.handles[1].digest == versions.visible()
    assert (rolled["previous"], rolled["fetched_bytes"]) == (versions.handles[2].digest, 0)
