"""What is remembered of scrubs: nothing that a daemon cannot do without."""

import random
from pathlib import Path

import pytest

from syncd.store.root import Store
from syncd.store.scrubs import ScrubState, load
from tests.scrub.world import blob_file, book_of, harm, put, scrubbed
from tests.support.models import build_model


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"damaged": [{}]}', b"\0" * 100])
async def test_what_cannot_be_read_costs_a_scrub_from_the_beginning(store: Store, content: bytes) -> None:
    put(store, build_model("mistral:7b"))
    store.state.write("scrub.json", content)

    assert load(store.state) == ScrubState()
    assert not (await scrubbed(store)).resumed


async def test_what_a_process_found_every_later_one_knows(store: Store, store_path: Path) -> None:
    model = build_model("mistral:7b")
    put(store, model)
    harm(blob_file(store, model.weights), "truncate", random.Random(1))
    await scrubbed(store)

    with Store.open(store_path, create=False) as later:
        state = book_of(later).state

    assert [(one.digest, one.kind) for one in state.damaged] == [(model.weights, "wrong_size")]
    assert state.last is not None
    assert (state.last.damaged, state.whole) == (1, None)
