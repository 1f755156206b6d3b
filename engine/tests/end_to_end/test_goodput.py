"""The simulator against real kills: given the times of a storm, it predicts the batches that the kills cost."""

from __future__ import annotations

import math
import random
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev

import pytest
from tests.support.command import QUICK, Process, start, wait_for

from cairn.store.catalog import Catalog
from cairn.study.failures import Trace
from cairn.study.simulate import Plan, predict, simulate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="a kill ends all of a process group at once"),
]

INTERVAL = 20
KILLS = 10
TRAINING = [
    *QUICK,
    "model=mlp",
    "data.batch_size=16",
    "trainer.max_epochs=1000",
    "trainer.limit_val_batches=0",
    "checkpoint=interval",
    f"checkpoint.save_interval={INTERVAL}",
    "checkpoint.keep_last=-1",
    "checkpoint.writer=thread",  # dies with its process, as when a machine fails
    "test=false",
    "+callbacks.stamps._target_=tests.support.callbacks.StampBatches",
]


@dataclass(frozen=True)
class Attempt:
    """A start that ended by a kill."""

    stamps: list[tuple[int, float]]
    """Number of each batch that was completed, and when."""
    killed: float

    def plain_s(self) -> list[float]:
        """Return the times of batches without a save, which comes before the first batch of an interval."""
        return [b - a for (number, a), (_, b) in pairwise(self.stamps) if number % INTERVAL]

    def with_save_s(self) -> list[float]:
        """Return the times of batches with a save before them."""
        return [b - a for (number, a), (_, b) in pairwise(self.stamps) if number % INTERVAL == 0]

    def uptime(self, save: float) -> float:
        """Return the time until the kill in batches, each of which counts 1: so the speed of the machine has no part.

        Args:
            save: What a save costs, in batches.
        """
        since = (self.killed - self.stamps[-1][1]) / mean(self.plain_s())
        done, num_saves = len(self.stamps), len(self.with_save_s())
        is_due = self.stamps[-1][0] % INTERVAL == 0
        return done + num_saves * save + min(since, 0.99 + is_due * save)


def storm(run: Path) -> list[Attempt]:
    """Start the training again and again, and kill it at a random time, after two and a half intervals on average."""
    rng, stamps, attempts = random.Random(15), run / "stamps", []
    for _ in range(KILLS):
        done = _lines(stamps)
        process = start(run, *TRAINING)
        wanted = done + 3 + int(rng.expovariate(1 / (2.5 * INTERVAL)))
        assert wait_for(lambda least=wanted: _lines(stamps) >= least, process)
        time.sleep(rng.uniform(0, 0.005))
        attempts.append(_kill(process, stamps, done))
    return attempts


def _kill(process: Process, stamps: Path, done: int) -> Attempt:
    killed = time.monotonic()
    process.kill()
    lines = stamps.read_text().splitlines()[done:]
    return Attempt([(int(number), float(at)) for number, at in map(str.split, lines)], killed)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_the_simulator_predicts_what_a_storm_of_kills_costs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempts = storm(run)
    saved = Catalog(run / "checkpoints").committed()
    reached = [attempt.stamps[-1][0] for attempt in attempts]
    continued = [attempt.stamps[0][0] - 1 for attempt in attempts[1:]] + [saved[-1].position.total_batches]
    lost = [end - begin for end, begin in zip(reached, continued, strict=True)]
    kept, trained = continued[-1], sum(len(attempt.stamps) for attempt in attempts)
    assert trained == kept + sum(lost)

    batch_s = mean(second for attempt in attempts for second in attempt.plain_s())
    save = max(0.0, median(second for attempt in attempts for second in attempt.with_save_s()) / batch_s - 1)
    writes = [(one.stall_s + one.write_s) / batch_s for one in saved]
    plan = Plan(INTERVAL, save, min(median(writes), INTERVAL))
    uptimes = [attempt.uptime(save) for attempt in attempts]
    replayed = simulate(plan, uptimes)
    print(
        f"\n{KILLS} kills, {trained} batches trained, {sum(lost)} lost (predicted {replayed.lost_s:.0f}); goodput in "
        f"batches {kept / trained:.3f} (predicted {replayed.counted_s / (replayed.counted_s + replayed.lost_s):.3f}); "
        f"a batch {1000 * batch_s:.1f} ms, a save {save:.2f} batches, its write {median(writes):.2f}"
    )
    # The last batch of each attempt was not completed. A kill during a write may come before or after its commit: that
    # moves one interval.
    after_save = [(uptime - INTERVAL) % (INTERVAL + save) for uptime in uptimes if uptime >= INTERVAL]
    num_close = sum(passed <= max(writes) + 1 for passed in after_save)
    assert abs(replayed.lost_s - sum(lost)) <= KILLS + num_close * INTERVAL
    assert abs(replayed.counted_s - kept) <= KILLS + num_close * INTERVAL

    # From the distribution of the uptimes alone, a storm is as expensive as the mean of many such storms.
    one_by_one = [simulate(plan, [uptime]).lost_s for uptime in uptimes]
    expected = predict(plan, Trace(uptimes))
    error = 4 * max(stdev(one_by_one), INTERVAL / 4) / math.sqrt(KILLS)
    assert abs(expected.lost_s / expected.num_failures - mean(lost)) <= error
