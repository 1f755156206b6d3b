"""What is said when a checkpoint could not be written."""

import errno
import os

import pytest

from cairn import units
from cairn.store import disk


def why(path, code, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 12_300_000)
    return units.why_not_written(path, OSError(code, os.strerror(code)), 420_000_000)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_where_space_is_the_cause_it_says_how_much_was_needed_and_is_there(tmp_path, code, monkeypatch):
    sentence = why(tmp_path / "a.ckpt", code, monkeypatch)
    assert f"{tmp_path}/a.ckpt could not be written: {os.strerror(code)}" in sentence
    assert "(it needs about 420 MB, and 12.3 MB are free there)." in sentence


def test_a_directory_that_has_vanished_is_told(tmp_path, monkeypatch):
    sentence = why(tmp_path / "gone" / "a.ckpt", errno.ENOENT, monkeypatch)
    assert f"{tmp_path}/gone is gone and cannot be made again" in sentence


def test_any_other_cause_is_told_as_the_system_tells_it(tmp_path, monkeypatch):
    assert why(tmp_path / "a.ckpt", errno.EACCES, monkeypatch).endswith("could not be written: Permission denied.")


@pytest.mark.parametrize(("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (4e12, "4 TB")])
def test_size(num_bytes, text):
    assert units.size(num_bytes) == text
