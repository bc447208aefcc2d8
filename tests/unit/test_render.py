"""How pulls look, on given moments of them: on terminals, in lines, as events."""

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from syncd.cli.render import Lines, Ndjson, PullView, Quiet
from syncd.cli.terminal import Terminal, picture
from syncd.errors import IntegrityError, SyncdError
from syncd.jobs.progress import BlobProgress, BlobState, Phase, PullOutcome, PullProgress
from syncd.oci.digest import Digest
from syncd.oci.manifest import Descriptor
from syncd.oci.name import Reference

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eevil\r\n"
MISTRAL = Reference.parse("mistral:7b")
MANIFEST = Digest.of(b"manifest")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def blob(kind: str, size: int, state: BlobState, done: int, fetched: int = 0) -> BlobProgress:
    media_type = f"application/vnd.ollama.image.{kind}"
    return BlobProgress(Descriptor(media_type, Digest.of(kind.encode()), size), state, done, fetched)


def fetching(done: int = 2_050_000_000, **more: object) -> PullProgress:
    moment = PullProgress(
        reference=MISTRAL,
        phase=Phase.FETCHING,
        digest=MANIFEST,
        blobs=(
            blob("model", 4_100_000_000, BlobState.FETCHING, done, done),
            blob("license", 11_000, BlobState.STORED, 11_000),
        ),
    )
    return replace(moment, **more)


def outcome(**more: object) -> PullOutcome:
    ended = PullOutcome(
        reference=MISTRAL,
        digest=MANIFEST,
        current=False,
        size=4_100_011_000,
        blobs=5,
        fetched_blobs=3,
        fetched_bytes=4_100_000_000,
        found_bytes=12_000,
        seconds=41.2,
    )
    return replace(ended, **more)


def drawn(moment: PullProgress, *, width: int = 100, rows: int = 20) -> str:
    console = Console(file=io.StringIO(), width=width, height=40, record=True, color_system=None)
    console.print(picture(moment, width=width, rows=rows, rate=100e6, seconds_left=20.5))
    return console.export_text()


def test_a_terminal_shows_a_bar_for_each_blob_and_a_total() -> None:
    shown = drawn(fetching())

    assert "mistral:7b" in shown
    assert "weights" in shown
    assert "2.0 GB / 4.1 GB" in shown
    assert "stored" in shown
    assert "50% of 4.1 GB  100 MB/s  20s left" in shown


def test_retries_are_shown_with_their_cause() -> None:
    assert "2 retries: connection reset" in drawn(fetching(retries=2, trouble="connection reset"))


@pytest.mark.parametrize("width", [20, 30, 45, 46, 60, 72, 100, 300])
def test_the_picture_fits_every_width(width: int) -> None:
    lines = drawn(fetching(retries=3, trouble="a long story " * 20), width=width).splitlines()

    assert all(len(line) <= width for line in lines)
    assert len(lines) == 4


def test_of_many_blobs_the_ones_that_move_are_shown() -> None:
    many = tuple(blob(f"tensor{number}", 10, BlobState.STORED, 10) for number in range(100))
    moving = blob("model", 1, BlobState.FETCHING, 0)

    shown = drawn(fetching(blobs=(*many, moving)), rows=5)

    assert moving.blob.digest.short in shown
    assert "and 96 more" in shown
    assert len(shown.splitlines()) == 8


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_has_a_picture(phase: Phase) -> None:
    assert "mistral:7b" in drawn(PullProgress(MISTRAL, phase))


def hostile() -> PullProgress:
    descriptor = Descriptor(f"application/x; {HOSTILE}", Digest.of(b"x"), 10)
    strange = BlobProgress(descriptor, BlobState.FETCHING, 5, 5)
    return fetching(blobs=(strange,), retries=1, trouble=f"[red]{HOSTILE}")


def test_no_escape_sequence_from_outside_reaches_a_terminal() -> None:
    shown = drawn(hostile(), width=200)

    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(shown)
    assert "[red]" in shown


def test_a_live_terminal_ends_clean_and_says_what_was_done() -> None:
    screen, results, clock = io.StringIO(), io.StringIO(), Clock()
    console = Console(file=screen, force_terminal=True, width=80, height=20)

    with Terminal(console, results, clock=clock) as view:
        view.show(fetching(1_000_000_000))
        clock.now += 1
        view.show(fetching(1_100_000_000))
        view.done(outcome())
        view.failed(MISTRAL, IntegrityError(f"bad {HOSTILE}", hint="try"))

    assert results.getvalue().startswith("mistral:7b: fetched 4.1 GB for 3 of 5 blobs")
    assert "error: mistral:7b: bad \\x1b]0;owned" in screen.getvalue()
    assert screen.getvalue().count("\x1b[?25h") == screen.getvalue().count("\x1b[?25l") == 1


def lines_of(act: Callable[[PullView, Clock], None]) -> tuple[list[str], str]:
    errors, results, clock = io.StringIO(), io.StringIO(), Clock()
    with Lines(results, errors, clock=clock) as view:
        act(view, clock)
    return errors.getvalue().splitlines(), results.getvalue()


def a_whole_pull(view: PullView, clock: Clock) -> None:
    view.show(PullProgress(MISTRAL, Phase.RESOLVING))
    for step in range(81):
        view.show(fetching(step * 51_250_000, retries=step // 40, trouble=f"reset {HOSTILE}"))
        clock.now += 0.125
    view.show(fetching(4_100_000_000, phase=Phase.PUBLISHING))
    view.show(fetching(4_100_000_000, phase=Phase.DONE))
    view.done(outcome())


def test_lines_tell_each_phase_and_now_and_then_how_far_it_is() -> None:
    lines, result = lines_of(a_whole_pull)

    assert [line.split(",")[0] for line in lines] == [
        "mistral:7b: asking for the manifest",
        "mistral:7b: fetching 4.1 GB",
        "mistral:7b: 50% of 4.1 GB",
        "mistral:7b: 100% of 4.1 GB",
        "mistral:7b: publishing",
    ]
    assert lines[2].startswith("mistral:7b: 50% of 4.1 GB, 410 MB/s, 5s left, 1 retry: reset \\x1b")
    assert result == (
        "mistral:7b: fetched 4.1 GB for 3 of 5 blobs, 12 kB were already here, 41.2 s (100 MB/s),"
        f" published {MANIFEST}\n"
    )


def test_a_current_model_is_said_to_be() -> None:
    _, result = lines_of(lambda view, _: view.done(outcome(current=True, seconds=0.11)))

    assert result == f"mistral:7b is current ({MANIFEST}), checked in 0.1 s\n"


def test_events_are_one_object_a_line_and_progress_comes_twice_a_second() -> None:
    results, errors, clock = io.StringIO(), io.StringIO(), Clock()
    with Ndjson(results, errors, clock=clock) as view:
        a_whole_pull(view, clock)

    found = [json.loads(line) for line in results.getvalue().splitlines()]

    kinds = [event["event"] for event in found]
    assert kinds[0] == "resolving"
    assert kinds[-2:] == ["publishing", "published"]
    assert kinds.count("progress") == 21
    assert len({tuple(event) for event in found if event["event"] == "progress"}) == 1
    assert found[1]["blobs"][0] == {
        "digest": str(Digest.of(b"model")),
        "media_type": "application/vnd.ollama.image.model",
        "size": 4_100_000_000,
        "state": "fetching",
        "done": 0,
        "fetched": 0,
    }
    assert found[-1]["fetched_bytes"] == 4_100_000_000
    assert errors.getvalue() == ""


def test_a_failure_is_an_event_and_an_error_for_people() -> None:
    results, errors = io.StringIO(), io.StringIO()
    with Ndjson(results, errors, clock=Clock()) as view:
        view.show(hostile())
        view.failed(MISTRAL, IntegrityError(f"mistral:7b {HOSTILE}", hint="pull it again"))

    event = json.loads(results.getvalue().splitlines()[-1])
    assert event["event"] == "error"
    assert event["name"] == "mistral:7b"
    assert event["exit_code"] == 6
    assert "\x1b" not in event["message"]
    assert errors.getvalue().startswith("error: mistral:7b \\x1b")
    assert errors.getvalue().endswith("\nhint: pull it again\n")


def test_quiet_shows_errors_only() -> None:
    errors = io.StringIO()
    with Quiet(errors) as view:
        view.show(fetching())
        view.done(outcome())
        view.failed(MISTRAL, SyncdError("nothing there"))

    assert errors.getvalue() == "error: mistral:7b: nothing there\n"
