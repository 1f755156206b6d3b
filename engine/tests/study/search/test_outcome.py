"""The order of the trials, what happened at each rung, and what training was saved."""

import pytest
from tests.support.made_searches import record as made
from tests.support.made_searches import search_directory

from cairn.study.search import outcome, record


@pytest.fixture
def read(tmp_path):
    def of(found):
        return record.read(search_directory(tmp_path, found, curves=False))

    return of


def trial(number, *scores, state="stopped", bracket=0, first=0, full=135):
    """A trial with a score at each rung from `first` on; the stops are at 15, 45 and 135 batches."""
    stops = [0, 15, 45, 135]
    rungs = [
        {
            "rung": rung,
            "score": score,
            "epoch": stops[rung + 1] / 15,
            "batches": stops[rung + 1] - (stops[rung] if rung > first else 0),
            "total_batches": stops[rung + 1],
        }
        for rung, score in enumerate(scores, start=first)
    ]
    parameters = {"model.optimizer.lr": 0.01}
    return {
        "number": number,
        "directory": f"t{number}",
        "parameters": parameters,
        "state": state,
        "bracket": bracket,
        "rungs": rungs,
        "full_batches": full,
    }


def search(*trials, **parts):
    return {**made(), "trials": list(trials), **parts}


def numbers(trials):
    return [item.number for item in trials]


@pytest.mark.parametrize(("mode", "expected"), [("min", [3, 1, 0, 2, 5, 4, 6]), ("max", [3, 1, 2, 0, 5, 4, 6])])
def test_who_went_further_is_before_and_then_the_score_counts(read, mode, expected):
    found = read(
        search(
            trial(0, 0.3),
            trial(1, 0.2, 0.5),
            trial(2, 0.4),
            trial(3, 0.1, 0.3, 0.9, state="finished"),
            trial(4, state="running"),
            trial(5, None),
            trial(6, 0.0, 0.0, 0.0, state="failed"),
            mode=mode,
        )
    )
    assert numbers(outcome.ranked(found)) == expected


def test_the_best_has_a_score(read):
    found = read(search(trial(0, 0.3), trial(1, 0.2, 0.5, None, state="finished"), trial(2)))
    assert outcome.best(found).number == 0
    assert outcome.best(read(search(trial(0, 0.1, state="failed")))) is None


def test_each_rung_says_what_became_of_its_trials(read):
    found = read(
        search(
            trial(0, 0.3),
            trial(1, 0.2, 0.5),
            trial(2, 0.4, state="failed"),
            trial(3, 0.1, 0.3, 0.2, state="finished"),
            trial(4, 0.25, state="paused"),
            trial(5, 0.15, state="running"),
            trial(6, state="failed"),
        )
    )
    first, second, last = outcome.rungs(found)
    assert (first.num_reached, first.num_on, first.num_stopped, first.num_waiting, first.num_failed) == (6, 3, 1, 1, 1)
    assert (first.best, first.middle, first.cutoff) == (0.1, pytest.approx(0.225), 0.2)
    assert (first.batches, second.batches, last.batches) == (6 * 15, 2 * 30, 90)
    assert (second.num_on, second.num_stopped, second.cutoff) == (1, 1, 0.3)
    assert (last.num_finished, last.cutoff) == (1, None)


def test_brackets_are_apart(read):
    found = read(
        search(
            trial(0, 0.3),
            trial(1, 0.2, 0.25, state="finished"),
            trial(2, 0.1, state="finished", bracket=1, first=1),
            trial(3, 0.4, bracket=1, first=1),
            rungs=["1ep", "3ep"],
        )
    )
    assert [(item.bracket, item.rung, item.num_reached) for item in outcome.rungs(found)] == [
        (0, 0, 2),
        (0, 1, 1),
        (1, 1, 2),
    ]
    assert outcome.places(found) == {0: (2, 2), 1: (1, 1), 2: (1, 2), 3: (2, 2)}


def test_the_place_counts_who_was_better_at_the_same_stop(read):
    found = read(search(trial(0, 0.3), trial(1, 0.2, 0.1), trial(2, 0.4), trial(3, None), trial(4, 0.4)))
    assert outcome.places(found) == {0: (2, 5), 1: (1, 1), 2: (3, 5), 4: (3, 5)}


def test_what_was_saved_is_counted_in_batches(read):
    found = outcome.training(read(made(9)), {})
    assert found.trained == 9 * 15 + 3 * 30 + 90
    assert found.full == 9 * 135
    assert found.saved == pytest.approx(1 - 315 / 1215)
    assert found.restarted == 9 * 15 + 3 * 45 + 135
    assert found.full_runs == pytest.approx(315 / 135)


def test_running_and_failed_trials_count_as_far_as_they_came(read):
    found = outcome.training(
        read(search(trial(0, 0.3, state="running"), trial(1, state="failed"), trial(2, 0.4))), {0: 40, 1: 7}
    )
    assert found.trained == 40 + 7 + 15
    assert found.full == 135 + 7 + 135, "what failed would have failed in a full run as well"
    assert found.restarted == (15 + 40) + 7 + 15


def test_an_unknown_length_is_that_of_the_others_or_unknown(read):
    found = outcome.training(read(search(trial(0, 0.3), trial(1, 0.3, full=None))), {})
    assert (found.full, found.num_assumed) == (270, 1)
    found = outcome.training(read(search(trial(0, 0.3, full=None))), {})
    assert (found.full, found.saved, found.full_runs, found.num_assumed) == (None, None, None, 0)


def test_with_one_rung_nothing_is_saved(read):
    found = outcome.training(
        read(search(trial(0, 0.3, state="finished", full=15), trial(1, 0.2, state="finished", full=15), rungs=["end"])),
        {},
    )
    assert (found.trained, found.full, found.restarted) == (30, 30, 30)
