"""Each way in which a run ends is one outcome."""

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from cairn.errors import ConfigError, SaveError
from cairn.hydra.run.outcome import Outcome, describe, is_for_users, outcome_of
from cairn.lightning.loops.calls import Stopped

BROKEN = RuntimeError("DataLoader worker (pid 7) exited unexpectedly")


@pytest.mark.parametrize(
    ("error", "signal", "status", "why", "exit_code"),
    [
        (Stopped("SIGTERM", None), "SIGTERM", "stopped", "SIGTERM", 143),
        (Stopped("job_time_limit", None), None, "stopped", "job_time_limit", 75),
        (Stopped("SIGUSR2", None), None, "stopped", "SIGUSR2", 140),  # the signal has reached another rank
        (KeyboardInterrupt(), "SIGINT", "stopped", "SIGINT", 130),
        (KeyboardInterrupt(), "SIGUSR1", "stopped", "SIGUSR1", 138),
        (SystemExit(1), "SIGTERM", "stopped", "SIGTERM", 143),  # Lightning's, after a KeyboardInterrupt
        (SystemExit(3), None, "left", "", 1),
        (KeyboardInterrupt(), None, "left", "", 1),
        # SIGTERM to a whole process group ends the data workers first, before any boundary.
        (BROKEN, "SIGTERM", "stopped", "SIGTERM", 143),
        (SaveError("disk full"), None, "failed", "disk full", 1),
    ],
)
def test_an_exception_becomes_an_outcome(error, signal, status, why, exit_code):
    found = outcome_of(error, signal)
    assert (found.status, found.why, found.exit_code, found.error) == (status, why, exit_code, error)


@pytest.mark.parametrize("signal", ["SIGINT", None])
def test_a_data_worker_that_was_killed_is_one_sentence(signal):
    found = outcome_of(BROKEN, signal)
    assert (found.status, found.exit_code, is_for_users(found.error)) == ("failed", 1, True)
    assert found.why == (
        "A data worker (process 7) ended without an error. The system kills processes when memory is short: use a "
        "smaller num_workers or batch size."
    )
    assert found.error.__cause__ is BROKEN


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome("stopped", "SIGTERM"), "SIGTERM"),
        (Outcome("stopped", "job_time_limit"), "job_time_limit"),
        (Outcome("stopped", "max_time"), ""),  # as planned
        (Outcome("failed", "RuntimeError: x"), ""),
        (Outcome("finished"), ""),
    ],
)
def test_only_a_signal_or_the_limit_of_a_job_interrupts(outcome, expected):
    assert outcome.interrupted_by == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigError("seed=-1 must be 0"), "seed=-1 must be 0"),
        (MisconfigurationException("no training_step"), "no training_step"),
        (ValueError("x"), "ValueError: x"),
    ],
)
def test_an_error_for_users_is_a_sentence_and_another_one_names_its_class(error, expected):
    assert describe(error) == expected
    assert is_for_users(error) == (expected == str(error))
