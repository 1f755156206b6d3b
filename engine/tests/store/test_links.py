"""`last.ckpt` and `best.ckpt` work where a file system has no symbolic links."""

import errno
import os

import pytest
import torch
from tests.support.values import commit, save

from cairn.errors import CheckpointError
from cairn.policy.keep import Latest
from cairn.store import audit, links, names, resume
from cairn.store.beginning import beginning
from cairn.store.catalog import Catalog
from cairn.store.history import History
from cairn.writing.load import load

FIRST, SECOND, THIRD = (f"epoch_000_batch_00000{number}.ckpt" for number in (1, 2, 3))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "checkpoints"
    path.mkdir()
    return path


@pytest.fixture(params=[errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, None], ids=str)
def _no_links(request, monkeypatch):
    def refuse(*args, **options):
        raise OSError(request.param, "refused") if request.param else OSError("refused")

    monkeypatch.setattr(os, "symlink", refuse)


@pytest.mark.usefixtures("_no_links")
def test_a_run_keeps_deletes_and_resumes_as_with_links(folder):
    own = History(folder, [Latest(1)], "min")
    for number in range(3):
        assert save(own, number, score=-number, run="run").cleanup_error == ""
    assert sorted(path.name for path in folder.glob("*.ckpt")) == ["best.ckpt", THIRD, "last.ckpt"]
    assert not (folder / names.LAST).is_symlink()
    catalog = Catalog(folder)
    assert (catalog.linked(names.LAST), catalog.linked(names.BEST)) == (THIRD, THIRD)
    assert catalog.leftovers() == []
    point = resume.find_resume_point(folder)
    assert point.path == folder / THIRD
    again = History(folder, [Latest(1)], "min")
    again.take_over("run", point)
    again.tidy()
    assert again.saved == own.saved


@pytest.mark.usefixtures("_no_links")
def test_the_file_stands_for_its_checkpoint_in_every_command(folder):
    item = commit(folder, run="run")
    links.move(folder / names.LAST, FIRST)
    assert links.target(folder / names.LAST) == folder.resolve() / FIRST
    assert load(folder / names.LAST)["number"] == 0
    assert audit.check_file(folder / names.LAST).path.name == FIRST
    assert [finding.state for finding in audit.check_directory(folder)] == ["whole", "whole"]
    assert beginning(folder, folder / names.LAST, None, None).point.saved == item


@pytest.mark.usefixtures("_no_links")
def test_a_start_says_that_there_are_no_links(folder):
    assert not links.are_possible(folder)
    assert list(folder.iterdir()) == []


def test_links_are_made_where_they_are_possible(folder):
    assert links.are_possible(folder)
    assert list(folder.iterdir()) == []
    commit(folder)
    links.move(folder / names.LAST, FIRST)
    assert (folder / names.LAST).readlink().name == FIRST


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_in_trouble_is_not_a_file_system_without_links(folder, code, monkeypatch):
    own = History(folder, [Latest(1)], None)
    save(own, 0)

    def refuse(*args, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "symlink", refuse)
    assert os.strerror(code) in save(own, 1).cleanup_error
    assert (folder / names.LAST).readlink().name == FIRST


def test_a_link_that_was_copied_to_a_disk_with_links_becomes_one_again(folder):
    commit(folder)
    (folder / names.LAST).write_text(f"Cairn link to {FIRST}\n")
    own = History(folder, [Latest(1)], None)
    save(own, 1)
    assert (folder / names.LAST).readlink().name == SECOND


@pytest.mark.parametrize(
    "text", ["Cairn link to ../../etc/passwd\n", "Cairn link to last.ckpt\n", "Cairn link to", "", f"{FIRST}\n"]
)
def test_any_other_text_is_not_a_link(folder, text):
    (folder / names.LAST).write_text(text)
    assert links.named(folder / names.LAST) == ""


def test_a_fifo_is_not_opened(folder):
    os.mkfifo(folder / names.LAST)
    assert links.named(folder / names.LAST) == ""


def test_a_link_to_a_missing_checkpoint_is_named(folder):
    (folder / names.LAST).write_text(f"Cairn link to {FIRST}\n")
    with pytest.raises(CheckpointError, match=rf"last\.ckpt points to {FIRST}, which does not exist"):
        load(folder / names.LAST)
    assert [item.state for item in audit.check_directory(folder)] == ["broken"]


def test_a_link_to_a_checkpoint_that_a_program_has_made_a_file_is_used_as_a_file(folder):
    """`rsync --copy-links` makes last.ckpt a second copy of the checkpoint."""
    torch.save({"a": 1}, folder / names.LAST)
    assert links.named(folder / names.LAST) == ""
    assert links.target(folder / names.LAST) == (folder / names.LAST).resolve()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "text link", "dangling link", "nothing"])
def test_what_a_save_would_replace_is_found_before_it(folder, kind):
    last = folder / names.LAST
    made = {
        "file": lambda: last.write_bytes(b"of another program"),
        "folder": last.mkdir,
        "link": lambda: (commit(folder, 1), last.symlink_to(FIRST)),
        "text link": lambda: last.write_text(f"Cairn link to {FIRST}\n"),
        "dangling link": lambda: last.symlink_to(FIRST),
        "nothing": lambda: None,
    }
    made[kind]()
    assert links.taken(folder) == (last if kind in ("file", "folder") else None)
