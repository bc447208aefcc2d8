"""The generated pages are what the code says, and nothing in it is left unexplained."""

import re
import shutil
from pathlib import Path

import pytest

from docs.reference import errors, said, scale
from docs.reference.pages import DOCS, PAGES, made
from tests.support.daemon import RunningDaemon
from tests.support.http import Client

RENEW = "run 'make docs' (python -m docs.reference), look at what it changed, and commit that with the rest"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_code_says(name: str) -> None:
    assert (DOCS / name).read_text() == made(name), f"docs/{name} is not what it should be: {RENEW}"


def test_the_metrics_of_a_running_daemon_are_those_on_the_page(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path / "host") as daemon, Client(f"127.0.0.1:{daemon.ops_port}") as client:
        scraped = client.ask("GET", "/metrics").body.decode()
    families = set(re.findall(r"^# TYPE (\S+) ", scraped, re.MULTILINE))
    listed = re.findall(r"^\| `([a-z_]+)` \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)

    assert {name for name in families if not name.endswith("_created")} == set(listed)
    assert {f"{name.removesuffix('_total')}_created" for name in listed} >= families - set(listed)


# The meanings of events and errors


@pytest.fixture(scope="module")
def found() -> errors.Found:
    """What the code has: reading it takes seconds."""
    return errors.found()


@pytest.fixture
def meanings(tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return shutil.copy(errors.MEANINGS, tmp_path / "meanings.toml")


@pytest.mark.parametrize(
    ("kind", "entry", "name"),
    [
        ("events", '[events."pull.published"]', "pull.published"),
        ("errors", "[errors.NoSpaceError]", "NoSpaceError"),
        ("told", '[told."rollout.halted"]', "rollout.halted"),
    ],
)
def test_what_nobody_has_explained_is_named(
    found: errors.Found, meanings: Path, kind: str, entry: str, name: str
) -> None:
    text = meanings.read_text()
    before, _, after = text.partition(entry)
    meanings.write_text(before + after[after.index("\n[") + 1 :])

    with pytest.raises(errors.MeaningsError, match=rf"\[{kind}\] does not say what these mean: {re.escape(name)}$"):
        errors.written(found, meanings)


def test_what_the_code_does_not_have_is_named(found: errors.Found, meanings: Path) -> None:
    meanings.write_text(f'{meanings.read_text()}[events."never.logged"]\nmeans = "Nothing."\n')

    with pytest.raises(errors.MeaningsError, match=r"explains what the code does not have: never\.logged$"):
        errors.written(found, meanings)


def test_every_event_has_the_form_of_one(found: errors.Found) -> None:
    names = {call.event for call in found.calls}

    assert len(names) > 100
    assert [name for name in names | found.told if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []


# What is read from source


def calls(tmp_path: Path, source: str) -> list[said.Call]:
    (tmp_path / "module.py").write_text(source)
    return list(said.logged(said.trees(tmp_path)))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('log.info("a.b", name=1, size=2)', [said.Call("a.b", "info", ("name", "size"))]),
        ('self._log = log.bind(name=1)\nself._log.error("a.b", why=2)', [said.Call("a.b", "error", ("name", "why"))]),
        ('log.info("a.b" if x else "a.c")', [said.Call("a.b", "info", ()), said.Call("a.c", "info", ())]),
        (
            'note = log.debug if x else log.info\nnote("a.b", **more)',
            [said.Call("a.b", "debug", ("...",)), said.Call("a.b", "info", ("...",))],
        ),
        ('structlog.get_logger().log(level, "a.b", text=1)', [said.Call("a.b", "any", ("text",))]),
        ('math.log(3)\nprogress.info("no event")', []),
    ],
)
def test_an_event_is_found_however_it_is_logged(tmp_path: Path, source: str, found: list[said.Call]) -> None:
    assert calls(tmp_path, source) == found


def test_an_event_whose_name_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(said.UnreadableError, match=r"module\.py:2"):
        calls(tmp_path, "\nlog.info(event)\n")


# Figures


def test_a_figure_that_was_not_measured_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "scale.md.in").write_text("{Speed | of light}\n")
    table = "| measurement | goal | found |  |\n| --- | --- | --- | --- |\n"
    (tmp_path / "benchmarks.md").write_text(f"{table}| Speed | of sound | 343 m/s | met |\n\n")
    monkeypatch.setattr(scale, "_HERE", tmp_path / "reference")

    with pytest.raises(scale.NoFigureError, match=r"no row Speed \| of light$"):
        scale.page()

    (tmp_path / "reference" / "scale.md.in").write_text("{Speed | of sound}, {MAX_MODELS} models\n")
    assert scale.page() == "343 m/s, 10,000 models\n"
