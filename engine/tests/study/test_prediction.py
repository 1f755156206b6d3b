"""A measured run next to a simulation of its own failures, and predictions for other plans."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.values import saved

from cairn.run.attempts import Attempt, ExitStatus, StartingPoint
from cairn.run.goodput import Last, spans, spent
from cairn.study import goodput_words
from cairn.study.choice import study
from cairn.study.measured import Interruption, Run, Save, Sweep
from cairn.study.prediction import forecasts, replays, restarts

T0 = 1_800_000_000.0
INTERVAL_S, SAVE_S, WRITE_S, START_S, WAIT_S = 10.0, 1.0, 2.0, 5.0, 30.0
UPTIMES_S = (47.0, 100.0, 12.0, 250.0, 61.0)


def made(path="/runs/a", work_s=600.0, uptimes_s=UPTIMES_S, status="running"):
    """Return a run that was measured without noise: as the simulator draws it, but attempt by attempt."""
    tried, ends, now_s, kept_s, before = [], [], 0.0, 0.0, None
    for uptime_s in (*uptimes_s, None):
        when = datetime.fromtimestamp(T0 + now_s, UTC).isoformat(timespec="milliseconds")
        tried.append(Attempt(when, "node", "7", StartingPoint(0, kept_s, "x"), before))
        if uptime_s is None:
            break
        running_s = max(0.0, uptime_s - START_S)
        reached_s = kept_s + running_s
        num_committed = max(0, int((running_s - INTERVAL_S - WRITE_S) // (INTERVAL_S + SAVE_S)) + 1)
        resumed_s = kept_s + num_committed * (INTERVAL_S + SAVE_S)
        batches = (int(reached_s * 10), int(resumed_s * 10))
        seen = T0 + now_s + uptime_s
        before = ExitStatus(status, "SIGTERM" if status == "stopped" else "", batches[0], reached_s, seen)
        kind = {"running": "killed", "stopped": "announced"}[status]
        ends.append(Interruption(kind, "", reached_s, resumed_s, *batches))
        kept_s, now_s = resumed_s, now_s + uptime_s + WAIT_S
    num_saves = int(work_s / INTERVAL_S)
    elapsed_s = work_s + num_saves * SAVE_S
    overhead = num_saves * SAVE_S / work_s
    saves = tuple(Save(n, SAVE_S, WRITE_S, 1, overhead, 0, n * 11.0) for n in range(1, num_saves + 1))
    seen = T0 + now_s + START_S + elapsed_s - kept_s
    newest = saved(elapsed_s=elapsed_s, overhead=overhead)
    last = Last("finished", seen, seen, elapsed_s, newest, seen)
    facts = {"status": "finished", "interval": "100", "monitor": "x", "best": None, "source": "checkpoints.csv"}
    more = {"spent": spent(tried, last), "spans": tuple(spans(tried, last))}
    return Run(
        path=Path(path),
        overrides={},
        saves=saves,
        kept=(newest,),
        elapsed_s=elapsed_s,
        total_batches=6000,
        ends=tuple(ends),
        **facts,
        **more,
    )


def test_a_replay_of_the_same_failures_is_what_was_measured():
    (item,) = replays(study(Sweep(Path("/runs"), (made(),))))
    assert item.measured.num_failures == item.predicted.num_failures == len(UPTIMES_S)
    for name in ("counted_s", "starting_s", "waiting_s"):
        assert getattr(item.predicted, name) == pytest.approx(getattr(item.measured, name), rel=0.03), name
    assert item.predicted.lost_s == pytest.approx(item.measured.lost_s, rel=0.15)
    assert item.predicted.goodput == pytest.approx(item.measured.goodput, abs=0.01)
    assert 0.4 < item.measured.goodput < 0.8


def test_an_attempt_that_was_asked_to_stop_is_not_a_failure_of_the_replay():
    whole = made(uptimes_s=(27.0, 60.0), status="stopped")
    kept = [end.reached_s for end in whole.ends]
    ends = tuple(Interruption("announced", "SIGTERM", value, value, 1, 1) for value in kept)
    run = Run(**{**vars(whole), "ends": ends})
    (item,) = replays(study(Sweep(Path("/runs"), (run,))))
    assert (item.predicted.num_failures, item.predicted.lost_s) == (0, 0)
    assert item.predicted.waiting_s == item.measured.waiting_s == 2 * WAIT_S


def test_restarts_are_means_over_all_runs():
    known = restarts([made(), made(uptimes_s=())])
    assert (known.start_s, known.wait_s) == (pytest.approx(START_S), pytest.approx(WAIT_S))
    assert restarts([]).start_s == 0


def test_forecasts_cover_other_intervals_and_failure_rates():
    found = forecasts(study(Sweep(Path("/runs"), (made(),))))
    assert len({item.mtbf_s for item in found}) == 3
    assert len({item.interval_s for item in found}) >= 3
    assert all(0 < item.spent.goodput < 1 for item in found)
    rarer = [item.spent.goodput for item in found if item.interval_s == found[0].interval_s]
    assert rarer == sorted(rarer), "fewer failures, more goodput"
    assert found == forecasts(study(Sweep(Path("/runs"), (made(),)))), "the same numbers each time"


def test_an_interval_that_would_let_saves_overlap_is_not_predicted():
    run = made()
    slow = Run(**{**vars(run), "saves": tuple(Save(**{**vars(save), "write_s": 20.0}) for save in run.saves)})
    assert min(item.interval_s for item in forecasts(study(Sweep(Path("/runs"), (slow,))))) >= 20


def test_runs_without_times_or_costs_are_left_out():
    run = made()
    without = [Run(**{**vars(run), "spent": None, "spans": ()}), Run(**{**vars(run), "saves": (), "source": ""})]
    for old in without:
        assert replays(study(Sweep(Path("/runs"), (old,)))) == []
    assert forecasts(study(Sweep(Path("/runs"), (without[1],)))) == []


def test_the_table_shows_two_rows_for_each_run_and_one_sum_for_many():
    assert [row[:2] for row in goodput_words.rows(study(Sweep(Path("/runs"), (made(),))))] == [
        ["100", "measured"],
        ["", "predicted"],
    ]
    many = tuple(made(f"/runs/{number}") for number in range(goodput_words.MOST_ROWS + 1))
    rows = goodput_words.rows(study(Sweep(Path("/runs"), many)))
    assert [row[0] for row in rows] == ["all runs", ""]
    assert all(len(row) == len(goodput_words.HEADER) for row in rows)


def test_the_figures_have_units_in_their_names():
    figures = goodput_words.figures(study(Sweep(Path("/runs"), (made(),))))
    (run,) = figures["runs"]
    assert set(run["measured"]) == set(run["predicted"])
    assert set(figures["predictions"][0]) == {"interval_s", "mtbf_s", "goodput"}
    assert set(figures["restart"]) == {"start_s", "wait_s"}
