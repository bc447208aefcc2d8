"""`make install` and `make uninstall`, into a folder that stands for /."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.systemd.conftest import CHECKOUT, make
from tests.systemd.machine import DEBIAN_PYTHON, needs_debians_python

pytestmark = pytest.mark.timeout(300)

_MINE = "# mine\n"


@pytest.fixture
def copy(installed: Path, tmp_path: Path) -> Path:
    """A tree of one's own in which syncd is installed."""
    root = tmp_path / "root"
    shutil.copytree(installed, root, symlinks=True)
    return root


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree in which syncd is installed under another prefix, and settings were there before.

    From a wheel, those that it needs and the folder systemd/, without a checkout or an index. The tree's path has a
    blank in it, and is longer than what a kernel takes for a script's interpreter.
    """
    needs_debians_python()
    brought = tmp_path_factory.mktemp("brought")
    shutil.copytree(CHECKOUT / "systemd", brought / "systemd")
    root = tmp_path_factory.mktemp("elsewhere") / "a package" / ("x" * 120)
    (root / "etc/syncd").mkdir(parents=True)
    (root / "etc/syncd/syncd.toml").write_text(_MINE)
    build = (sys.executable, "-m", "build", "--wheel", "--outdir", str(brought), str(CHECKOUT))
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = brought.glob("*.whl")
    # A pip as old as Debian's takes three times as long to choose from an index.
    pip = (sys.executable, "-m", "pip", "--python", DEBIAN_PYTHON)
    fetch = (*pip, "download", "--quiet", "--prefer-binary", "--dest", str(brought / "wheels"), str(wheel))
    subprocess.run(fetch, check=True, capture_output=True)
    here = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(brought / "wheels")}
    done = install(brought, root, PREFIX="/opt/syncd", WHEEL=wheel.name, **here)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def install(brought: Path, root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run systemd/install in the folder ``brought``, with ``root`` standing for /."""
    return subprocess.run(
        ("systemd/install", "install"),
        cwd=brought,
        env={"PATH": os.environ["PATH"], "DESTDIR": str(root), "PYTHON": DEBIAN_PYTHON, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_that_is_installed_tells_where_it_was_made(installed: Path) -> None:
    telling = [
        path.relative_to(installed)
        for path in (installed / "usr").rglob("*")
        if path.is_file() and not path.is_symlink() and str(installed).encode() in path.read_bytes()
    ]

    assert telling == []


def test_what_is_installed_can_be_read_by_the_service_and_written_by_root_alone(installed: Path) -> None:
    modes = {
        path.relative_to(installed): path.lstat().st_mode & 0o777
        for path in (installed / "usr").rglob("*")
        if not path.is_symlink()
    }

    assert set(modes.values()) <= {0o644, 0o755}


def test_another_prefix_is_heeded(elsewhere: Path) -> None:
    unit = elsewhere / "etc/systemd/system/syncd.service"

    assert "ExecStart=/opt/syncd/bin/syncd serve\n" in unit.read_text()
    assert (elsewhere / "opt/syncd/bin/syncd").resolve() == elsewhere / "opt/syncd/lib/syncd/bin/syncd"
    assert (elsewhere / "etc/sysusers.d/syncd.conf").is_file()


def test_where_it_is_staged_does_not_show_however_long_its_path_is(elsewhere: Path) -> None:
    program = elsewhere / "opt/syncd/lib/syncd/bin/syncd"

    assert program.read_text().startswith("#!/opt/syncd/lib/syncd/bin/python -I\n")
    assert [
        path for path in elsewhere.rglob("*") if path.is_file() and str(elsewhere).encode() in path.read_bytes()
    ] == []


def test_man_and_the_shells_find_what_they_look_for(installed: Path, elsewhere: Path) -> None:
    share = installed / "usr/local/share"

    assert (share / "man/man1/syncd.1").read_text().startswith(".TH SYNCD 1 ")
    assert "complete -o nosort -F _syncd_completion syncd" in (share / "bash-completion/completions/syncd").read_text()
    assert (share / "zsh/site-functions/_syncd").read_text().startswith("#compdef syncd\n")
    assert "complete --no-files --command syncd" in (share / "fish/vendor_completions.d/syncd.fish").read_text()
    assert (elsewhere / "opt/syncd/share/man/man1/syncd.1").is_file()


def test_settings_that_are_there_are_kept(elsewhere: Path) -> None:
    assert (elsewhere / "etc/syncd/syncd.toml").read_text() == _MINE


def test_uninstall_leaves_store_and_settings_and_says_so(copy: Path) -> None:
    blob = copy / "srv/ollama/models/blobs/sha256-0"
    blob.parent.mkdir(parents=True)
    blob.touch()

    said = make("uninstall", copy)

    left = {str(path.relative_to(copy)) for path in copy.rglob("*") if not path.is_dir()}
    assert left == {"etc/syncd/syncd.toml", "srv/ollama/models/blobs/sha256-0"}
    made = ("lib/systemd", "lib/sysusers.d", "lib/tmpfiles.d", "share/syncd", "share/zsh", "share/fish")
    assert not [folder for folder in made if copy.joinpath("usr/local", folder).exists()]
    assert "kept:      the store, the settings" in said


@pytest.mark.parametrize(
    ("variables", "said"),
    [({}, "error: there is no syncd around "), ({"WHEEL": "syncd-9.whl"}, "syncd-9.whl\nhint: make dist makes one")],
)
def test_where_there_is_nothing_to_install_that_is_said(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    needs_debians_python()
    shutil.copytree(CHECKOUT / "systemd", tmp_path / "systemd")

    done = install(tmp_path, tmp_path / "root", **variables)

    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "root").exists()


def test_an_installation_that_fails_says_what_else_there_is_and_leaves_what_was_there(
    copy: Path, tmp_path: Path
) -> None:
    shutil.copytree(CHECKOUT / "systemd", tmp_path / "systemd")
    (tmp_path / "syncd-9-py3-none-any.whl").touch()
    before = {path: path.lstat().st_mtime_ns for path in (copy / "usr/local/lib/syncd").rglob("*")}

    done = install(tmp_path, copy, WHEEL="syncd-9-py3-none-any.whl")

    assert done.returncode == 1
    assert "hint: without a package index: PIP_NO_INDEX=1 PIP_FIND_LINKS=" in done.stderr
    assert {path.name for path in (copy / "usr/local/lib").glob("syncd*")} == {"syncd"}
    assert {path: path.lstat().st_mtime_ns for path in (copy / "usr/local/lib/syncd").rglob("*")} == before


def test_an_interpreter_in_a_home_folder_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$2" in *base_prefix*) echo /home/me/python ;; *) exec {DEBIAN_PYTHON} "$@" ;; esac\n'
    )
    python.chmod(0o755)

    done = subprocess.run(
        ("make", "-C", str(CHECKOUT), "install", f"DESTDIR={tmp_path / 'root'}", f"PYTHON={python}"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "lies in /home/me/python, which the service cannot see" in done.stderr
    assert not (tmp_path / "root").exists()
