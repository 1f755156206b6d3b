"""The order of a search, and that it goes on from any moment as if it had not been killed."""

import random
from dataclasses import replace

import pytest
from tests.support.searches import EPOCHS, PER_EPOCH, FakeRuns, Killed, drive, score_of, search


def parameters(number):
    draw = random.Random(number)
    return {"lr": 10 ** draw.uniform(-4, -1), "drop": draw.uniform(0, 0.5)}


def ask(state):
    """Parameters that follow from the number of the trial."""
    return parameters(len(state.trials))


ORDER = sorted(range(9), key=lambda number: score_of(parameters(number), 0))
"""The best trial comes first, at each rung."""


def by_state(state):
    found = {}
    for trial in state.trials:
        found.setdefault(trial.state, []).append(trial.number)
    return found


def without_times(state):
    return replace(
        state,
        trials=tuple(
            replace(trial, rungs=tuple(replace(item, finished_at="") for item in trial.rungs)) for trial in state.trials
        ),
    )


def test_the_best_go_on_from_where_they_stopped():
    runs = FakeRuns()
    found, _ = drive(search(), runs, ask, num_parallel=4)
    assert by_state(found) == {"finished": ORDER[:1], "stopped": sorted(ORDER[1:])}
    assert [len(trials) for _, trials in runs.launches] == [4, 4, 1, 3, 1]
    assert runs.launches[3] == ("3ep", sorted(ORDER[:3]))
    assert runs.num_batches == PER_EPOCH * (9 * 1 + 3 * 2 + 1 * 6), "no batch is trained twice"
    assert [item.batches for item in found.trials[ORDER[0]].rungs] == [5, 10, 30]
    assert [item.total_batches for item in found.trials[ORDER[0]].rungs] == [5, 15, 45]
    assert runs.cleared == set(ORDER[1:])
    assert found.state == "finished"


def test_hyperband_begins_some_trials_at_later_rungs():
    runs = FakeRuns()
    found, _ = drive(search(schedule="hyperband", num_trials=14), runs, ask, num_parallel=14)
    first = {bracket: {trial.rungs[0].rung for trial in found.of_bracket(bracket)} for bracket in range(3)}
    assert first == {0: {0}, 1: {1}, 2: {2}}
    assert all(trial.state in ("stopped", "finished") for trial in found.trials)
    assert {trial.state for trial in found.of_bracket(2)} == {"finished"}


def test_one_rung_trains_all_trials_to_their_end():
    runs = FakeRuns()
    found, _ = drive(search(sweeper="optuna", rungs=("end",)), runs, ask, num_parallel=2)
    assert by_state(found) == {"finished": list(range(9))}
    assert [len(trials) for _, trials in runs.launches] == [2, 2, 2, 2, 1]


def test_failed_trials_and_scores_that_are_not_numbers_never_go_on():
    first, second, third, fourth, fifth, *_ = ORDER
    runs = FakeRuns(fails={first: "1ep", third: "3ep"}, nan=[second])
    found, _ = drive(search(), runs, ask, num_parallel=9)
    assert runs.launches == [
        ("1ep", list(range(9))),
        ("3ep", sorted([third, fourth, fifth])),
        ("end", [fourth]),
    ]
    states = [found.trials[number].state for number in ORDER[:5]]
    assert states == ["failed", "stopped", "failed", "finished", "stopped"]
    assert found.trials[first].error == f"trial {first} is broken"
    assert found.trials[second].score is None


def test_a_search_without_any_score_ends():
    runs = FakeRuns(fails=dict.fromkeys(range(9), "1ep"))
    found, _ = drive(search(), runs, ask)
    assert by_state(found) == {"failed": list(range(9))}
    assert found.state == "finished"


def test_a_training_that_ends_early_takes_part_with_its_last_score():
    winner = ORDER[0]
    runs = FakeRuns(ends={winner: 2})
    found, _ = drive(search(), runs, ask)
    assert [(item.rung, item.total_batches, item.batches) for item in found.trials[winner].rungs][:2] == [
        (0, 5, 5),
        (1, 10, 5),
    ]
    assert found.trials[winner].state == "finished"
    assert found.trials[winner].full_batches == 10
    assert all(winner not in trials for stop, trials in runs.launches if stop == "end")


def test_sequential_launchers_get_one_trial_at_a_time():
    runs = FakeRuns()
    drive(search(), runs, ask, num_together=1)
    assert {len(trials) for _, trials in runs.launches} == {1}


@pytest.mark.parametrize("schedule", ["halving", "hyperband"])
def test_a_search_that_is_killed_at_any_moment_goes_on_as_if_it_had_not_been(schedule):
    """Runs outlive the search, as they do on disk; what it had kept last is all that it knows."""
    new = search(schedule=schedule, num_trials=10)
    more = {"num_parallel": 3, "num_together": 2}
    whole, counting = FakeRuns(fails={1: "1ep", 4: "3ep"}, nan=[2]), [0]
    whole.before = lambda: counting.__setitem__(0, counting[0] + 1)
    expected, _ = drive(new, whole, ask, **more)
    for moment in range(1, counting[0] + 1):
        runs, passed = FakeRuns(fails=whole.fails, nan=whole.nan), [0]

        def kill(passed=passed, moment=moment):
            passed[0] += 1
            if passed[0] == moment:
                raise Killed

        runs.before = kill
        with pytest.raises(Killed) as killed:
            drive(new, runs, ask, **more)
        kept = killed.value.args[0]
        runs.before = lambda: None
        found, _ = drive(kept[-1] if kept else new, runs, ask, **more)
        assert without_times(found) == without_times(expected), moment
        assert runs.num_batches == whole.num_batches, "no batch is trained twice, and none is left out"
        assert runs.cleared == whole.cleared
    assert counting[0] > 50
    assert whole.num_batches < EPOCHS * PER_EPOCH * 10
