"""What ``syncd status`` says of a given state."""

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from syncd.api import v1
from syncd.api.collected import CollectionInfo
from syncd.api.scrubbed import ScrubInfo
from syncd.cli.sheets import Tone
from syncd.cli.status_page import faults, page, text
from syncd.cli.status_table import Screen, picture
from syncd.errors import BusyError

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
HEX = "0123456789abcdef" * 4
HOSTILE = "\x1b]0;owned\x07\u202e\n"

DESIRED = v1.DesiredModel(
    name="mistral:7b",
    state="published",
    digest=f"sha256:{HEX}",
    pending=None,
    size=4_100_000_000,
    done=4_100_000_000,
    job=None,
    reason=None,
    failures=0,
    last_check="2025-12-31T22:00:00Z",
    next_check="2026-01-01T04:00:00Z",
)
JOB = v1.JobInfo(
    id="1f0c",
    kind="pull",
    name="llava:7b",
    state="running",
    phase="fetching",
    asked_by="root",
    started="2025-12-31T23:59:00Z",
    ended=None,
    size=1000,
    done=430,
    error=None,
)
WELL = v1.Status(
    daemon=v1.DaemonInfo(version="1.2", pid=4711, uid=7, store="/srv/models", started="2025-12-31T21:00:00Z"),
    settings=v1.SettingsInfo(
        files=("/etc/syncd/syncd.toml",), loaded="2025-12-31T23:00:00Z", fault=None, needs_restart=()
    ),
    store=v1.StoreInfo(
        path="/srv/models",
        models=2,
        blobs=9,
        size=8_200_000_000,
        saved=133_000_000_000,
        free=1_000_000_000_000,
        broken=0,
        as_of="2026-01-01T00:00:00Z",
    ),
    models=(DESIRED,),
    unmanaged=(v1.UnmanagedModel(name="mine:latest", digest=f"sha256:{HEX}", size=100, left_over=False),),
    jobs=(JOB,),
)


def test_a_daemon_that_is_well_is_described_in_columns() -> None:
    assert text(page(WELL, NOW)) == (
        "daemon    syncd 1.2, pid 4711, started 3 hours ago\n"
        "settings  /etc/syncd/syncd.toml, read 1 hour ago\n"
        "store     /srv/models\n"
        "          2 models, 9 blobs, 8.2 GB; 133 GB saved by sharing, 1.0 TB free\n"
        "\n"
        "MODEL         STATE        DIGEST          SIZE      CHECKED        NEXT CHECK    WHY\n"
        "mistral:7b    published    0123456789ab    4.1 GB    2 hours ago    in 4h00m\n"
        "\n"
        "UNMANAGED      DIGEST          SIZE\n"
        "mine:latest    0123456789ab    100 B\n"
        "\n"
        "JOB     MODEL       STATE       PROGRESS         ASKED FOR BY    BEGAN           ERROR\n"
        "1f0c    llava:7b    fetching    43% of 1.0 kB    root            1 minute ago\n"
    )
    assert faults(WELL) == []


def test_what_fails_says_why_and_when_it_is_tried_again() -> None:
    failing = replace(
        DESIRED, state="failing", digest=None, reason="no route to host", failures=3, next_check="2026-01-01T00:00:40Z"
    )
    found = replace(WELL, models=(failing,))

    assert "failing" in text(page(found, NOW))
    assert "in 40s        no route to host (3 failures)\n" in text(page(found, NOW))
    assert faults(found) == ["mistral:7b: no route to host"]


@pytest.mark.parametrize(
    ("state", "tone"),
    [
        ("published", Tone.CALM),
        ("pulling", Tone.MOVING),
        ("pending", Tone.MOVING),
        ("failing", Tone.BAD),
        ("held", Tone.BAD),
    ],
)
def test_the_louder_the_more_it_matters(state: str, tone: Tone) -> None:
    found = replace(WELL, models=(replace(DESIRED, state=state),))
    assert page(found, NOW).sheets[0].rows[0].tone is tone
    assert bool(faults(found)) == (tone is Tone.BAD)


def test_an_update_that_waits_is_named() -> None:
    pending = replace(DESIRED, state="pending", pending=f"sha256:{'f' * 64}", reason="outside its window")
    assert "ffffffffffff waits: outside its window\n" in text(page(replace(WELL, models=(pending,)), NOW))


def test_a_pull_shows_how_far_it_is() -> None:
    pulling = replace(DESIRED, state="pulling", done=1_025_000_000, next_check=None, last_check=None)
    assert "25% of 4.1 GB    -          -" in text(page(replace(WELL, models=(pulling,)), NOW))


def test_settings_that_are_not_in_force_are_loud() -> None:
    broken = replace(WELL.settings, fault="syncd.toml:3: unknown key", needs_restart=("ops.listen",))
    found = replace(WELL, settings=broken)
    shown = page(found, NOW)

    assert "FAULT     the new settings are not in force: syncd.toml:3: unknown key\n" in text(shown)
    assert "RESTART   not in force until then: ops.listen\n" in text(shown)
    assert [row.cells[0] for row in shown.head if row.tone is Tone.BAD] == ["FAULT", "RESTART"]
    assert faults(found) == ["settings: syncd.toml:3: unknown key"]


def test_manifests_that_cannot_be_read_are_a_fault() -> None:
    found = replace(WELL, store=replace(WELL.store, broken=1))
    assert "BROKEN    1 manifest cannot be read: 'syncd list' names them\n" in text(page(found, NOW))
    assert faults(found) == ["1 manifest cannot be read"]


def test_what_docker_tells_of_and_cannot_be_meant_is_a_fault() -> None:
    found = replace(WELL, docker=("container one: label syncd.port: no port",))
    assert "DOCKER    container one: label syncd.port: no port\n" in text(page(found, NOW))
    assert faults(found) == ["docker: container one: label syncd.port: no port"]


def test_what_waits_says_what_it_is_that_waits() -> None:
    scrub = ScrubInfo(
        every=3600.0, next="2026-01-01T01:00:00Z", now=None, last=None, interrupted=False, damaged=(), failure=None
    )
    waiting = CollectionInfo(
        every=86_400.0, last=None, freed=0, quarantine=0, reclaimable=None, waiting=("gpu-0 hangs", "gpu-1 hangs")
    )
    shown = text(page(replace(WELL, scrub=scrub, collection=waiting), NOW))

    assert "scrub       next in 1h00m\n" in shown
    assert "collection  waits: gpu-0 hangs\n            waits: gpu-1 hangs\n" in shown


def test_without_a_daemon_that_is_said_first() -> None:
    found = replace(WELL, daemon=None)
    assert text(page(found, NOW)).startswith("daemon    none runs: ")
    assert faults(found) == ["no daemon runs"]


def test_what_has_left_the_settings_is_marked() -> None:
    left = replace(WELL.unmanaged[0], left_over=True)
    assert "100 B    left the settings\n" in text(page(replace(WELL, unmanaged=(left,)), NOW))


def test_nothing_from_outside_paints_the_terminal() -> None:
    found = replace(
        WELL,
        settings=replace(WELL.settings, fault=HOSTILE, files=(HOSTILE,), needs_restart=(HOSTILE,)),
        store=replace(WELL.store, path=HOSTILE),
        models=(replace(DESIRED, name=HOSTILE, state=HOSTILE, digest=HOSTILE, pending=HOSTILE, reason=HOSTILE),),
        unmanaged=(replace(WELL.unmanaged[0], name=HOSTILE, digest=HOSTILE),),
        jobs=(replace(JOB, id=HOSTILE, name=HOSTILE, phase=HOSTILE, asked_by=HOSTILE, error=HOSTILE),),
    )
    shown = text(page(found, NOW))
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert len(shown.splitlines()) == len(text(page(WELL, NOW)).splitlines()) + 2


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_of_any_width_shows_all(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(picture(page(WELL, NOW)))
    lines = captured.get().splitlines()
    assert max(len(line) for line in lines) <= width
    joined = "".join(captured.get().split())
    assert all(word in joined for word in ("4711", "133GB", "1f0c"))


def test_whoever_watches_sees_the_next_one_in_its_place() -> None:
    out = io.StringIO()
    with Screen(Console(file=out, width=100, height=40, force_terminal=True, color_system=None)) as screen:
        screen.show(WELL)
        screen.show_error(BusyError("the daemon\x1b[2J is away", hint="wait"))
        screen.show(replace(WELL, daemon=None))
    shown = out.getvalue()
    assert "\x1b[1A" in shown  # up, to write over what stands there
    assert "error: the daemon\\x1b[2J is away" in shown
    assert shown.rindex("none runs") > shown.rindex("pid 4711")


# Servers


def on_server(state: str, name: str = "mistral:7b", **more: object) -> v1.InstanceModel:
    plain = v1.InstanceModel(
        name=name,
        digest=f"sha256:{HEX}",
        state=state,
        available=True,
        proved=None,
        stale=False,
        stale_until=None,
        reason=None,
        message=None,
    )
    return replace(plain, **more)


def server(name: str, *models: v1.InstanceModel, up: bool = True, error: str | None = None) -> v1.InstanceInfo:
    return v1.InstanceInfo(name=name, url="http://127.0.0.1:11434", up=up, version="0.12.6", error=error, models=models)


def test_the_matrix_has_a_row_for_each_model_and_a_column_for_each_server() -> None:
    found = replace(WELL, instances=(server("a", on_server("proved")), server("b", on_server("served"))))

    lines = text(page(found, NOW)).splitlines()

    assert "MODEL ON SERVER    a         b" in lines
    assert "mistral:7b         proved    served" in lines
    assert "1    a         http://127.0.0.1:11434    up       0.12.6" in lines
    assert faults(found) == []


def test_servers_with_long_names_are_numbered_in_the_matrix() -> None:
    servers = tuple(server(f"ollama-server-{n}", on_server("proved")) for n in range(1, 9))

    lines = text(page(replace(WELL, instances=servers), NOW)).splitlines()

    header = next(line for line in lines if line.startswith("MODEL ON SERVER"))
    assert header.split() == ["MODEL", "ON", "SERVER", *"12345678"]
    assert next(line for line in lines if line.startswith("8")).split()[1] == "ollama-server-8"


def test_what_is_wrong_on_a_server_is_said_with_its_reason() -> None:
    failing = on_server("failing", reason="timeout", message="a: POST /api/generate: no answer within 300 s")
    stale = on_server("stale", "llava:7b", stale=True, stale_until="2026-01-01T00:01:40Z")
    held = on_server("proved", "codellama:7b", stale=True)
    found = replace(WELL, instances=(server("a", failing, stale, held), server("b", on_server("missing"))))

    shown = text(page(found, NOW))

    assert "timeout: a: POST /api/generate: no answer within 300 s" in shown
    assert "an older version stays in its memory for 1m40s" in shown
    assert "an older version stays in its memory until it is told to let go" in shown
    assert "does it read this store?" in shown
    assert faults(found) == [
        "mistral:7b on a: a: POST /api/generate: no answer within 300 s",
        "mistral:7b on b: missing",
    ]


def test_a_server_that_is_down_is_one_fault_and_not_one_for_each_model() -> None:
    refused = on_server("failing", reason="refused", message="a: cannot connect")
    found = replace(WELL, instances=(server("a", refused, up=False, error="a: cannot connect"),))

    assert faults(found) == ["a: a: cannot connect"]
    assert text(page(found, NOW)).count("cannot connect") == 1


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "\N{CHECK MARK} proved"), ("ascii", "proved")])
def test_a_terminal_gets_symbols_if_it_can_show_them(encoding: str, shown: str) -> None:
    found = replace(WELL, instances=(server("a", on_server("proved"), on_server("failing", "llava:7b")),))
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=written, force_terminal=True, width=120, highlight=False)
    with Screen(console) as screen:
        screen.show(found)
    written.flush()

    told = written.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert shown in told
    assert ("\N{BALLOT X}" in told) == (encoding == "utf-8")
