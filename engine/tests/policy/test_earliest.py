"""Until when no trigger can be due: compared with asking each trigger at each boundary."""

import random
from fractions import Fraction

import pytest
from tests.support.values import at, moment

from cairn.policy import when
from cairn.policy.earliest import earliest
from cairn.policy.pause import AtPause, parse
from cairn.types import SaveCost

COST = SaveCost(batch_s=0.1, stall_s=0.05, slowdown_s=0.0, write_s=0.2, num_saves=3)


def boundaries(seed, per_epoch=7):
    """Moments of a run with windows of several batches, steps that jump, and no event."""
    choose = random.Random(seed)
    now, elapsed = at(), 0.0
    while now.total_batches < 60:
        before, batch = now, now.batch + choose.randint(1, 3)
        if batch >= per_epoch:
            batch = per_epoch
        total = before.total_batches + batch - before.batch
        now = at(batch, epoch=before.epoch, total=total, step=before.step + choose.randint(0, 3))
        elapsed += choose.random()
        yield moment(now, before, batches_per_epoch=per_epoch, elapsed_s=elapsed, since_save_s=elapsed)
        if batch == per_epoch:
            now = at(0, epoch=now.epoch + 1, total=now.total_batches, step=now.step)


TRIGGERS = {
    "batches": lambda: when.EveryNBatches(5),
    "steps": lambda: when.EveryNSteps(4),
    "seconds": lambda: when.EveryNSeconds(3.0),
    "epochs": lambda: when.EveryNEpochs(2),
    "part of an epoch": lambda: when.EveryNEpochs("0.3"),
    "every": lambda: when.Every("11ba"),
    "every part of an epoch": lambda: when.Every("0.25ep"),
    "best": lambda: when.BestValidation(),
    "end": when.AtEnd,
    "stop": when.OnStop,
}
PAUSES = ["1ep", "2.3ep", "0.9ep", "17st", "23ba", "5s"]


@pytest.mark.parametrize("kind", TRIGGERS)
@pytest.mark.parametrize("seed", range(5))
def test_no_trigger_is_due_before_the_earliest_boundary(kind, seed):
    trigger = TRIGGERS[kind]()
    quiet, num_quiet, known = None, 0, None
    for here in boundaries(seed):
        position = here.position
        if quiet and position.epoch == known.epoch:
            covered = (
                position.total_batches < quiet.total_batches
                and position.step < quiet.step
                and here.elapsed_s < quiet.elapsed_s
            )
            if covered:
                num_quiet += 1
                assert not trigger.due(here, [])
                continue
        trigger.due(here, [])
        quiet, known = earliest([trigger], here), position
    assert num_quiet > 0


@pytest.mark.parametrize("point", PAUSES)
@pytest.mark.parametrize("seed", range(5))
def test_no_pause_is_reached_before_the_earliest_boundary_inside_of_an_epoch(point, seed):
    pause, limit, known, num_quiet = parse(point), None, None, 0
    for here in boundaries(seed):
        position = here.position
        reached = pause.is_reached(position, position.epoch, here.elapsed_s, here.batches_per_epoch)
        if limit and position.epoch == known.epoch:
            before = position.total_batches < limit.total_batches and position.step < limit.step
            if before and here.elapsed_s < limit.elapsed_s:
                num_quiet += 1
                assert not reached
        if reached:
            break
        limit, known = earliest([AtPause(pause)], here), position
    assert num_quiet > 0


def test_a_fixed_interval_is_due_at_the_earliest_boundary_and_not_before():
    here = moment(at(3, epoch=1, total=23), at(2, epoch=1, total=22), batches_per_epoch=20)
    assert earliest([when.EveryNBatches(5)], here).total_batches == 25
    assert earliest([when.Every("0.5ep")], here).total_batches == 30  # ten batches into the second epoch
    assert earliest([when.EveryNBatches(5), when.Every("3ba")], here).total_batches == 24


def test_the_time_since_the_last_save_counts():
    here = moment(elapsed_s=100.0, since_save_s=20.0)
    assert earliest([when.EveryNSeconds(30.0)], here).elapsed_s == 110.0


def test_an_interval_that_is_tuned_is_asked_at_each_boundary_until_it_has_one():
    trigger = when.Auto(max_overhead=0.01)
    here = moment(at(1), at(0))
    trigger.due(here, [])
    assert earliest([trigger], here).total_batches == 0
    here = moment(at(2), at(1), cost=COST)
    trigger.due(here, [])
    assert earliest([when.Every("auto"), trigger], here).total_batches == 0
    assert earliest([trigger], here).total_batches == trigger.choice.interval_batches > 2


def test_a_trigger_of_another_class_is_asked_at_each_boundary():
    class Own(when.EveryNBatches):
        def due(self, moment, saved):
            return True

    assert earliest([Own(1000)], moment()).total_batches == 0


def test_without_triggers_nothing_is_ever_due():
    assert earliest([], moment()).total_batches > 10**9


def test_data_without_a_length_is_asked_about_so_that_the_error_is_raised():
    assert earliest([when.EveryNEpochs(Fraction(1, 2))], moment(batches_per_epoch=None)).total_batches == 0
