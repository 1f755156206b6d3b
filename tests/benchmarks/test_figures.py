"""Figures from made-up stamps: a batch takes 1 s and the gap after it 0.1 s, unless a save makes it longer."""

import pytest
from benchmarks import figures

BATCH_S, GAP_S = 1.0, 0.1


def run(name="x", stall_s=0.0, number=0, batches=12, interval=4, finished=(4, 8, 12), error="", write_s=2.0, **more):
    """A raw run whose window is from batch 4 to 12, with saves after 4 and 8, and an idle one after 12."""
    began, ended, at = [], [], 100.0
    for batch in range(1, batches + 2):
        began.append(at)
        ended.append(at + BATCH_S)
        at = ended[-1] + GAP_S + (stall_s if batch in finished else 0.0)
    seen = {
        "began": began,
        "ended": ended,
        "finished": {str(batch): ended[batch - 1] + write_s for batch in finished},
        "details": {str(batch): {"num_bytes": 70, "wait_s": 0.25} for batch in finished},
        "engine": more.pop("engine", {}),
        "opened": {"at": 0.0, "cpu_s": 1.0, "busy_s": 5.0, "written_bytes": 0},
        "closed": {"at": 10.0, "cpu_s": 3.0, "busy_s": 12.0, "written_bytes": 140},
        "drain_s": 0.0,
        "idle_began": ended[batches - 1],
    }
    job = {
        "contender": name,
        "size": "0.5",
        "threads": 1,
        "interval": interval,
        "first_batch": 4,
        "last_batch": batches,
    }
    setting = {"size": "0.5", "threads": 1, "factor": 5.0, "interval": interval, "saves": 2, "batch_s": 1.1}
    raw = {"part": "time", "round": number, "job": job, "setting": setting, "peak_bytes": 0, "error": error}
    return raw | {"seen": None if error else seen} | more


def row_of(name, runs):
    (comparison,) = figures.comparisons({"runs": runs})
    return next(row for row in comparison.rows if row.contender == name)


def test_a_stall_is_what_the_gap_takes_more_than_usual():
    seen = run(stall_s=0.5)
    found = figures.of_run(seen["job"], seen["seen"])
    assert found.batches == (4, 8)
    assert found.stalls_s == pytest.approx((0.5, 0.5))
    assert found.steps_s == pytest.approx((0.5, 0.5))
    assert found.durable_s == pytest.approx((2.0, 2.0))
    assert found.idle_s == pytest.approx(2.0)
    assert found.cpu_s == 2.0
    assert found.others == pytest.approx(0.5)


def test_a_save_before_the_window_is_told_apart():
    seen = run(stall_s=0.5)
    seen["job"]["first_batch"] = 8
    found = figures.of_run(seen["job"], seen["seen"])
    assert (found.batches, found.first_stall_s) == ((8,), pytest.approx(0.5))


def test_a_save_that_was_due_and_not_made_is_skipped_and_no_stall():
    seen = run(stall_s=0.5, finished=(4, 12))
    found = figures.of_run(seen["job"], seen["seen"])
    assert (found.batches, found.num_skipped) == ((4,), 1)
    assert found.stalls_s == pytest.approx((0.5,))


def test_what_is_lost_is_the_median_of_the_rounds_against_none_of_the_same_round():
    none = [run("none", number=number, finished=()) for number in range(3)]
    mine = [run("cairn-process", stall, number) for number, stall in enumerate((0.2, 0.4, 0.9))]
    row = row_of("cairn-process", [*none, *mine])
    assert row.lost_s == pytest.approx(0.4)
    assert row.lost_range_s == pytest.approx((0.2, 0.9))
    assert row.stall_worst_s == pytest.approx(0.9)
    assert row.stall_worst_apart_s == pytest.approx(0.9 - 0.25)
    assert row.throughput_lost == pytest.approx(0.8 / (8.8 + 0.8))
    assert (row.num_saves, row.file_bytes, row.written_bytes) == (6, 70, 70)


def test_a_contender_that_fails_has_a_row_that_says_why():
    row = row_of("async-save", [run("none", finished=()), run("async-save", error="no group")])
    assert (row.error, row.lost_s) == ("no group", None)


def test_memory_is_compared_with_the_same_command_without_checkpoints():
    timed = [run("none", finished=()), run("cairn-thread", 0.1)]
    memory = [run(name, part="memory", peak_bytes=peak) for name, peak in (("cairn-none", 100), ("cairn-thread", 250))]
    assert row_of("cairn-thread", [*timed, *memory]).extra_peak_bytes == 150


def test_a_machine_without_the_writer_is_seen():
    runs = [run("none", finished=()), run("cairn-process", 0.1, engine={"writer": "WriterHere"})]
    assert row_of("cairn-process", runs).is_another
    assert not row_of(
        "cairn-sync", [run("none", finished=()), run("cairn-sync", engine={"writer": "WriterHere"})]
    ).is_another


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.95, None), ([3], 0.95, 3), (range(1, 101), 0.95, 95), ([1, 2, 3, 4], 0.5, 2), ([2, 1], 1.0, 2)],
)
def test_percentile(values, share, expected):
    assert figures.percentile(list(values), share) == expected


def test_what_is_lost_within_a_run_is_what_batches_take_more_until_the_save_is_over():
    seen = run(stall_s=0.5, write_s=1.2)
    for batch in (4, 8):  # the one after the save is slower, too
        for later in range(batch, 13):
            seen["seen"]["ended"][later] += 0.25
            seen["seen"]["began"][later] += 0.25 * (later > batch)
    found = figures.of_run(seen["job"], seen["seen"])
    assert found.lost_within_s == pytest.approx((0.75, 0.75))


def test_a_save_that_takes_more_than_half_of_its_interval_shows_nothing_within_its_run():
    seen = run(stall_s=0.5, write_s=3.0)
    assert figures.of_run(seen["job"], seen["seen"]).lost_within_s == ()
