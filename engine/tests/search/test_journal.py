"""Optuna's journal says the same as sweep.json."""

import pytest
from tests.support.searches import SPACE, FakeRuns, drive, search

from cairn.search import sampler
from cairn.search.journal import NAME, STUDY, Journal

optuna = pytest.importorskip("optuna")
storages = pytest.importorskip("optuna.storages.journal")


def trials(directory):
    storage = optuna.storages.JournalStorage(storages.JournalFileBackend(str(directory / NAME)))
    return optuna.load_study(study_name=STUDY, storage=storage).trials


@pytest.fixture(scope="module")
def states():
    """Each state of a search with a failed trial and one without a score."""
    runs = FakeRuns(fails={1: "1ep"}, nan=[2])
    found, kept = drive(search(), runs, lambda now: sampler.ask(SPACE, now), num_parallel=3)
    return [*kept, found]


def check(directory, state):
    names = {"failed": "FAIL", "stopped": "PRUNED", "finished": "COMPLETE"}
    for trial, known in zip(state.trials, trials(directory), strict=True):
        expected = "FAIL" if trial.state != "failed" and trial.score is None else names[trial.state]
        assert known.state.name == expected
        assert known.params == trial.parameters
        assert known.user_attrs["directory"] == trial.directory
        assert known.intermediate_values == {item.rung: item.score for item in trial.rungs if item.score is not None}
        assert known.value == (None if expected == "FAIL" else trial.score)


def test_a_journal_that_follows_each_event(tmp_path, states):
    journal = Journal(tmp_path, SPACE)
    for state in states:
        journal.follow(state)
    check(tmp_path, states[-1])


def test_a_journal_that_was_cut_is_made_again(tmp_path, states):
    Journal(tmp_path, SPACE).follow(states[len(states) // 2])
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-7])
    Journal(tmp_path, SPACE).follow(states[-1])
    check(tmp_path, states[-1])


def test_a_journal_that_was_behind_catches_up(tmp_path, states):
    Journal(tmp_path, SPACE).follow(states[3])
    Journal(tmp_path, SPACE).follow(states[-1])
    check(tmp_path, states[-1])


def test_a_search_goes_on_without_its_journal(tmp_path, states, caplog):
    (tmp_path / NAME).mkdir()
    Journal(tmp_path, SPACE).follow(states[-1])
    assert "The search does not need it" in caplog.text
