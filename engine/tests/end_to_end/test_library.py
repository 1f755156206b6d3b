"""The library in a plain Lightning project: killed or stopped anywhere, a run ends like an undisturbed one."""

import signal
from pathlib import Path

import pytest
from tests.support.command import Process
from tests.support.equality import differences, outcome
from tests.support.forks import RANKS
from tests.support.paths import ENGINE

SCRIPT = str(ENGINE / "tests" / "support" / "plain_project.py")
pytestmark = pytest.mark.slow


def train(run: Path, num_workers: int, num_processes: int, *interrupt: object, expect: int = 0) -> str:
    ranks = {RANKS: str(num_processes - 1)}
    command = [SCRIPT, str(run), str(num_workers), str(num_processes), *map(str, interrupt)]
    return Process(command, fresh=False, **ranks).end(expect)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """How a run ends that nothing interrupts, by its number of processes."""
    found = {}

    def get(num_processes):
        if num_processes not in found:
            run = tmp_path_factory.mktemp("undisturbed")
            output = train(run, 0, num_processes)
            found[num_processes] = outcome(run, []), output.splitlines()[-1]
        return found[num_processes]

    return get


@pytest.mark.parametrize(
    ("num_workers", "num_processes", "kills"),
    [(0, 1, (5, 9)), (2, 1, (12, 3)), (0, 1, (1, 20)), (0, 2, (4, 6))],
    ids=["no workers", "two workers", "before the first save, and late", "two processes"],
)
def test_a_run_that_was_killed_twice_ends_as_an_undisturbed_one(
    tmp_path, undisturbed, num_workers, num_processes, kills
):
    for batch in kills:
        train(tmp_path, num_workers, num_processes, "SIGKILL", batch, expect=-signal.SIGKILL)
    output = train(tmp_path, num_workers, num_processes)
    whole, last_line = undisturbed(num_processes)
    assert differences(whole, outcome(tmp_path, [])) == []
    assert output.splitlines()[-1] == last_line


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_saves_and_ends_the_process_with_its_exit_code(tmp_path, undisturbed, name):
    output = train(tmp_path, 0, 1, name, 7, expect=128 + signal.Signals[name])
    assert "Traceback" not in output
    stopped = outcome(tmp_path, [])
    assert stopped.kept[-1][:2] == ("epoch_000_batch_000007.ckpt", ("stop",))
    train(tmp_path, 0, 1)
    assert differences(undisturbed(1)[0], outcome(tmp_path, [])) == []


def test_a_signal_to_one_of_two_processes_stops_both(tmp_path, undisturbed):
    train(tmp_path, 0, 2, "SIGTERM", 3, expect=143)
    train(tmp_path, 0, 2)
    assert differences(undisturbed(2)[0], outcome(tmp_path, [])) == []


def test_a_run_that_is_started_again_after_its_end_changes_nothing(tmp_path):
    train(tmp_path, 0, 1)
    before = outcome(tmp_path, [])
    train(tmp_path, 0, 1)
    assert differences(before, outcome(tmp_path, [])) == []
