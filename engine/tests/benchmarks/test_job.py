"""Batches after which a contender saves: one to warm up, blocks with and without saves, and one that is timed idle."""

import pytest
from benchmarks.job import Job
from hypothesis import given
from hypothesis import strategies as st


def _job(interval, saves, pairs, first=None):
    first = 2 * interval if first is None else first
    return Job("x", "tiny", interval, saves, first, Job.end(first, interval, saves, pairs), 1, "cpu", "", 1.0)


def test_the_saves_of_two_pairs():
    job = _job(interval=3, saves=2, pairs=2)
    assert [batch for batch in range(1, job.max_batches + 1) if job.is_due(batch)] == [3, 6, 9, 27, 30, 34]
    assert job.pairs == [(6, 13), (27, 20)]  # in turns: which of the two comes first
    assert (job.block, job.last_batch) == (6, 34)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))
def test_each_block_has_its_saves_and_each_save_is_followed_by_as_many_batches_of_its_block(interval, saves, pairs):
    job = _job(interval, saves, pairs)
    due = [batch for batch in range(1, job.max_batches + 1) if job.is_due(batch)]
    assert len(job.pairs) == pairs
    assert due == [interval, *(busy + k * interval for busy, _ in job.pairs for k in range(saves)), job.last_batch]
    starts = sorted(start for pair in job.pairs for start in pair)
    assert [start + job.block + 1 for start in starts] == [*starts[1:], job.last_batch]


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_without_an_interval_the_contender_chooses(batch):
    assert not Job("x", "tiny", 0, 0, 1, 100, 1, "cpu", "", 1.0).is_due(batch)
