"""Settings that change while the daemon runs: however editors and deployments replace files, and every fault."""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from syncd.daemon.applied import AppliedSettings
from syncd.daemon.loaded import Loaded, load
from syncd.errors import ConfigurationError

ONE = "[download]\nconnections = 1\n"
TWO = "[download]\nconnections = 2\n"
NO_PINS = '{"syncd_pins": 1, "models": []}'
THREE = "[download]\nconnections = 3\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    path = folder / "syncd.toml"
    path.write_text(ONE)
    return path


@asynccontextmanager
async def running(
    path: Path | None,
    *,
    accept: Callable[[Loaded], object] | None = None,
    environ: dict[str, str] | None = None,
    settle: float = 0.05,
) -> AsyncIterator[AppliedSettings]:
    environ = environ or {}
    nowhere = Path("/no/such/syncd.toml")
    applied = AppliedSettings(
        load(path, environ, system_file=nowhere),
        path,
        environ,
        now=lambda: 1000.0,
        accept=accept,
        system_file=nowhere,
        settle=settle,
    )
    task = asyncio.create_task(applied.run())
    try:
        await asyncio.sleep(0.2)  # the first watch is up; what changes before is found, too, and tested below
        yield applied
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(applied: AppliedSettings, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await applied.changed(applied.revision)


async def connections(applied: AppliedSettings, number: int) -> None:
    await until(applied, lambda: applied.current.settings.download.connections == number and applied.fault is None)


async def refused(applied: AppliedSettings, text: str) -> None:
    await until(applied, lambda: applied.fault is not None and text in applied.fault.message)


async def test_a_file_that_is_written_in_place_is_applied(file: Path) -> None:
    async with running(file) as applied:
        file.write_text(TWO)
        await connections(applied, 2)

        file.write_text(THREE)
        await connections(applied, 3)


async def test_a_file_that_an_editor_renames_into_place_is_applied(file: Path) -> None:
    async with running(file) as applied:
        for number, text in ((2, TWO), (3, THREE), (1, ONE)):
            fresh = file.with_name(".syncd.toml.swp")
            fresh.write_text(text)
            file.rename(file.with_name("syncd.toml~"))
            fresh.rename(file)
            await connections(applied, number)


async def test_an_editor_that_takes_the_file_away_for_a_moment_causes_no_fault(file: Path) -> None:
    async with running(file, settle=0.4) as applied:
        file.unlink()
        await asyncio.sleep(0.05)
        file.write_text("")
        await asyncio.sleep(0.05)
        file.write_text(TWO)
        await connections(applied, 2)

        assert applied.revision == 2


async def test_a_swapped_link_to_a_folder_is_applied(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    for number, text in enumerate((ONE, TWO, THREE)):
        (mount / f"..{number}").mkdir(parents=True)
        (mount / f"..{number}" / "syncd.toml").write_text(text)
    (mount / "..data").symlink_to("..0")
    (mount / "syncd.toml").symlink_to("..data/syncd.toml")

    async with running(mount / "syncd.toml") as applied:
        for number in (1, 2):
            (mount / "..tmp").symlink_to(f"..{number}")
            (mount / "..tmp").rename(mount / "..data")
            await connections(applied, number + 1)

        (mount / "..2" / "syncd.toml").write_text(ONE)
        await connections(applied, 1)


async def test_drop_ins_from_a_swapped_folder_are_applied(file: Path) -> None:
    mount = file.parent / "conf.d"
    for number, text in enumerate((TWO, THREE)):
        (mount / f"..{number}").mkdir(parents=True)
        (mount / f"..{number}" / "a.toml").write_text(text)
    (mount / "..data").symlink_to("..0")
    (mount / "a.toml").symlink_to("..data/a.toml")

    async with running(file) as applied:
        assert applied.current.settings.download.connections == 2
        (mount / "..tmp").symlink_to("..1")
        (mount / "..tmp").rename(mount / "..data")
        await connections(applied, 3)


async def test_a_folder_that_is_a_link_is_followed_when_it_turns(tmp_path: Path, file: Path) -> None:
    fresh = tmp_path / "version-2"
    fresh.mkdir()
    (fresh / "syncd.toml").write_text(TWO)
    (tmp_path / "current").symlink_to(file.parent)

    async with running(tmp_path / "current" / "syncd.toml") as applied:
        (tmp_path / "next").symlink_to(fresh)
        (tmp_path / "next").rename(tmp_path / "current")
        await connections(applied, 2)

        (fresh / "conf.d").mkdir()
        (fresh / "conf.d" / "a.toml").write_text(THREE)
        await connections(applied, 3)


async def test_a_change_of_mode_that_opens_the_file_mends_the_fault(file: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    async with running(file) as applied:
        file.chmod(0)
        await refused(applied, "cannot be read")
        file.chmod(0o600)
        await until(applied, lambda: applied.fault is None)


async def test_a_link_to_a_file_elsewhere_is_followed_when_it_turns_and_when_the_file_changes(
    tmp_path: Path, file: Path
) -> None:
    elsewhere = tmp_path / "elsewhere" / "mine.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(TWO)

    async with running(file) as applied:
        (file.parent / "next").symlink_to(elsewhere)
        (file.parent / "next").rename(file)
        await connections(applied, 2)

        elsewhere.write_text(THREE)
        await connections(applied, 3)


async def test_a_folder_that_is_replaced_as_a_whole_is_followed(tmp_path: Path, file: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "syncd.toml").write_text(TWO)

    async with running(file) as applied:
        file.unlink()
        file.parent.rmdir()
        await refused(applied, "is gone")
        fresh.rename(file.parent)
        await connections(applied, 2)

        file.write_text(THREE)
        await connections(applied, 3)


async def test_drop_ins_come_and_go(file: Path) -> None:
    async with running(file) as applied:
        (file.parent / "conf.d").mkdir()
        (file.parent / "conf.d" / "10.toml").write_text(TWO)
        await connections(applied, 2)

        (file.parent / "conf.d" / "20.toml").write_text(THREE)
        await connections(applied, 3)

        (file.parent / "conf.d" / "20.toml").unlink()
        await connections(applied, 2)

        (file.parent / "conf.d" / "10.toml").write_text("[[models]]\nname = 'mistral'\n")
        await connections(applied, 1)
        assert [str(model.name) for model in applied.current.settings.models] == ["mistral:latest"]


async def test_settings_that_come_to_a_host_without_any_are_applied(tmp_path: Path) -> None:
    async with running(None, environ={"XDG_CONFIG_HOME": str(tmp_path / "home")}) as applied:
        assert applied.current == Loaded()
        (tmp_path / "home" / "syncd").mkdir(parents=True)
        (tmp_path / "home" / "syncd" / "syncd.toml").write_text(TWO)
        await connections(applied, 2)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("[download\nconnections = 2\n", "not TOML"),
        ("[download]\nconections = 2\n", "syncd.toml:2: unknown key 'conections'"),
        ("[download]\nconnections = 0\n", "syncd.toml:2: connections"),
        ("\0\0\0\0", "not TOML"),
    ],
)
async def test_a_file_that_cannot_be_used_leaves_the_old_settings_in_force_until_it_is_mended(
    file: Path, text: str, fault: str
) -> None:
    async with running(file) as applied:
        before = applied.current
        file.write_text(text)
        await refused(applied, fault)
        assert isinstance(applied.fault, ConfigurationError)
        assert applied.current is before

        file.write_text(TWO)
        await connections(applied, 2)


async def test_the_old_text_mends_a_fault_too(file: Path) -> None:
    async with running(file) as applied:
        before = applied.current
        file.write_text("broken")
        await refused(applied, "not TOML")

        file.write_text(ONE)
        await until(applied, lambda: applied.fault is None)

        assert applied.current is before


async def test_a_file_that_vanishes_leaves_its_settings_in_force(file: Path) -> None:
    async with running(file) as applied:
        before = applied.current
        file.unlink()
        await refused(applied, "is gone")
        assert applied.current is before

        file.write_text(TWO)
        await connections(applied, 2)


async def test_a_file_whose_folder_keeps_drop_ins_is_missed_when_it_vanishes(file: Path) -> None:
    (file.parent / "conf.d").mkdir()
    (file.parent / "conf.d" / "10.toml").write_text("prune = true\n")

    async with running(file) as applied:
        file.unlink()
        await refused(applied, "is gone")
        assert applied.current.settings.download.connections == 1


async def test_a_drop_in_that_is_emptied_is_refused_and_an_empty_new_one_is_not(file: Path) -> None:
    drop_in = file.parent / "conf.d" / "10.toml"
    drop_in.parent.mkdir()
    drop_in.write_text(TWO)

    async with running(file) as applied:
        drop_in.write_text("")
        await refused(applied, "10.toml is empty")
        drop_in.write_text("# nothing\n")
        await connections(applied, 1)
        (drop_in.parent / "20.toml").touch()
        await until(applied, lambda: len(applied.current.files) == 3)


async def test_what_changed_before_the_watch_was_set_up_is_found(file: Path) -> None:
    loaded = load(file, {})
    file.write_text(TWO)
    applied = AppliedSettings(loaded, file, {}, now=lambda: 5.0, settle=0.05)

    task = asyncio.create_task(applied.run())
    await connections(applied, 2)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_reload_reads_at_once_and_says_whether_it_could(file: Path) -> None:
    applied = AppliedSettings(load(file, {}), file, {}, now=lambda: 5.0)

    assert await applied.reload()
    assert applied.revision == 2
    file.write_text(TWO)
    assert await applied.reload()
    assert applied.current.settings.download.connections == 2
    file.write_text("broken")
    assert not await applied.reload()
    assert applied.fault is not None
    assert applied.current.settings.download.connections == 2


async def test_settings_that_the_process_cannot_go_by_are_refused_until_they_can(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch()

    def accept(loaded: Loaded) -> None:
        if not secret.exists():
            raise loaded.error(("download",), "no secret")

    applied = AppliedSettings(load(file, {}), file, {}, now=lambda: 5.0, accept=accept)

    assert await applied.reload()
    secret.unlink()
    assert not await applied.reload()
    assert str(applied.fault) == f"{file}:1: no secret"
    secret.touch()
    assert await applied.reload()


async def test_everybody_who_waits_for_a_change_is_told(file: Path) -> None:
    applied = AppliedSettings(load(file, {}), file, {}, now=lambda: 5.0)
    waiting = [asyncio.create_task(applied.changed(applied.revision)) for _ in range(3)]
    await asyncio.sleep(0)

    await applied.reload()

    assert await asyncio.gather(*waiting) == [2, 2, 2]
    assert await applied.changed(1) == 2


async def test_the_same_text_written_again_changes_nothing(file: Path) -> None:
    async with running(file) as applied:
        file.write_text(ONE)
        os.utime(file)
        (file.parent / "syncd.toml.swp").write_text("broken")
        await asyncio.sleep(0.5)

        assert (applied.revision, applied.fault) == (1, None)


_WITHOUT_INOTIFY = """
import asyncio, sys
from pathlib import Path
from syncd.daemon.applied import AppliedSettings
from syncd.daemon.loaded import load

async def main(path):
    applied = AppliedSettings(load(path, {}), path, {}, now=lambda: 0.0, settle=0.02)
    running = asyncio.create_task(applied.run())
    await asyncio.sleep(0.5)
    path.write_text("[download]\\nconnections = 2\\n")
    async with asyncio.timeout(20):
        await applied.changed(1)
    assert not running.done()
    print("connections:", applied.current.settings.download.connections)
    running.cancel()

asyncio.run(main(Path(sys.argv[1])))
"""


def test_where_inotify_has_no_watches_left_the_file_is_read_now_and_then(file: Path) -> None:
    limit = "echo 0 > /proc/sys/user/max_inotify_instances"
    namespace = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    if subprocess.run([*namespace, limit], capture_output=True, check=False).returncode:
        pytest.skip("this user can make no user namespace")

    ended = subprocess.run(
        [*namespace, f'{limit} && exec "$@"', "sh", sys.executable, "-c", _WITHOUT_INOTIFY, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "connections: 2" in ended.stdout, ended
    assert ended.stdout.count("settings.unwatched") == 1


async def test_an_idle_watch_costs_next_to_nothing(file: Path) -> None:
    async with running(file, settle=0.5):
        await asyncio.sleep(0.5)
        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(3)
        after = resource.getrusage(resource.RUSAGE_SELF)

    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 0.03, f"{spent / 3:.2%} of a core"


@pytest.mark.parametrize(
    "text", ["[" + ".".join("a" * 5000) + "]", ".".join("a" * 5000) + " = 1", "a = " + "[" * 500 + "]" * 500]
)
async def test_a_file_that_is_nested_without_end_is_refused(file: Path, text: str) -> None:
    async with running(file) as applied:
        file.write_text(text)

        await refused(applied, str(file))


async def test_a_fifo_in_the_files_place_keeps_nobody(file: Path) -> None:
    async with running(file) as applied:
        file.unlink()
        os.mkfifo(file)
        await refused(applied, "is no file")
        file.unlink()
        file.write_text(TWO)

        await connections(applied, 2)


async def test_a_pins_file_that_is_newly_named_is_watched_from_then_on(file: Path, tmp_path: Path) -> None:
    pins = tmp_path / "elsewhere" / "pins.json"
    pins.parent.mkdir()
    pins.write_text(NO_PINS)
    async with running(file) as applied:
        file.write_text(f'pins = "{pins}"\n{TWO}')
        await connections(applied, 2)
        await at_rest(applied)

        pins.write_text("{}")
        async with asyncio.timeout(20):  # without a watch it is read after a minute
            await refused(applied, "pins file")


async def test_a_pins_file_that_is_named_before_it_is_there_is_read_when_it_comes(file: Path, tmp_path: Path) -> None:
    pins = tmp_path / "elsewhere" / "pins.json"
    pins.parent.mkdir()
    async with running(file) as applied:
        file.write_text(f'pins = "{pins}"\n{TWO}')
        await refused(applied, "is not there")
        await at_rest(applied)

        pins.write_text(NO_PINS)
        async with asyncio.timeout(20):
            await connections(applied, 2)


async def test_on_a_host_without_settings_the_pins_file_that_the_first_ones_name_is_read_when_it_comes(
    tmp_path: Path,
) -> None:
    pins, home = tmp_path / "elsewhere" / "pins.json", tmp_path / "home" / "syncd"
    pins.parent.mkdir()
    home.mkdir(parents=True)
    async with running(None, environ={"XDG_CONFIG_HOME": str(home.parent)}) as applied:
        (home / "syncd.toml").write_text(f'pins = "{pins}"\n{TWO}')
        await refused(applied, "is not there")
        await at_rest(applied)

        pins.write_text(NO_PINS)
        async with asyncio.timeout(20):
            await connections(applied, 2)


async def at_rest(applied: AppliedSettings) -> None:
    """The change is over: what comes next is an event of its own."""
    await applied.reload()
    await asyncio.sleep(1.0)
