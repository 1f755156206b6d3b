"""Figures from made-up stamps: a batch takes 1 s and the gap after it 0.1 s, unless a save makes it longer."""

from dataclasses import asdict

import pytest
from benchmarks import figures
from benchmarks.job import Job
from hypothesis import given
from hypothesis import strategies as st

BATCH_S, GAP_S = 1.0, 0.1


def run(name="x", stall_s=0.0, number=0, finished=(4, 8, 12, 26), error="", write_s=2.0, slow_s=0.0, **more):
    """A raw run whose window, from batch 8 to 26, is one block with two saves, and one without.

    Another save is after batch 4, and an idle one after 26. The 17th and the 26th batch come after the blocks.

    Args:
        name: Name of the contender.
        stall_s: Additional length of the gap after a save.
        number: Number of the round.
        finished: Batches after which a save is made.
        error: Error of the run; empty if it has finished.
        write_s: Time that a save takes in the background.
        slow_s: Additional time of a batch while a save is written.
        **more: Further entries of the raw run.
    """
    first, interval, saves = 8, 4, 2
    job = Job(name, "0.5", interval, saves, first, Job.end(first, interval, saves, pairs=1), 1, "cpu", "", 1.0)
    began, ended, at, until = [], [], 100.0, 0.0
    for batch in range(1, job.max_batches + 1):
        began.append(at)
        at += BATCH_S + (slow_s if at < until else 0.0)
        ended.append(at)
        until = at + write_s if batch in finished else until
        at += GAP_S + (stall_s if batch in finished else 0.0)
    tree = {"at": 0.0, "cpu_s": 1.0, "busy_s": 5.0, "written_bytes": 0, "drain_s": 0.0}
    drained = {"at": 10.0, "cpu_s": 13.0, "busy_s": 22.0, "written_bytes": 140, "drain_s": 0.5}
    began_quiet = {"at": 11.0, "cpu_s": 14.0, "busy_s": 24.0, "written_bytes": 140, "drain_s": 0.0}
    closed = {"at": 20.0, "cpu_s": 22.0, "busy_s": 40.0, "written_bytes": 140, "drain_s": 0.0}
    seen = {
        "began": began,
        "ended": ended,
        "finished": {str(batch): ended[batch - 1] + write_s for batch in finished},
        "details": {str(batch): {"num_bytes": 70, "wait_s": 0.25} for batch in finished},
        "engine": more.pop("engine", {}),
        "marks": {"8": tree, "16": drained, "17": began_quiet, "25": closed},
        "idle_began": ended[job.last_batch - 1],
    }
    setting = {"size": "0.5", "threads": 1, "factor": 5.0, "interval": interval, "saves": saves, "batch_s": 1.1}
    raw = {"part": "time", "round": number, "job": asdict(job), "setting": setting, "peak_bytes": 0, "error": error}
    return raw | {"seen": None if error else seen} | more


def row_of(name, runs):
    (comparison,) = figures.comparisons({"runs": runs})
    return next(row for row in comparison.rows if row.contender == name)


def test_a_stall_is_the_additional_length_of_a_gap():
    seen = run(stall_s=0.5)
    found = figures.of_run(seen["job"], seen["seen"])
    assert found.batches == (8, 12)
    assert found.stalls_s == pytest.approx((0.5, 0.5))
    assert found.steps_s == pytest.approx((0.5, 0.5))
    assert found.durable_s == pytest.approx((2.0, 2.0))
    assert found.idle_s == pytest.approx(2.0)
    assert found.first_stall_s == pytest.approx(0.5)
    assert found.batch_s == pytest.approx(BATCH_S + GAP_S)


def test_a_block_with_saves_is_compared_with_the_one_after_it():
    seen = run(stall_s=0.5, slow_s=0.25)
    (pair,) = figures.of_run(seen["job"], seen["seen"]).pairs
    assert (pair.num_saves, pair.written_bytes, pair.drain_s) == (2, 140, 0.5)
    assert pair.quiet_s == pytest.approx(8 * (BATCH_S + GAP_S))
    assert pair.busy_s == pytest.approx(8 * (BATCH_S + GAP_S) + 2 * (0.5 + 2 * 0.25))
    assert pair.cpu_s == pytest.approx(12 - 8)
    assert pair.others == pytest.approx((17 - 12) / 10)


def test_a_save_that_was_due_and_not_made_is_skipped_and_not_a_stall():
    seen = run(stall_s=0.5, finished=(4, 8, 26))
    found = figures.of_run(seen["job"], seen["seen"])
    assert (found.batches, found.num_skipped) == ((8,), 1)
    assert found.stalls_s == pytest.approx((0.5,))


def test_the_lost_time_is_the_middle_of_all_pairs():
    none = [run("none", number=number, finished=()) for number in range(3)]
    mine = [run("cairn-process", stall, number) for number, stall in enumerate((0.2, 0.4, 0.9))]
    row = row_of("cairn-process", [*none, *mine])
    assert row.lost_s == pytest.approx(0.475)  # of 0.2, 0.3, 0.4, 0.55, 0.65, 0.9
    assert row.lost_sure_s == pytest.approx((0.2, 0.9))
    assert row_of("none", [*none, *mine]).lost_s is None
    assert row.stall_worst_s == pytest.approx(0.9)
    assert row.stall_worst_apart_s == pytest.approx(0.9 - 0.25)
    shares = [stall * 2 / (8.8 + stall * 2) for stall in (0.2, 0.4, 0.9)]
    assert row.throughput_lost == pytest.approx((shares[1] + (shares[0] + shares[2]) / 2) / 2)
    assert row.cpu_s == pytest.approx(2.0)
    assert (row.num_saves, row.file_bytes, row.written_bytes) == (6, 70, 70)


def test_a_contender_that_fails_has_a_row_that_says_why():
    row = row_of("async-save", [run("none", finished=()), run("async-save", error="no group")])
    assert (row.error, row.lost_s) == ("no group", None)


def test_memory_is_compared_with_the_same_command_without_checkpoints():
    timed = [run("none", finished=()), run("cairn-thread", 0.1)]
    memory = [run(name, part="memory", peak_bytes=peak) for name, peak in (("cairn-none", 100), ("cairn-thread", 250))]
    assert row_of("cairn-thread", [*timed, *memory]).extra_peak_bytes == 150


def test_another_writer_than_requested_is_reported():
    runs = [run("none", finished=()), run("cairn-process", 0.1, engine={"writer": "InlineWriter"})]
    assert row_of("cairn-process", runs).is_another
    assert not row_of(
        "cairn-sync", [run("none", finished=()), run("cairn-sync", engine={"writer": "InlineWriter"})]
    ).is_another


@pytest.mark.parametrize(
    ("count", "outside"),
    [(1, 0), (5, 0), (6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (12, 13), (15, 25), (20, 52), (25, 89)],
)
def test_the_interval_is_that_of_published_tables_of_signed_ranks(count, outside):
    values = [3.0**number for number in range(count)]
    means = sorted((one + other) / 2 for number, one in enumerate(values) for other in values[number:])
    assert figures.sure(values[::-1]) == (means[outside], means[-1 - outside])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_the_middle_lies_within_its_interval(values):
    low, high = figures.sure(values)
    assert min(values) <= low <= figures.middle(values) <= high <= max(values)


def test_an_outlier_hardly_moves_the_middle():
    assert figures.middle([1.0, 1.1, 0.9, 1.0, 1.2, 100.0]) < 1.2


def test_without_values_there_is_no_interval():
    assert figures.sure([]) is None
    assert figures.middle([]) is None


def test_the_results_of_two_commands_are_two_comparisons():
    runs = [run("none", finished=()), run("cairn-process", 0.1)]
    both = [*runs, *({**item, "command": 1} for item in runs)]
    assert len(figures.comparisons({"runs": both})) == 2


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.95, None), ([3], 0.95, 3), (range(1, 101), 0.95, 95), ([1, 2, 3, 4], 0.5, 2), ([2, 1], 1.0, 2)],
)
def test_the_percentile_of_values(values, share, expected):
    assert figures.percentile(list(values), share) == expected


def test_batches_during_a_save_are_compared_with_those_after_its_commit():
    seen = run(write_s=1.2, slow_s=0.25)
    found = figures.of_run(seen["job"], seen["seen"])
    assert found.lost_s == pytest.approx((0.25, 0.25))


def test_a_save_that_has_not_ended_at_the_next_one_is_not_used():
    seen = run(stall_s=0.5, write_s=5.0)
    assert len(figures.of_run(seen["job"], seen["seen"]).lost_s) == 1  # the last one, which has more room


def _auto_run(name, number, **stalls):
    made = run(name, number=number, **stalls)
    return made | {"part": "auto", "job": made["job"] | {"interval": 0, "saves": 0}}


def test_auto_is_measured_by_its_own_batches_and_also_against_none():
    runs = [_auto_run("cairn-none", n, finished=()) for n in range(2)]
    runs += [_auto_run("cairn-auto", n, stall_s=0.2) for n in range(2)]
    (found,) = figures.autos({"runs": runs})
    window_s = 18 * 1.1
    assert found.overhead == pytest.approx(0.4 / window_s)
    assert found.against_none == pytest.approx(0.4 / window_s)
    assert (found.num_saves, found.noise) == (4, 0.0)
