"""A second save of the same name never costs the first one before it is committed itself, in whatever form each is."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.crash import (
    FAILURES,
    KillOnce,
    Roots,
    check,
    check_tidy,
    failing,
    folder_in,
    killing,
    last_reported,
    record,
    reporting,
    retried,
)
from tests.support.power import WITH_DIRECTORIES, Call, Killed, Tape
from tests.support.values import at, draft, file_of, flip_byte

from cairn.cli import ls
from cairn.errors import CheckpointError, ResumeError, SaveError
from cairn.policy.keep import Latest
from cairn.store import audit, claim, commit, disk, earlier, names, resume, shard, sharded_commit
from cairn.store.catalog import Catalog, verify
from cairn.store.history import History
from cairn.store.shard import ShardPlan
from cairn.writing import load

NAME = names.checkpoint_name(at(1))
FORMS = list(product(["file", "shards"], repeat=2))
"""Forms of the first and of the second save."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "CHUNK_BYTES", 400)  # so that a file takes several writes
    for name in ("SILENCE_S", "SILENCE_AFTER_END_S"):
        monkeypatch.setattr(sharded_commit, name, 0.002)
    monkeypatch.setattr(sharded_commit, "_POLL_S", 0.0005)


@functools.cache
def content(number: int, rank: int = 0) -> bytes:
    """Of the same size in each save: only the digests differ."""
    return bytes(file_of({"save": number, "rank": rank, "data": torch.full((60,), float(number))}))


def save(own: History, number: int, form: str, report: Callable[[object], None], again: bool = False) -> None:
    """Save at the first batch. With `again`, a writer that is killed is replaced, as its training process does."""
    coming = draft(0, 0.5, elapsed_s=float(number + 1), num_bytes=len(content(number)))
    own.add_pending(coming)
    plan, result = own.plan_commit(coming, {}), None
    with reporting(report, number), suppress(SaveError):
        if form == "shards":
            mine, other = (ShardPlan(own.directory, NAME, f"{number:016x}", rank, 2, "layout") for rank in range(2))
            with suppress(SaveError):
                retried(again, lambda retry: shard.write(replace(other, retry=retry), view(number, 1)))
            plan = replace(plan, shard=mine)
        result = retried(again, lambda retry: commit.write(replace(plan, retry=retry), view(number, 0)))
    own.resolve_pending(coming, plan, result)


def view(number: int, rank: int) -> memoryview:
    return memoryview(bytearray(content(number, rank)))


def run(root: Path, report: Callable[[object], None], forms: Any, first: int = 0, again: bool = False) -> None:
    """Act like a training whose saves have one name."""
    folder = folder_in(root)
    own = History(folder, [Latest(1)], "min")
    disk.make_directory(folder)
    own.take_over("toy", resume.find_resume_point(folder))
    own.tidy()
    for number, form in enumerate(forms, start=first):
        save(own, number, form, report, again)


def check_both(root: Path, reported: int) -> None:
    """Check that a start finds one of the two, and that the next save of this name leaves nothing of them."""
    check(root, reported, lambda saved: round(saved.elapsed_s) - 1)
    run(root, lambda number: None, ["file"], first=9)
    assert [round(item.elapsed_s) for item in Catalog(folder_in(root)).committed()] == [10]
    check_tidy(root)


@functools.cache
def calls_of(folder: Path, forms: Any) -> list[Call]:
    (folder / "whole").mkdir()
    calls = record(folder / "whole", lambda root, report: run(root, report, forms), WITH_DIRECTORIES)
    assert last_reported(calls) == 1
    return calls


def second_save(calls: list[Call]) -> range:
    """The calls from the commit of the first save on."""
    return range(next(n for n, call in enumerate(calls) if call.name == "report") + 1, len(calls))


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path)


@pytest.mark.parametrize("forms", FORMS)
def test_a_kill_at_any_system_call(forms: Any, roots: Roots, tmp_path: Path) -> None:
    calls = calls_of(tmp_path, forms)
    for point in second_save(calls):
        if calls[point].name == "report":
            continue
        root = roots(point)
        with Tape(root, killing(point), WITH_DIRECTORIES) as tape, pytest.raises(Killed):
            run(root, tape.report, forms)
        check_both(root, last_reported(tape.calls))


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("fault", ["a full disk", "a broken disk"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_system_call_that_fails(forms: Any, fault: str, lasting: bool, roots: Roots, tmp_path: Path) -> None:
    calls, (code, concerned) = calls_of(tmp_path, forms), FAILURES[fault]
    for point in [n for n in second_save(calls) if calls[n].name in concerned]:
        root = roots(point)
        with Tape(root, failing(point, code, concerned, lasting), WITH_DIRECTORIES) as tape:
            run(root, tape.report, forms)
        if code == errno.ENOSPC and not lasting:
            (kept,) = Catalog(folder_in(root)).committed()
            verify(folder_in(root) / NAME, kept)
        check_both(root, last_reported(tape.calls))


@pytest.mark.parametrize("forms", FORMS)
def test_a_writer_that_dies_at_any_system_call_is_replaced(forms: Any, roots: Roots, tmp_path: Path) -> None:
    calls = calls_of(tmp_path, forms)
    for point in second_save(calls):
        if calls[point].name == "report":
            continue
        root, kill = roots(point), KillOnce(point)
        with Tape(root, kill, WITH_DIRECTORIES) as tape:
            run(root, tape.report, forms, again=True)
        assert kill.has_killed
        (kept,) = Catalog(folder_in(root)).committed()
        assert round(kept.elapsed_s) == 2, calls[point]
        check_tidy(root)
        check_both(root, 1)


@pytest.mark.parametrize("forms", FORMS)
def test_a_power_cut_at_any_system_call(forms: Any, roots: Roots, tmp_path: Path) -> None:
    states = 0
    calls = calls_of(tmp_path, forms)
    for root, reported, _ in roots.after_power_cuts(calls):
        states += 1
        check_both(root, reported)
    assert states > 40


def interrupted(folder: Path) -> None:
    """Leave what a kill between the two renames leaves."""
    root = folder.parents[1]
    root.mkdir(exist_ok=True)
    with Tape(root) as tape:
        run(root, tape.report, ["file"])
    earlier.put_aside(folder / NAME)
    (folder / NAME).write_bytes(content(1))


def test_a_directory_that_another_process_trains_in_is_left_alone(tmp_path: Path, monkeypatch: Any) -> None:
    folder = folder_in(tmp_path)
    interrupted(folder)
    held = claim.take(folder, "toy")
    with monkeypatch.context() as patch:
        patch.setattr(earlier.directory_lock, "is_held_elsewhere", lambda directory: True)
        earlier.settle_all(folder)
        assert earlier.is_aside(folder / NAME)
    earlier.settle_all(folder)  # it is this one
    assert not earlier.is_aside(folder / NAME)
    (kept,) = Catalog(folder).committed()
    verify(folder / NAME, kept)
    held.release()


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_checkpoint_that_waits_for_its_name_is_not_said_to_be_a_leftover(is_renamed: bool, tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    interrupted(folder)
    if not is_renamed:
        (folder / NAME).unlink()
    before = sorted(path.name for path in folder.iterdir())
    (said,) = [item for item in audit.check_directory(folder) if item.state != "whole"]
    assert (said.path.name, said.state, said.why) == (NAME, "unfinished", earlier.INTERRUPTED)
    listed = ls.collect(str(folder))
    assert [(item.path.name, item.why) for item in listed.rejected] == [(NAME, earlier.INTERRUPTED)]
    assert (sorted(path.name for path in folder.iterdir()), listed.checkpoints) == (before, [])
    for path in () if is_renamed else (folder / NAME, folder / names.LAST):
        with pytest.raises(CheckpointError, match=earlier.INTERRUPTED):
            load.load(path)


def test_nothing_is_put_back_that_is_damaged_itself(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    interrupted(folder)
    hidden = names.before_name(NAME)
    flip_byte(folder, hidden)
    with pytest.raises(ResumeError, match=r"No checkpoint in .* is intact"):
        resume.find_resume_point(folder)
    assert (folder / NAME).read_bytes() == content(1)
    assert (folder / hidden).exists()


def test_the_last_copy_of_a_checkpoint_stays_if_its_manifest_cannot_be_read(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    interrupted(folder)
    hidden, there = folder / names.before_name(NAME), folder / NAME
    assert not earlier.is_last(hidden), "its successor is there, too"
    there.unlink()
    (folder / names.manifest_name(NAME)).write_text("{}")
    History(folder, [Latest(1)], None).tidy()
    assert hidden.exists()
    (folder / names.manifest_name(NAME)).unlink()
    History(folder, [Latest(1)], None).tidy()
    assert not hidden.exists(), "without a manifest it was never committed"


def test_a_start_that_cannot_put_it_back_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    folder = folder_in(tmp_path)
    interrupted(folder)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(earlier.os, "replace", refuse)
    with pytest.raises(ResumeError, match=r"could not get its name back: Permission denied\. Make the directory writ"):
        resume.find_resume_point(folder)
