"""Progress of a run: written by time and not by batch, in a thread; unreadable content counts as none."""

import os
import threading
from itertools import count

import pytest
from tests.support.values import at, moment

from cairn.account import progress
from cairn.account.progress import Progress, ProgressFile

HOURS = 3600.0


def boundary(total, **facts):
    return moment(at(total), **facts)


def test_the_last_boundary_is_read_after_a_fit(tmp_path):
    file = ProgressFile(tmp_path / "progress.json", every_s=HOURS)
    for total in (10**12, 7):
        file.at_boundary(boundary(total, elapsed_s=12.5, batches_per_epoch=100))
        file.fit_ended()
        found = progress.read(file.path)
        assert found is not None
        assert found == Progress(0, total, total, found.step, 12.5, found.at, 100)
        assert file.path.stat().st_size == 256, "always as long, so that no rest of an older one is left"
    file.fit_ended()
    assert not [thread for thread in threading.enumerate() if thread.name == "progress-file"]


def test_ten_thousand_boundaries_are_not_ten_thousand_writes(tmp_path, monkeypatch):
    written, write = count(), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *args: (next(written), write(*args))[1])
    file = ProgressFile(tmp_path / "progress.json", every_s=HOURS)
    for total in range(1, 10_001):
        file.at_boundary(boundary(total))
    file.fit_ended()
    assert next(written) <= 2, "the first boundary, and the last one"
    assert progress.read(file.path).total_batches == 10_000


def test_a_boundary_is_written_although_no_other_follows(tmp_path, monkeypatch):
    written, write = threading.Semaphore(0), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *args: (write(*args), written.release())[0])
    file = ProgressFile(tmp_path / "progress.json", every_s=0.001)
    for total in (1, 2, 3):
        file.at_boundary(boundary(total))
        assert written.acquire(timeout=60)
        assert progress.read(file.path).total_batches == total
    file.fit_ended()


def test_a_disk_error_does_not_stop_the_run(tmp_path):
    folder = tmp_path / "there is no folder"
    file = ProgressFile(folder / "progress.json", every_s=HOURS)
    file.at_boundary(boundary(1))
    folder.mkdir()  # the next write tries again
    file.at_boundary(boundary(2))
    file.fit_ended()
    assert progress.read(file.path).total_batches == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"epoch": 1}', "null"])
def test_other_content_is_not_progress(tmp_path, text):
    path = tmp_path / "progress.json"
    assert progress.read(path) is None
    path.write_text(text)
    assert progress.read(path) is None


def test_a_boundary_that_is_only_asked_for_is_written(tmp_path):
    file = ProgressFile(tmp_path / "progress.json", every_s=0.001)
    file.latest = lambda: boundary(7)
    file.at_boundary(boundary(1))
    file.fit_ended()
    assert progress.read(tmp_path / "progress.json").total_batches == 7
