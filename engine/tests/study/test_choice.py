"""The cost of a save, the failure rate and the interval that follows; figures that cannot carry this are marked."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.made_runs import BATCH_S, SAVE_S, STALL_S, WRITE_S, end, run_directory

from cairn.policy import auto
from cairn.study import choice, reading
from cairn.study.choice import FEWEST_SAVES, SHORTEST_S, USUAL_MTBF_S, advise, expected_loss
from cairn.types import SaveCost

COST = SaveCost(batch_s=0.1, stall_s=0.05, slowdown_s=0.15, write_s=1.0, num_saves=10)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sweep"


def study(folder, mtbf_s=None):
    return choice.study(reading.read(folder), mtbf_s)


# What a save costs


def test_the_cost_is_the_mean_over_all_saves_of_all_runs(folder):
    for interval in (100, 200, 50):
        run_directory(folder, interval)
    cost = study(folder).cost
    assert cost.num_saves == 10 + 5 + 20
    assert cost.save_s == pytest.approx(SAVE_S)
    assert (cost.stall_s, cost.write_s) == (pytest.approx(STALL_S), WRITE_S)
    assert cost.batch_s == pytest.approx(BATCH_S, rel=0.01)


@pytest.mark.parametrize(
    ("interval", "batches", "why"),
    [
        (100, 1000, None),
        (400, 1000, "few saves"),
        (2, 10, "too short"),
        (2000, 1000, "no saves"),
    ],
)
def test_a_run_with_few_saves_or_little_training_is_in_doubt(folder, interval, batches, why):
    run = run_directory(folder, interval, batches)
    (found,) = study(folder).doubts
    assert found == why, run


def test_a_run_without_a_record_of_its_costs_gives_no_advice(folder):
    run = run_directory(folder, 100)
    path = run / "csv" / "checkpoints.csv"
    path.write_text("".join(line.rsplit(",", 2)[0] + "\n" for line in path.read_text().splitlines()))  # no overhead
    assert study(folder).doubts == ("unknown",)
    assert study(folder).cost is None
    assert study(folder).advice == ()


def test_runs_in_doubt_do_not_count_if_others_are_not(folder):
    run_directory(folder, 100)
    run_directory(folder, 400)
    found = study(folder)
    assert (found.cost.num_saves, found.is_rough) == (10, False)


def test_a_cost_from_runs_in_doubt_is_marked_as_rough(folder):
    run_directory(folder, 400)
    found = study(folder)
    assert (found.cost.num_saves, found.is_rough) == (2, True)
    assert found.advice


def test_runs_that_disagree_have_a_large_spread(folder):
    run_directory(folder, 100)
    other = run_directory(folder, 50)
    assert study(folder).spread == pytest.approx(1.0)
    path = other / "csv" / "checkpoints.csv"
    header, *rows = path.read_text().splitlines()
    dear = [",".join([*row.split(",")[:-2], str(3 * float(row.split(",")[-2])), "0"]) for row in rows]
    path.write_text("\n".join([header, *dear]) + "\n")
    assert study(folder).spread > 2


# How often runs fail


ENDS = [
    end(370, 300, 100),
    end(500, 500, 100, "stopped", "SIGTERM"),
    end(650, 600, 100, "failed", "OSError"),
    end(700, 700, 100, "stopped", "SIGINT"),
]


def test_only_ends_without_notice_are_failures(folder):
    run_directory(folder, 100, ends=ENDS)
    run_directory(folder, 200)
    found = study(folder).failures
    assert (len(found.unannounced), len(found.announced), found.num_unrecorded) == (2, 1, 0)
    runs = reading.read(folder).runs
    assert found.trained_s == pytest.approx(sum(run.elapsed_s + run.lost_s for run in runs))
    assert found.mtbf_s == pytest.approx(found.trained_s / 2)
    assert found.mtbf_error == pytest.approx(1 / math.sqrt(2))


def test_a_run_without_a_record_of_attempts_does_not_count(folder):
    run_directory(folder, 100, ends=ENDS)
    (run_directory(folder, 200) / "starts.jsonl").unlink()
    found = study(folder).failures
    assert found.num_unrecorded == 1
    (first, _) = reading.read(folder).runs
    assert found.trained_s == pytest.approx(first.trained_s)


def test_a_given_time_between_failures_beats_the_measured_one(folder):
    run_directory(folder, 100, ends=ENDS)
    assert study(folder).mtbf_s == study(folder).failures.mtbf_s
    assert study(folder, 3600.0).mtbf_s == 3600.0
    assert [item.mtbf_s for item in study(folder, 3600.0).advice] == [3600.0]


def test_without_failures_there_is_an_interval_for_each_typical_time(folder):
    run_directory(folder, 100)
    assert tuple(item.mtbf_s for item in study(folder).advice) == USUAL_MTBF_S


# The interval


def test_the_interval_is_dalys(folder):
    found = advise(COST, 8 * 3600.0)
    assert found.young_s == pytest.approx(math.sqrt(2 * 0.2 * 8 * 3600))
    assert found.daly_s == auto.daly_s(0.2, 8 * 3600.0)
    assert (found.why, found.interval_batches) == ("failures", 1100)
    assert found.interval_s == pytest.approx(110.0)
    assert found.loss == pytest.approx(0.2 / 110 + 110 / (2 * 8 * 3600))


@pytest.mark.parametrize(
    ("facts", "mtbf_s", "why", "batches"),
    [
        ({"write_s": 100.0}, 3600.0, "overlap", 2000),
        ({"batch_s": 500.0}, 3600.0, "batch", 1),
        ({}, 3600.0, "failures", 380),
    ],
)
def test_a_slow_write_or_a_long_batch_bounds_the_interval(facts, mtbf_s, why, batches):
    found = advise(replace(COST, **facts), mtbf_s)
    assert (found.why, found.interval_batches) == (why, batches)


TIMES = st.floats(1e-3, 1e3)


@given(TIMES, st.floats(10.0, 1e7), st.floats(1e-2, 1e2))
def test_no_other_interval_loses_clearly_less(save_s, factor, other):
    """Young's interval minimizes d / t + t / 2M; Daly's, rounded to two digits, is close to it while d is small."""
    mtbf_s = save_s * factor * 100
    cost = SaveCost(batch_s=save_s / 1000, stall_s=save_s, slowdown_s=0.0, write_s=0.0, num_saves=9)
    found = advise(cost, mtbf_s)
    assert found.why == "failures"
    assert found.loss <= 1.01 * expected_loss(save_s, mtbf_s, found.interval_s * other)
    assert found.interval_s == pytest.approx(found.daly_s, rel=0.051)


def test_the_limits_are_plausible():
    assert FEWEST_SAVES > 1
    assert SHORTEST_S > 0
