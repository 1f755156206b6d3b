"""A run that is killed at random and loses its disk, with nothing but its mirror left; see mirror_storm.py."""

import multiprocessing
import sys

import pytest
from tests.support import mirror_storm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="forks processes"),
]


def test_a_run_that_is_killed_and_loses_its_disk_ends_as_an_undisturbed_one(store_server, tmp_path, monkeypatch):
    monkeypatch.setattr(mirror_storm, "EPOCHS", 2)
    monkeypatch.setattr(mirror_storm, "SERVER_KILLED", 0)  # its restarts take too long for every day
    counts = mirror_storm.storm(tmp_path, store_server, rounds=3, seed=3)
    assert (counts["rounds"], counts["disks lost"] > 0) == (3, True)
