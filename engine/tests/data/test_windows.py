"""Global batches: the same on any number of processes, and dealt out completely and equally."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cairn.data.global_batches import GlobalBatches
from cairn.data.windows import Dealing, Share, Windows
from cairn.errors import DataError

NUM_SAMPLES, SIZES, NUMBERS = (st.integers(1, most) for most in (200, 24, 8))
WINDOWS = st.builds(Windows, NUM_SAMPLES, SIZES, st.booleans())


def bounds(windows):
    return [windows.bounds(number) for number in range(windows.number)]


@given(WINDOWS)
def test_windows_follow_each_other_and_leave_out_only_what_is_dropped(windows):
    ends = [0, *(end for _, end in bounds(windows))]
    assert [start for start, _ in bounds(windows)] == ends[:-1]
    rest = windows.num_samples % windows.size if windows.drop_last else 0
    assert ends[-1] == windows.num_samples - rest


@given(WINDOWS)
def test_all_windows_but_the_last_two_are_complete_and_none_is_small(windows):
    sizes = [end - start for start, end in bounds(windows)]
    assert all(size == windows.size for size in sizes[:-2])
    assert all(2 * size >= windows.size for size in sizes) or len(sizes) == 1
    assert max(sizes, default=0) <= windows.size


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(24, [12, 12]), (31, [12, 12, 7]), (30, [12, 12, 6]), (29, [12, 9, 8]), (25, [12, 7, 6]), (13, [7, 6]), (5, [5])],
)
def test_a_small_rest_is_shared_by_the_last_two_windows(num_samples, expected):
    assert [end - start for start, end in bounds(Windows(num_samples, 12))] == expected


def assume_divisible(windows, world_size):
    assume(windows.size % world_size == 0)
    assume(min((end - start for start, end in bounds(windows)), default=0) >= world_size)


def parts(windows, batch_size, world_size, window):
    """Batches of a window on each process, as lists of places."""
    shares = [Share(windows.size, batch_size, rank, world_size) for rank in range(world_size)]
    first = shares[0].num_batches(windows, window)
    last = first + shares[0].batches_of(windows.bounds(window)[1] - windows.bounds(window)[0])
    return [[places.tolist() for places in share.batches(windows, 0)][first:last] for share in shares]


def drawn(windows, batch_size, world_size, data):
    """Number of a window, and its batches on each process."""
    assume_divisible(windows, world_size)
    window = data.draw(st.integers(0, windows.number - 1))
    return window, parts(windows, batch_size, world_size, window)


@given(WINDOWS, NUMBERS, NUMBERS, st.data())
def test_a_window_is_dealt_out_completely_and_equally(windows, batch_size, world_size, data):
    window, found = drawn(windows, batch_size, world_size, data)
    start, end = windows.bounds(window)
    assert sorted(place for batches in found for batch in batches for place in batch) == list(range(start, end))
    sizes = [len(batch) for batches in found for batch in batches]
    assert max(sizes) - min(sizes) <= (end - start < windows.size), "complete: equal; else they differ by one at most"
    assert len({len(batches) for batches in found}) == 1, "each process has as many"
    if end - start == windows.size:
        assert max(sizes) <= batch_size


@given(WINDOWS, NUMBERS, NUMBERS, st.data())
def test_weights_make_the_mean_over_batches_the_mean_over_samples(windows, batch_size, world_size, data):
    window, found = drawn(windows, batch_size, world_size, data)
    start, end = windows.bounds(window)
    total, count = 0.0, sum(map(len, found))
    for rank, batches in enumerate(found):
        share = Share(windows.size, batch_size, rank, world_size)
        for number, batch in enumerate(batches):
            weight = GlobalBatches(windows, share).weight(window * share.per_window + number)
            total += weight * sum(batch) / len(batch) / count
    assert total == pytest.approx(sum(range(start, end)) / (end - start))


@given(WINDOWS, NUMBERS, NUMBERS)
def test_windows_are_even_if_each_batch_has_the_weight_1(windows, batch_size, world_size):
    assume_divisible(windows, world_size)
    ranks = [GlobalBatches(windows, Share(windows.size, batch_size, rank, world_size)) for rank in range(world_size)]
    number = ranks[0].batches_in(windows.number)
    assume(all(size >= ranks[0].per_window * world_size for size in map(ranks[0].size_of, range(windows.number))))
    weights = {rank.weight(batch) for rank in ranks for batch in range(number)}
    assert ranks[0].is_even == (weights <= {1.0})


@given(WINDOWS, NUMBERS, NUMBERS, st.data())
def test_a_start_continues_with_the_rest(windows, batch_size, world_size, data):
    assume_divisible(windows, world_size)
    share = Share(windows.size, batch_size, data.draw(st.integers(0, world_size - 1)), world_size)
    whole = [places.tolist() for places in share.batches(windows, 0)]
    start = data.draw(st.integers(0, windows.number - 1)) * share.per_window
    assert [places.tolist() for places in share.batches(windows, start)] == whole[start:]
    assert share.num_batches(windows, windows.number) == len(whole)


@given(WINDOWS, NUMBERS, NUMBERS)
def test_training_has_as_many_batches_in_each_window_or_is_refused(windows, batch_size, world_size):
    assume_divisible(windows, world_size)
    share = Share(windows.size, batch_size, 0, world_size)
    smallest = min(end - start for start, end in bounds(windows))
    if smallest < share.per_window * world_size:
        with pytest.raises(DataError, match="drop_last=True"):
            GlobalBatches(windows, share).check_even()
    else:
        GlobalBatches(windows, share).check_even()
        assert share.num_batches(windows, windows.number) == windows.number * share.per_window


def test_a_window_with_fewer_samples_than_processes_is_refused():
    with pytest.raises(DataError, match=r"of 1 sample, .* too small for 2 processes: use at most 1, or drop_last=T"):
        Share(2, 1, 0, 2).num_batches(Windows(3, 2), 2)


@pytest.mark.parametrize("num_samples", [13, 25, 100, 1000])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_batches_of_two_samples_or_more_are_never_refused(num_samples, world_size):
    share = Dealing(12, 12 // world_size, drop_last=False).share(0, world_size)
    GlobalBatches(Windows(num_samples, 12), share).check_even()


def test_another_number_of_processes_is_refused_with_those_that_are_possible():
    with pytest.raises(DataError, match=r"5 processes cannot share a global batch of 12 .* one of 1, 2, 3, 4, 6, 12 "):
        Share(12, 3, 0, 5)


@pytest.mark.parametrize(
    ("size", "batch_size", "world_size", "text"),
    [
        (12, 3, 2, "2 processes x 2 batches of 3"),
        (12, 8, 1, "2 batches of 6"),
        (12, 6, 2, "2 processes x 1 batch of 6"),
    ],
)
def test_how_a_window_is_shared_is_said_in_words(size, batch_size, world_size, text):
    assert str(Share(size, batch_size, 0, world_size)) == text


@given(st.integers(1, 100), st.integers(1, 24), st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_with_virtual_ranks_the_batches_are_the_same_on_any_number_of_processes(
    num, size, batch_size, world_size, in_turn
):
    windows = Windows(num, size)
    alone = Share(size, batch_size, 0, 1, has_virtual_ranks=True)
    number = alone.num_virtual_ranks
    ends = [windows.bounds(window) for window in range(windows.number)]
    assume(world_size <= number and all(end - start >= number for start, end in ends))
    expected = [places.tolist() for places in alone.batches(windows, 0)]
    found = [[] for _ in expected]
    for rank in range(world_size):
        share = Share(size, batch_size, rank, world_size, has_virtual_ranks=True, in_turn=in_turn)
        batches = [places.tolist() for places in share.batches(windows, 0)]
        assert len(batches) == share.num_batches(windows, windows.number) == windows.number * share.per_window
        weights = [GlobalBatches(windows, share).weight(batch) for batch in range(len(batches))]
        for batch, (places, weight) in enumerate(zip(batches, weights, strict=True)):
            window, turn = divmod(batch, share.per_window)
            virtual = share.own[min(turn, len(share.own) - 1)]  # an extra batch is the last one again
            assert places == expected[window * number + virtual]
            assert weight == GlobalBatches(windows, alone).weight(window * number + virtual)
            if turn < len(share.own):
                found[window * number + virtual].append(places)
            if in_turn:
                assert virtual == min(turn, len(share.own) - 1) * world_size + rank
    assert found == [[places] for places in expected], "each of them once"


def test_virtual_ranks_that_cannot_be_played_are_refused():
    with pytest.raises(DataError, match="5 processes are more than the 4 batches of a global batch: use at most 4"):
        Share(8, 2, 0, 5, has_virtual_ranks=True)
    with pytest.raises(DataError, match="2 processes are more than the one batch of a global batch: use at most 1"):
        Share(8, 8, 0, 2, has_virtual_ranks=True)
    with pytest.raises(DataError, match="of 3 samples, the last one of an epoch, is too small for 4 virtual ranks"):
        Share(4, 1, 0, 1, has_virtual_ranks=True).batches_of(3)
