"""The message for a checkpoint that could not be written names the cause and the way out."""

import errno
import os

import pytest

from cairn.store import disk
from cairn.store.write_error import why_not_written


def why(path, code, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 12_300_000)
    return why_not_written(path, OSError(code, os.strerror(code)), 420_000_000)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_needed_and_the_free_space(tmp_path, code, monkeypatch):
    sentence = why(tmp_path / "a.ckpt", code, monkeypatch)
    assert f"{tmp_path}/a.ckpt could not be written: {os.strerror(code)}" in sentence
    assert "(it needs about 420 MB, and 12.3 MB are free there)." in sentence


def test_a_directory_that_has_vanished_is_named(tmp_path, monkeypatch):
    sentence = why(tmp_path / "gone" / "a.ckpt", errno.ENOENT, monkeypatch)
    assert f"{tmp_path}/gone is gone and cannot be made again" in sentence


def test_any_other_cause_is_quoted_from_the_system(tmp_path, monkeypatch):
    assert why(tmp_path / "a.ckpt", errno.EACCES, monkeypatch).endswith("could not be written: Permission denied.")
