"""Which state of a loader belongs to the last batch that was trained on."""

import time

from cairn.data.loader import DataLoader
from cairn.lightning.loops.loaders import foreign, is_stateful, states, states_of_foreign


class Counter:
    """A loader with a state of its own."""

    def __init__(self):
        self.position = {"batch": 0}

    def state_dict(self):
        return self.position

    def load_state_dict(self, state):
        self.position = state


def test_a_loader_needs_both_methods():
    assert is_stateful(Counter())
    assert is_stateful(DataLoader([1]))
    assert not is_stateful([1])


def test_the_state_before_the_fetch_counts_for_loaders_that_are_not_ours():
    one, other, ours = Counter(), Counter(), DataLoader([1, 2])
    loaders = [one, ours, [1], other]
    before = states_of_foreign(loaders)
    one.position["batch"], other.position["batch"] = 1, 1
    assert foreign(loaders) == [one, other]
    assert states(loaders, before) == [{"batch": 0}, ours.state_dict(), {"batch": 0}]
    assert states(loaders, None) == [{"batch": 1}, ours.state_dict(), {"batch": 1}]


class Slow(Counter):
    def state_dict(self):
        time.sleep(0.002)
        return self.position


def test_a_state_that_is_copied_slowly_for_each_batch_is_logged_once(caplog):
    caplog.set_level("INFO", "cairn")
    for _ in range(2):
        assert states_of_foreign([Slow()]) == [{"batch": 0}]
    assert caplog.text.count("Slow has no length, so its state is copied for each batch") == 1
