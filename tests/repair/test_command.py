"""``syncd verify --repair`` without a daemon: what it says, and its exit codes."""

import itertools
import json
import os
import subprocess
import time
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from syncd.api.repair import MendingNow
from syncd.cli.mending import View, damage_and_mending
from syncd.jobs.damage import Damage
from syncd.jobs.scrub import ScrubEars, ScrubWish, scrub
from syncd.store.root import Store
from tests.pull.world import blob_file, pulled
from tests.repair.world import flipped
from tests.scrub.world import book_of
from tests.support import commands
from tests.support.models import build_model
from tests.support.oracle import assert_store_whole
from tests.support.registry import ModelHandle, ScriptedRegistry


def syncd(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(store.parent), "LANG": "C.UTF-8"}
    return commands.completed(*arguments, "--store", str(store), environ=environ)


@pytest.fixture
async def rotten(registry: ScriptedRegistry, tmp_path: Path) -> ModelHandle:
    model = registry.add(build_model("mistral:7b"))
    await pulled(model.name, tmp_path / "models")
    flipped(5000)(tmp_path / "models" / "blobs" / blob_file(model.weights))
    return model


def test_it_mends_and_says_what_it_fetched(rotten: ModelHandle, tmp_path: Path) -> None:
    store = tmp_path / "models"
    done = syncd(store, "verify", "--repair")

    assert done.returncode == 0, done.stderr
    assert f"{rotten.name}: {rotten.weights}: mended" in done.stdout
    assert "1 blob was damaged and is mended, " in done.stdout
    assert assert_store_whole(store) == {rotten.name: rotten.digest}
    assert "no blob is damaged" in syncd(store, "verify", "--repair").stdout
    assert syncd(store, "verify", rotten.name, "--repair").returncode == 0


def test_its_json_is_a_line_per_fault_and_per_end(rotten: ModelHandle, tmp_path: Path) -> None:
    done = syncd(tmp_path / "models", "verify", "--repair", "--json", rotten.name)

    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    events = [line["event"] for line in lines if line["event"] not in {"progress", "mending"}]
    assert events == ["fault", "mended", "mended_all"]
    assert lines[-1]["fetched"] == rotten.weights_size


def test_while_a_registry_is_away_that_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    now = itertools.count(0.0, 3.0)
    view = View(None, as_json=False, clock=lambda: next(now))
    waiting = MendingNow("mending", "sha256:1", 4_000_000, 1_000_000, 0, "example.org refused\x1b[2J the connection")

    for _ in range(3):
        view.hear(waiting)
    view.hear(msgspec.structs.replace(waiting, done=2_000_000, fetched=1_000_000))

    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("sha256:1: 1.0 MB of 4.0 MB, 0 B fetched; tried again: example.org refused")
    assert "\x1b" not in first
    assert second.startswith("sha256:1: 2.0 MB of 4.0 MB, 1.0 MB fetched; ")


def test_what_cannot_be_mended_is_an_error_of_integrity(
    rotten: ModelHandle, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    registry.remove_blob(rotten.weights)

    done = syncd(tmp_path / "models", "verify", "--repair")

    assert done.returncode == 6
    assert "cannot be mended" in done.stdout
    assert "1 blob was damaged and could not be mended" in done.stdout
    assert f"error: 1 blob could not be mended: {rotten.weights}: " in done.stderr
    assert "backup" in done.stderr
    assert assert_store_whole(tmp_path / "models") == {}


def test_a_scrub_mends_what_it_finds(rotten: ModelHandle, tmp_path: Path) -> None:
    store = tmp_path / "models"

    done = syncd(store, "scrub", "--repair")

    assert done.returncode == 0, done.stderr
    assert f"{rotten.name}: {rotten.weights}: mended" in done.stdout
    assert "1 blob was damaged and is mended, " in done.stdout
    assert assert_store_whole(store) == {rotten.name: rotten.digest}
    assert "1 blob damaged, and none is now" in syncd(store, "status").stdout


def test_the_last_line_of_a_scrub_as_json_counts_what_is_mended(rotten: ModelHandle, tmp_path: Path) -> None:
    done = syncd(tmp_path / "models", "scrub", "--repair", "--json", rotten.name)

    ended = json.loads(done.stdout.splitlines()[-1])
    assert (ended["damaged"], ended["mended"], ended["damages"]) == (1, 1, [])


class StoppedError(Exception):
    """In the middle of a scrub."""


async def test_what_no_model_names_any_more_is_not_called_mended(rotten: ModelHandle, tmp_path: Path) -> None:
    store = tmp_path / "models"

    def stop(_found: Damage) -> NoReturn:
        raise StoppedError

    ears = ScrubEars(progress=lambda _: None, damage=stop)
    with Store.open(store, create=False) as opened, pytest.raises(StoppedError):
        await scrub(opened, ScrubWish(None, None), book_of(opened), ears, monotonic=time.monotonic)
    assert syncd(store, "rm", rotten.name).returncode == 0
    before = (store / ".syncd" / "state" / "scrub.json").read_bytes()

    done = syncd(store, "scrub")
    (store / ".syncd" / "state" / "scrub.json").write_bytes(before)
    told = json.loads(syncd(store, "scrub", "--json").stdout.splitlines()[-1])

    assert done.returncode == 0, done.stderr
    assert "1 blob was damaged, and no model names it any more, " in done.stdout
    assert (told["damaged"], told["mended"], told["unnamed"], told["damages"]) == (1, 0, 1, [])


@pytest.mark.parametrize(
    ("mended", "unnamed", "says"),
    [
        (3, 0, "3 blobs were damaged and are mended"),
        (2, 1, "3 blobs were damaged: 2 mended, 1 of no model any more"),
        (1, 1, "3 blobs were damaged: 1 mended, 1 could not be mended, 1 of no model any more"),
        (0, 3, "3 blobs were damaged, and no model names them any more"),
    ],
)
def test_every_damaged_blob_is_accounted_for_in_the_words(mended: int, unnamed: int, says: str) -> None:
    assert damage_and_mending(3, mended, unnamed) == says


def test_a_scrub_that_cannot_mend_says_so(rotten: ModelHandle, registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.flip(9000)

    done = syncd(tmp_path / "models", "scrub", "--repair")

    assert done.returncode == 6
    assert f"{rotten.weights}: not mended" in done.stdout
    assert "1 blob was damaged and could not be mended, " in done.stdout
    assert "error: 1 blob could not be mended: " in done.stderr
    assert "hint: " in done.stderr
