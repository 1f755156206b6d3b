"""Progress of a run: the last write is read, and unreadable content counts as none."""

import pytest

from cairn.account import progress
from cairn.account.progress import Progress, ProgressFile

SOME = Progress(1, 20, 120, 60, 12.5, 1.7e9, 100)


def test_the_last_progress_is_read(tmp_path):
    file = ProgressFile(tmp_path / "progress.json")
    for item in (Progress(123456789, 10**9, 10**12, 10**12, 1e9, 1e10, 10**9), SOME):
        file.at_boundary(item)
        assert progress.read(file.path) == item
    assert file.path.stat().st_size == 256, "always as long, so that no rest of an older one is left"
    file.fit_ended()


def test_a_resumed_run_overwrites_the_same_file(tmp_path):
    for item in (SOME, Progress(0, 1, 1, 1, 0.1, 1.0)):
        file = ProgressFile(tmp_path / "progress.json")
        file.at_boundary(item)
        file.fit_ended()
        file.fit_ended()
        assert progress.read(file.path) == item


def test_a_disk_error_does_not_stop_the_run(tmp_path):
    ProgressFile(tmp_path / "there is no folder" / "progress.json").at_boundary(SOME)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"epoch": 1}', "null"])
def test_other_content_is_not_progress(tmp_path, text):
    path = tmp_path / "progress.json"
    assert progress.read(path) is None
    path.write_text(text)
    assert progress.read(path) is None
