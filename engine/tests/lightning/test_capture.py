"""Which processes can restore a checkpoint."""

import pytest

from cairn.errors import ResumeError
from cairn.lightning import capture
from cairn.lightning.saved import unsaved


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_the_same_number_of_processes_can_restore(num_ranks):
    capture.check({"format": unsaved.FORMAT, "ranks": [{}] * num_ranks}, num_ranks)


@pytest.mark.parametrize(("saved", "here"), [(1, 2), (2, 1), (4, 0)])
def test_a_different_number_of_processes_is_refused_with_both_numbers_and_a_solution(saved, here):
    message = rf"saved by {saved} processes, but this run has {here}\. .*devices or num_nodes.*weights alone"
    with pytest.raises(ResumeError, match=message):
        capture.check({"format": unsaved.FORMAT, "ranks": [{}] * saved}, here)


def test_a_later_format_is_refused_with_both_numbers():
    message = rf"format {unsaved.FORMAT + 1}, but this version of Cairn reads formats up to {unsaved.FORMAT}"
    with pytest.raises(ResumeError, match=message):
        capture.check({"format": unsaved.FORMAT + 1, "ranks": [{}]}, 1)
