"""`save_interval=auto` in a simulated training: meter, choice of the interval and trigger together."""

import random
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from tests.support.values import at, moment

from cairn.account.meter import Meter
from cairn.policy.auto import ROOM
from cairn.policy.when import Every


@dataclass(frozen=True)
class World:
    """Durations on a simulated machine."""

    batch_s: float = 0.18
    stall_s: float = 0.05
    slower: float = 0.4
    """Share by which batches are slower while a save is written."""
    write_s: float = 0.9
    noise: float = 0.1
    """Random variation of each duration, as a share."""
    hiccup: float = 0.0
    """Factor for the duration of every 16th batch; 0: none."""


class Training:
    """Simulated training that obeys `trigger` and records what its saves really cost."""

    def __init__(self, trigger, seed=0, window=1):
        self.trigger, self.meter, self.random, self.window = trigger, Meter(), random.Random(seed), window
        self.meter.expect_bytes(num_bytes=10**7)
        self.now_s, self.ideal_s, self.total = 0.0, 0.0, 0
        self.writing = None  # start, end
        self.saves, self.chosen = [], []

    def train(self, world, num_batches):
        for _ in range(num_batches):
            self._batch(world)
            if self.total % self.window == 0:
                self._boundary(world)
        return self

    def overhead(self, since=(0.0, 0.0)):
        """Return the true overhead since an earlier `clock`: lost time as a share of the time without saves."""
        took, ideal = self.now_s - since[0], self.ideal_s - since[1]
        return took / ideal - 1

    @property
    def clock(self):
        return self.now_s, self.ideal_s

    def _batch(self, world):
        ideal = self._noisy(world, world.batch_s) * (world.hiccup if world.hiccup and self.total % 16 == 0 else 1)
        busy = self.writing is not None
        during = min(ideal, (self.writing[1] - self.now_s) / (1 + world.slower)) if busy else 0.0
        seconds = ideal + max(0.0, during) * world.slower
        self.now_s, self.ideal_s, self.total = self.now_s + seconds, self.ideal_s + ideal, self.total + 1
        self.meter.record_batch(seconds, busy=busy, validated=False)
        if busy and self.now_s >= self.writing[1]:
            start, end = self.writing
            self.meter.record_commit(end - start, at_s=end, position_s=start)
            self.writing = None

    def _boundary(self, world):
        here, before = at(self.total), at(self.total - self.window)
        busy = self.writing is not None
        due = self.trigger.due(moment(here, before, cost=self.meter.cost(), busy=busy), ())
        if self.trigger.choice and self.trigger.choice.interval_batches not in self.chosen[-1:]:
            self.chosen.append(self.trigger.choice.interval_batches)
        if due:
            assert not busy, "saves overlap"
            self._save(world)

    def _save(self, world):
        start, stall_s = self.now_s, self._noisy(world, world.stall_s)
        self.now_s += stall_s
        self.meter.record_stall(stall_s)
        self.writing = start, max(self.now_s, start + self._noisy(world, world.write_s))
        self.saves.append(self.total)

    def _noisy(self, world, seconds):
        return seconds * self.random.uniform(1 - world.noise, 1 + world.noise)


WORLDS = {
    "a thread that writes": World(),
    "a process that writes, and a slow disk": World(stall_s=0.03, slower=0.0, write_s=9.0),
    "written while training waits": World(stall_s=0.9, write_s=0.9),
    "few and long batches": World(batch_s=9.0, stall_s=0.4, slower=0.05, write_s=6.0),
    "every 16th batch is slow": World(hiccup=4.0),
}


def later(world):
    """Return the world with a four times slower disk, and then also with three times faster batches."""
    stall_s = world.stall_s * (4 if world.stall_s == world.write_s else 1)
    slow_disk = replace(world, write_s=4 * world.write_s, stall_s=stall_s)
    return slow_disk, replace(slow_disk, batch_s=world.batch_s / 3)


def shortest(world, goal):
    """Return the shortest interval, in batches, that the exact durations allow."""
    slowed_s = max(0.0, world.write_s - world.stall_s) * world.slower / (1 + world.slower)
    return max((world.stall_s + slowed_s) / goal, ROOM * world.write_s) / world.batch_s


@pytest.mark.parametrize("goal", [0.05, 0.02])
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_the_overhead_stays_within_its_bound_whatever_changes(world, goal):
    training = Training(Every("auto", max_overhead=goal))
    training.train(world, 300)  # to warm up
    started = training.clock
    for phase in (world, *later(world)):
        num_chosen, num_saves = len(training.chosen), len(training.saves)
        training.train(phase, 12_000)
        assert len(training.chosen) - num_chosen <= max(4, 0.1 * (len(training.saves) - num_saves)), training.chosen
    assert training.overhead(started) <= 1.2 * goal
    assert training.meter.overhead(training.now_s) == pytest.approx(training.overhead(), rel=0.2, abs=0.003)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("world", [world for world in WORLDS.values() if not world.hiccup])
def test_it_follows_a_change_within_a_few_saves(world, seed):
    training = Training(Every("auto", max_overhead=0.02), seed)
    training.train(world, 1000)
    for phase in (world, *later(world)):
        num_saves, total = len(training.saves), training.total
        while len(training.saves) < num_saves + 10 or training.total < total + 400:
            training.train(phase, 1)
        exact = shortest(phase, 0.02)
        assert exact / 1.3 <= training.trigger.choice.interval_batches <= 1.7 * exact + 1


def test_the_first_save_comes_after_the_estimated_interval():
    training = Training(Every("auto", max_overhead=0.01))
    training.train(World(), 200)
    assert 3 < training.saves[0] < 60  # 10 MB: 20 ms of copying, 10 of slower batches
    assert training.chosen[1] > 2 * training.chosen[0]  # the measured cost is higher than the estimate


def test_with_accumulation_it_saves_at_the_end_of_a_window():
    training = Training(Every("auto", max_overhead=0.05), window=7)
    training.train(World(), 7000)
    assert all(total % 7 == 0 for total in training.saves)
    assert training.overhead() <= 1.2 * 0.05
    assert all(b - a < training.chosen[-1] + 2 * 7 for a, b in pairwise(training.saves[-20:]))


def test_mtbf_makes_saves_less_frequent_and_never_more():
    often, seldom, careless = (
        Training(Every("auto", max_overhead=0.02, mtbf=mtbf)).train(World(), 20_000) for mtbf in (None, "1h", "1d")
    )
    assert len(often.saves) >= len(seldom.saves) > 2 * len(careless.saves) > 10
    assert often.meter.at_risk_s(often.now_s) < careless.meter.at_risk_s(careless.now_s)


def test_the_work_at_risk_is_about_half_an_interval_and_a_write():
    training = Training(Every("auto", max_overhead=0.02)).train(World(), 20_000)
    interval_s = training.chosen[-1] * 0.18
    assert training.meter.at_risk_s(training.now_s) == pytest.approx(interval_s / 2 + 0.9, rel=0.15)
