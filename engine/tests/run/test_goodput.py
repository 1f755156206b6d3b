"""What the time of a run was spent on: the parts add up, whatever is missing."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.support.values import saved

from cairn.run import time_table
from cairn.run.attempts import Attempt, ExitStatus, StartingPoint
from cairn.run.goodput import Last, spans, spent

T0 = 1_800_000_000.0


def attempt(at_s, begins_s=0.0, before=None, job=""):
    when = datetime.fromtimestamp(T0 + at_s, UTC).isoformat(timespec="milliseconds")
    return Attempt(when, "node", job, StartingPoint(0, begins_s), before)


def ended(reached_s, seen, end=None, status="running"):
    return ExitStatus(status, "", 0, reached_s, T0 + seen, None if end is None else T0 + end)


def last(state, elapsed_s, seen, end=None, kept_s=None, now=None, overhead=0.0, stall_s=0.0):
    item = None if kept_s is None else saved(elapsed_s=kept_s, overhead=overhead, stall_s=stall_s)
    now = now if now is not None else end if end is not None else seen
    return Last(state, T0 + seen, None if end is None else T0 + end, elapsed_s, item, T0 + now)


def test_a_run_that_was_never_interrupted():
    found = spent([attempt(0)], last("finished", 100.0, 105, end=112, kept_s=100.0, overhead=0.25, now=5000))
    assert (found.counted_s, found.saving_s, found.starting_s, found.ending_s) == (80, 20, 5, 7)
    assert (found.lost_s, found.queue_s, found.stopped_s, found.wall_s) == (0, 0, 0, 112)
    assert found.goodput == pytest.approx(80 / 112)
    assert (found.num_starts, found.num_estimated) == (1, 0)


def test_kills_hangs_queues_and_stops():
    tried = [
        attempt(0),
        attempt(200, 80.0, ended(100.0, 110), job="7"),  # killed 10 s after it began to train
        attempt(500, 150.0, ended(150.0, 275, end=290, status="stopped"), job="7"),  # saved, requeued
        attempt(1500, 160.0, ended(190.0, 545, end=600, status="hung"), job="7"),
        attempt(2000, 160.0, ended(160.0, 1500, end=1510, status="failed"), job="8"),  # before its first batch
    ]
    found = spent(tried, last("running", 260.0, 2110, kept_s=250.0, now=2115))
    assert found.counted_s == 80 + 70 + 10 + 105
    assert found.starting_s == 10 + 5 + 5 + 0 + 10
    assert found.lost_s == 20 + 30 + 55  # two repeated parts, and the time that it hung
    assert found.ending_s == 15 + 10
    assert found.queue_s == 210 + 900
    assert found.stopped_s == 90 + 490
    assert found.wall_s == 2115
    assert found.num_estimated == 1


@pytest.mark.parametrize(
    ("state", "now", "parts"),
    [
        ("running", 130, {"counted_s": 120}),
        ("dead", 130, {"counted_s": 90, "lost_s": 10, "num_estimated": 1}),
        ("waiting", 130, {"counted_s": 90, "lost_s": 10, "queue_s": 20}),
        ("stopped", 110, {"counted_s": 100}),
    ],
)
def test_the_newest_attempt_by_its_state(state, now, parts):
    found = spent([attempt(0)], last(state, 100.0, 110, kept_s=90.0, now=now))
    assert {name: getattr(found, name) for name in parts} == pytest.approx(parts)
    assert found.starting_s == 10
    assert found.wall_s == pytest.approx(110 if state == "dead" else now)


def test_an_attempt_that_has_not_begun_to_train_does_not_count_the_progress_of_the_one_before():
    tried = [attempt(0), attempt(200, 80.0, ended(100.0, 110))]
    found = spent(tried, last("running", 100.0, 110, kept_s=80.0, now=230))
    assert (found.counted_s, found.lost_s, found.starting_s, found.stopped_s) == (80, 20, 40, 90)


def test_without_figures_of_saving_the_training_that_counts_holds_it():
    found = spent([attempt(0)], last("finished", 100.0, 105, end=112, kept_s=100.0, overhead=None))
    assert (found.saving_s, found.counted_s, found.wall_s) == (None, 100, 112)
    assert any("was not measured" in sentence for sentence in time_table.caveats(found))


def test_a_start_is_that_of_the_process():
    first, second = attempt(5), attempt(200, 80.0, ended(100.0, 110))
    tried = [replace(first, process_age_s=5.0), replace(second, process_age_s=8.0)]
    found = spent(tried, last("finished", 180.0, 310, end=310, kept_s=180.0))
    assert (found.wall_s, found.starting_s, found.stopped_s) == (310, 10 + 18, 82)


@pytest.mark.parametrize("skew_s", [-1e4, -300, -20, 20, 300, 1e4])
def test_the_parts_add_up_although_clocks_differ(skew_s):
    """Another node, whose clock is wrong, ran the second attempt; or a clock was set."""
    tried = [
        attempt(0),
        attempt(200 + skew_s, 80.0, ended(100.0, 110)),
        attempt(400, 150.0, ended(170.0, 300 + skew_s)),
    ]
    newest = last("finished", 200.0, 460, end=470, kept_s=200.0, overhead=0.5)
    found, on_clock = spent(tried, newest), spans(tried, newest)
    assert found.wall_s == pytest.approx(on_clock[-1].ended - on_clock[0].started)
    assert on_clock[-1].ended == T0 + 470
    parts = ("counted_s", "saving_s", "starting_s", "lost_s", "ending_s", "queue_s", "stopped_s")
    assert all(getattr(found, name) >= -1e-6 for name in parts), found
    assert 0 <= found.goodput <= 1


def test_spans_are_in_order():
    tried = [attempt(0), attempt(50, 5.0, ended(40.0, 900)), attempt(60, 5.0, ended(5.0, -7, end=2000))]
    times = [(span.started, span.seen, span.ended) for span in spans(tried, last("dead", 9.0, 66, now=70))]
    flat = list(itertools.chain.from_iterable(times))
    assert flat == sorted(flat)


def test_damaged_or_missing_records_are_unknown():
    known = last("finished", 100.0, 105, end=112)
    assert spent([], known) is None
    assert spent([Attempt("yesterday", "n", "", StartingPoint())], known) is None
    assert spent([attempt(0), attempt(10)], known) is None
    assert spent([attempt(0), attempt(10, 0.0, ExitStatus("x", "", 0, "soon", None))], known) is None
    assert spent([attempt(0)], last("finished", 0.0, 0, end=0)) is None, "no time has passed"


def test_the_words():
    tried = [attempt(0), attempt(200, 80.0, ended(100.0, 110))]
    found = spent(tried, last("finished", 180.0, 310, end=320, kept_s=180.0, overhead=0.0))
    assert time_table.headline(found) == "56 % of 5.3 min was training that counts (2 starts)"
    assert time_table.parts(found)[0] == ("training that counts", "3 min (56 %)")
    assert [name for name, _ in time_table.parts(found)][1] == "between attempts"
    assert time_table.caveats(found) == [
        "1 attempt could not record the end (killed, or the disk was gone): the last sign of life counts as the end, "
        "and what came after it as time between attempts."
    ]
