"""The line that ``systemctl status`` shows."""

import msgspec

from syncd.api.v1 import DesiredModel
from syncd.daemon.pulse import status_line

WHOLE = DesiredModel(
    name="mistral:7b",
    state="published",
    digest="sha256:" + "a" * 64,
    pending=None,
    size=5,
    done=5,
    job=None,
    reason=None,
    failures=0,
    last_check=None,
    next_check=None,
)


def test_a_model_whose_registry_is_away_is_still_published() -> None:
    failing = msgspec.structs.replace(WHOLE, state="failing", reason="no route", failures=3)

    assert status_line([], [WHOLE, failing], None) == "2 of 2 models published, 1 failing"


def test_a_model_that_waits_for_its_update_is_published_meanwhile() -> None:
    pending = msgspec.structs.replace(WHOLE, state="pending", pending="sha256:" + "b" * 64)

    assert status_line([], [pending], None) == "1 of 1 models published"


def test_what_is_not_there_or_not_whole_is_not_published() -> None:
    absent = msgspec.structs.replace(WHOLE, state="failing", digest=None, size=0, done=0)
    damaged = msgspec.structs.replace(WHOLE, state="failing", done=0)

    assert status_line([], [WHOLE, absent, damaged], "x") == (
        "1 of 3 models published, 2 failing; newer settings are refused"
    )
