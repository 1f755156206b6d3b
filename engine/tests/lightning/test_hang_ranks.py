"""A rank that hangs knows which others hang with it, and whether it has to end the run."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment

from cairn.lightning import hang_ranks
from cairn.lightning.hang_ranks import RanksAtHang
from cairn.store import hang_reports
from cairn.types import Position

WHERE = Position(0, 5, 5)


def rank_of(directory, rank, num_ranks=3, environment=None, pids=()):
    launcher = SimpleNamespace(procs=[SimpleNamespace(pid=pid) for pid in pids])
    strategy = SimpleNamespace(cluster_environment=environment or LightningEnvironment(), launcher=launcher)
    facts = {"global_rank": rank, "local_rank": rank, "world_size": num_ranks, "strategy": strategy}
    return RanksAtHang(SimpleNamespace(**facts), directory)


def test_rank_0_ends_the_run_without_waiting(tmp_path):
    assert rank_of(tmp_path, 0).ends_the_run(600.0)


@pytest.mark.parametrize(("reporting", "ends"), [([0, 1], 0), ([1, 2], 1), ([2], 2), ([], 0)])
def test_the_first_rank_that_is_left_ends_it(tmp_path, reporting, ends):
    ranks = [rank_of(tmp_path, rank) for rank in range(3)]
    for rank in reporting:
        ranks[rank].report(WHERE)
    found = [rank for rank in {0, *reporting} if ranks[rank].ends_the_run(0.0)]
    assert min(set(found) & {ends}) == ends
    assert [rank for rank in found if rank] == [ends] * (ends > 0)


def test_a_report_says_where_the_main_thread_is(tmp_path):
    ranks = rank_of(tmp_path, 1, 2)
    ranks.report(WHERE)
    text = ranks.words(0.0)
    assert text.startswith("Rank 0 does not answer.")
    assert "after epoch 0, batch 5, in " in text


def test_what_an_attempt_before_has_said_does_not_count(tmp_path):
    rank_of(tmp_path, 1).report(WHERE)
    rank_of(tmp_path, 1)
    assert hang_reports.wait(tmp_path, 3, 0) == {}


def test_a_single_process_and_a_run_without_checkpoints_report_nothing(tmp_path):
    for ranks in (rank_of(tmp_path, 0, 1), rank_of(None, 0, 2)):
        ranks.report(WHERE)
        assert ranks.words(600.0) == ""
        assert ranks.ends_the_run(600.0)
    assert not rank_of(None, 1, 2).ends_the_run(600.0)
    assert list(tmp_path.iterdir()) == []


def test_only_a_process_that_lightning_has_started_follows_the_main_one(tmp_path, monkeypatch):
    assert rank_of(tmp_path, 1).follows()
    assert not rank_of(tmp_path, 0).follows()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert not rank_of(tmp_path, 1, environment=SLURMEnvironment(auto_requeue=False)).follows()
    ranks = rank_of(tmp_path, 1)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not ranks.follows(), "the main process has ended"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_a_main_process_that_is_stopped_is_noticed(tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as main:
        try:
            monkeypatch.setattr(os, "getppid", lambda: main.pid)
            ranks = rank_of(tmp_path, 1)
            assert not ranks.main_is_stopped()
            main.send_signal(signal.SIGSTOP)
            while not ranks.main_is_stopped():
                time.sleep(0.001)
        finally:
            main.kill()


def test_a_rank_whose_limit_is_longer_answers_all_the_same(tmp_path):
    ranks = [rank_of(tmp_path, rank) for rank in range(3)]
    for own in ranks[:2]:
        own.attempt = "a1"
    ranks[2].attempt = "b2"  # of another attempt
    assert not ranks[0].is_called()
    ranks[1].report(WHERE)
    assert [own.is_called() for own in ranks] == [True, True, False]
    assert not rank_of(tmp_path, 0).is_called(), "training has not begun"


def test_a_disk_that_hangs_does_not_hold_up_a_look(tmp_path, monkeypatch):
    goes_on = threading.Event()
    monkeypatch.setattr(hang_ranks, "_CALL_S", 0.01)
    monkeypatch.setattr(hang_reports, "is_called", lambda *_: goes_on.wait(600))
    own = rank_of(tmp_path, 0)
    own.attempt = "a1"
    try:
        assert [own.is_called(), own.is_called()] == [False, False]
        asking = own._asking
    finally:
        goes_on.set()
    asking.join(600)
    assert own.is_called()


def test_a_hang_is_noted_by_one_process_of_an_attempt(tmp_path):
    """Rank 0 may answer after another one has found that it does not."""
    ranks = [rank_of(tmp_path, rank, 2) for rank in range(2)]
    for own in ranks:
        own.attempt = "a1"
    ranks[1].report(WHERE)
    assert [ranks[1].ends_the_run(0.0), ranks[0].ends_the_run(0.0)] == [True, False]
    alone = rank_of(tmp_path, 0, 1)
    alone.attempt = "b2"
    assert [alone.ends_the_run(0.0), alone.ends_the_run(0.0)] == [True, False], "its sentinel was faster"
