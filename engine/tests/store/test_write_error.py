"""The message for a checkpoint that could not be written names the cause and the way out."""

import errno
import os

import pytest

from cairn.store import disk
from cairn.store.write_error import why_not_written


def why(path, code, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 12_300_000)
    return why_not_written(path, OSError(code, os.strerror(code)), 420_000_000)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_needed_and_the_free_space(tmp_path, code, monkeypatch):
    sentence = why(tmp_path / "a.ckpt", code, monkeypatch)
    assert f"{tmp_path}/a.ckpt could not be written: {os.strerror(code)}" in sentence
    assert "(it needs about 420 MB, and 12.3 MB are free there)." in sentence


@pytest.mark.parametrize(
    ("limit_bytes", "cause"),
    [(1_000_000, "ulimit -f allows files of 1 MB"), (None, "the file system allows no file of that size")],
)
def test_a_file_that_is_too_large_is_not_blamed_on_a_full_disk(tmp_path, limit_bytes, cause, monkeypatch):
    monkeypatch.setattr(disk, "max_file_bytes", lambda: limit_bytes)
    sentence = why(tmp_path / "a.ckpt", errno.EFBIG, monkeypatch)
    assert sentence.endswith(f"could not be written: File too large (it needs about 420 MB; {cause}).")


def test_any_other_cause_is_quoted_from_the_system(tmp_path, monkeypatch):
    assert why(tmp_path / "a.ckpt", errno.EACCES, monkeypatch).endswith("could not be written: Permission denied.")
