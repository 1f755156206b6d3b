"""Which process predicts which batches: all of them, each once, whatever was there before."""

import pytest

from cairn.predictions import plan as plans
from cairn.predictions.plan import Entry


def batches(number):
    return [[2 * at, 2 * at + 1] for at in range(number)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("number", [1, 2, 7, 64])
@pytest.mark.parametrize("gone", [(), (0,), (1, 3)])
def test_each_missing_batch_is_predicted_once_and_all_processes_compute_as_many(world_size, number, gone):
    plan = plans.make(batches(number), 2, seed=0, made_with={})
    missing = [part for part in range(plan.num_parts) if part not in gone]
    dealt = [plans.deal(plan, missing, rank, world_size) for rank in range(world_size)]
    written = sorted(entry.batch for entries in dealt for entry in entries if entry.part is not None)
    assert written == [batch for part in missing for batch in plan.batches(part)]
    assert len({len(entries) for entries in dealt}) == 1
    for entries in dealt:  # a part is written when its last batch is there: its batches come in order, on one process
        parts = [entry.part for entry in entries if entry.part is not None]
        assert parts == sorted(parts)


def test_nothing_is_left():
    plan = plans.make(batches(3), 1, seed=0, made_with={})
    assert plans.deal(plan, [], 0, 2) == []


def test_a_process_without_a_part_computes_batches_again():
    plan = plans.make(batches(2), 1, seed=0, made_with={})
    assert plans.deal(plan, [1], 1, 2) == [Entry(1, None)]


@pytest.mark.parametrize(("number", "world_size", "parts"), [(1, 1, 1), (8, 1, 4), (8, 2, 8), (1000, 1, 32), (0, 1, 0)])
def test_parts_are_large_unless_processes_would_have_nothing_to_do(number, world_size, parts):
    plan = plans.make(batches(number), world_size, seed=0, made_with={})
    assert plan.num_parts == parts
    assert [batch for part in range(parts) for batch in plan.batches(part)] == list(range(number))


def test_what_differs_is_named():
    one = plans.make(batches(4), 1, 0, {"checkpoint": "a", "data": "b"})
    assert plans.differences(one, plans.make(batches(4), 2, 0, {"checkpoint": "a", "data": "b"})) == []
    other = plans.make(batches(5), 1, 1, {"checkpoint": "c"})
    found = ["the number of batches", "the samples of the batches", "the seed", "checkpoint", "data"]
    assert plans.differences(one, other) == found
