"""A run continues after a failed save, up to a limit, and not if it was the last save."""

import pytest

from cairn.account.failures import SaveFailures
from cairn.errors import ConfigError


def test_a_failed_save_is_logged_and_the_run_continues(caplog):
    assert SaveFailures(3).add("No space.", final=False) == ""
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("No space. Failed save 1 of 3 in a row (max_failed_saves=3): ")


@pytest.mark.parametrize("most", [1, 2, 3])
def test_max_failed_saves_in_a_row_stop_the_run(most):
    failures = SaveFailures(most)
    sentences = [failures.add("No space.", final=False) for _ in range(most)]
    assert [bool(sentence) for sentence in sentences] == [False] * (most - 1) + [True]
    assert f"Failed save {most} of {most} in a row" in sentences[-1]


def test_a_successful_save_resets_the_count():
    failures = SaveFailures(2)
    for _ in range(5):
        assert failures.add("No space.", final=False) == ""
        failures.reset()
    assert failures.total == 5


def test_minus_1_never_stops_the_run(caplog):
    failures = SaveFailures(-1)
    assert all(failures.add("No space.", final=False) == "" for _ in range(9))
    assert "Failed save 9 in a row" in caplog.text


def test_a_failed_last_save_stops_the_run():
    assert "This was the last save of the run" in SaveFailures(-1).add("No space.", final=True)


@pytest.mark.parametrize("most", [0, -2, 1.5, "3", None, True])
def test_an_invalid_max_failed_saves_is_refused(most):
    with pytest.raises(ConfigError, match=r"max_failed_saves=.* must be an integer from 1, or -1 to never stop"):
        SaveFailures(most)
