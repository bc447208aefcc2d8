"""A hundred power cuts at random moments of a pull; after each a look at what the disk holds, and another pull."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.disk import Disk, needs_power
from tests.crash.scene import Puller, Scene
from tests.support.oracle import assert_store_whole
from tests.support.registry import ScriptedRegistry

pytestmark = [pytest.mark.power, pytest.mark.timeout(300)]

_CUTS = 100
_BATCHES = 4  # so that xdist's workers share them
# ext4 guesses that a rename over a file asks for that file's bytes; syncd must not need that. Without ordered data a
# file that was not synced may show what the disk held before.
_OPTIONS = ("noauto_da_alloc", "noauto_da_alloc,data=writeback", "defaults")
_LEFTOVERS = 8  # temporary files whose removal or renaming did not reach the disk


@dataclass(frozen=True, slots=True)
class World:
    """``disk`` holds a store with a past. ``seconds``: how long the pull takes that is cut."""

    disk: Disk
    scene: Scene
    seconds: float


@pytest.fixture(scope="module")
def world(puller: Puller, quick_folder: Path) -> Iterator[World]:
    needs_power()
    disk = Disk.make(quick_folder / "disk.img", quick_folder / "disk")
    with ScriptedRegistry() as registry:
        with disk.mounted():
            scene = Scene(registry, puller, disk.folder)
        yield World(disk, scene, _duration(disk, scene))


def _duration(disk: Disk, scene: Scene) -> float:
    seconds = []
    for _ in range(3):
        copy = disk.copy(disk.folder.with_suffix(".copy"))
        with copy.mounted():
            started = time.monotonic()
            assert scene.puller.pull(scene.template, scene.new.name).done
            seconds.append(time.monotonic() - started)
        copy.remove()
    return sorted(seconds)[1]


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_after_a_power_cut_everything_visible_is_whole_and_the_next_run_converges(world: World, batch: int) -> None:
    moments = random.Random(batch)
    done = updated = 0
    for number in range(_CUTS // _BATCHES):
        disk = world.disk.copy(world.disk.folder.with_suffix(".cut"))
        options = _OPTIONS[number % len(_OPTIONS)]
        with disk.mounted(options):
            run = world.scene.puller.start(world.scene.template, world.scene.new.name, connections=2)
            time.sleep(moments.uniform(0, 1.1 * world.seconds))
            disk.cut_power()
            ending = run.kill()
        with disk.mounted(options):
            world.scene.assert_nothing_lost(world.scene.template)
            visible = assert_store_whole(world.scene.template)[world.scene.new.name]
            assert not ending.done or visible == world.scene.new.digest, "it said that it was done, and was not"
            world.scene.assert_converges(world.scene.template, leftovers=_LEFTOVERS)
        disk.remove()
        done += ending.done
        updated += visible == world.scene.new.digest
    print(f"{_CUTS // _BATCHES} power cuts: {updated} had published, {done} had said so")
