import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.download.plan import WINDOW, ByteRange, RangeQueue, missing, segment_size, window
from syncd.oci.chunks import CHUNK_SIZE, chunk_bounds, chunk_count

sizes = st.integers(min_value=0, max_value=40 * CHUNK_SIZE)


@given(sizes, st.sets(st.integers(min_value=0, max_value=40)))
def test_missing_and_held_make_up_the_blob_and_share_nothing(size: int, held: set[int]) -> None:
    ranges = missing(size, held)

    lacking = {index for index in range(chunk_count(size)) if index not in held}
    covered = {
        index
        for index in range(chunk_count(size))
        for one in ranges
        if one.start <= chunk_bounds(index, size)[0] and chunk_bounds(index, size)[1] <= one.end
    }
    assert covered == lacking
    assert sum(one.size for one in ranges) == sum(
        end - start for start, end in (chunk_bounds(index, size) for index in lacking)
    )
    assert all(first.end < second.start for first, second in itertools.pairwise(ranges))


@given(sizes.filter(bool), st.integers(min_value=1, max_value=64))
def test_segments_come_in_ascending_order_and_cover_everything_once(size: int, connections: int) -> None:
    queue = RangeQueue(missing(size, ()))

    taken = []
    while (one := queue.take(before=size, connections=connections)) is not None:
        taken.append(one)

    assert taken[0].start == 0
    assert taken[-1].end == size
    assert all(first.end == second.start for first, second in itertools.pairwise(taken))
    assert all(one.start % CHUNK_SIZE == 0 for one in taken)
    assert queue.rest == 0
    assert not queue


@given(st.integers(min_value=1, max_value=1 << 45), st.integers(min_value=1, max_value=64))
def test_a_segment_is_whole_chunks_and_all_connections_fit_in_the_window(rest: int, connections: int) -> None:
    size = segment_size(rest, connections)

    assert size % CHUNK_SIZE == 0
    assert CHUNK_SIZE <= size <= WINDOW * 2
    assert size * connections <= window(connections)


def test_nothing_that_starts_beyond_the_window_is_handed_out() -> None:
    queue = RangeQueue(missing(4 * CHUNK_SIZE, {0, 1}))

    assert queue.take(before=2 * CHUNK_SIZE, connections=1) is None
    assert queue.take(before=2 * CHUNK_SIZE + 1, connections=1) is not None


def test_what_a_dropped_connection_left_is_the_next_thing_to_fetch() -> None:
    queue = RangeQueue(missing(8 * CHUNK_SIZE, ()))
    first = queue.take(before=1 << 40, connections=8)
    assert first is not None

    queue.give_back(ByteRange(first.start + 7, first.end))

    assert queue.lowest == 7
    assert queue.take(before=1 << 40, connections=8) == ByteRange(7, CHUNK_SIZE)


def test_an_empty_or_backward_range_cannot_be_made() -> None:
    for start, end in ((0, 0), (5, 4), (-1, 3)):
        with pytest.raises(ValueError, match="not a range"):
            ByteRange(start, end)
