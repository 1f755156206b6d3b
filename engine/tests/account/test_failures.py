"""A run goes on after a save that failed, but not for ever, and not if it was the last one."""

import pytest

from cairn.account.failures import SaveFailures


def test_a_failure_is_told_at_once_and_the_run_goes_on(caplog):
    assert SaveFailures(3).add("No space.", final=False) == ""
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("No space. Failed save 1 of 3 in a row (checkpoint.max_failed_saves=3): ")


@pytest.mark.parametrize("most", [1, 2, 3])
def test_so_many_in_a_row_stop_the_run(most):
    failures = SaveFailures(most)
    sentences = [failures.add("No space.", final=False) for _ in range(most)]
    assert [bool(sentence) for sentence in sentences] == [False] * (most - 1) + [True]
    assert f"Failed save {most} of {most} in a row" in sentences[-1]


def test_one_that_goes_well_makes_good_for_them():
    failures = SaveFailures(2)
    for _ in range(5):
        assert failures.add("No space.", final=False) == ""
        failures.reset()
    assert failures.total == 5


def test_a_run_may_go_on_whatever_happens(caplog):
    failures = SaveFailures(-1)
    assert all(failures.add("No space.", final=False) == "" for _ in range(9))
    assert "Failed save 9 in a row" in caplog.text


def test_the_last_save_of_a_run_may_not_fail():
    assert "It was the last save before the end" in SaveFailures(-1).add("No space.", final=True)
