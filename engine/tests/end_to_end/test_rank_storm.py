"""A run whose ranks and writers are killed at random, with another number of ranks at each start; see rank_storm.py."""

import multiprocessing
import sys

import pytest
from tests.support import rank_storm

from cairn.writing import writer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks processes"),
]


def test_no_kill_of_any_rank_or_writer_tears_a_checkpoint_or_undoes_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_START", rank_storm.slowed(writer._START))
    monkeypatch.setattr(rank_storm, "EPOCHS", 4)
    monkeypatch.setattr(rank_storm, "LAUNCHER_S", 2.0)
    counts = rank_storm.storm(tmp_path, kills=4, processes=None, seed=5, options={})
    assert (counts["kills"], counts["moves"] > 0) == (4, True)
