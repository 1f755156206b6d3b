"""Crash consistency of sharded saves: as test_crash.py, with a writer for each rank.

Whatever happens at any system call of any rank, an intact checkpoint is found that is not older than the last reported
one, and all of its shards are of one save.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

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
from tests.support.values import at, draft, file_of

from cairn.errors import SaveError
from cairn.policy.keep import Latest, WithinBytes
from cairn.store import commit, disk, names, resume, shard, sharded_commit, space
from cairn.store.catalog import Catalog
from cairn.store.history import History
from cairn.store.shard import ShardPlan

SCORES = [0.5, 0.3, 0.4, 0.6]
RULES = [Latest(1), WithinBytes("5kB")]
"""Rules for which links move and stay, and directories are deleted before a save (by the budget) and after it."""
WORLD = 2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "CHUNK_BYTES", 400)  # so that a shard takes several writes
    for name in ("SILENCE_S", "SILENCE_AFTER_END_S"):
        monkeypatch.setattr(sharded_commit, name, 0.002)
    monkeypatch.setattr(sharded_commit, "_POLL_S", 0.0005)


def part(folder: Path, number: int, rank: int) -> ShardPlan:
    """What a rank writes of the `number`-th checkpoint."""
    return ShardPlan(folder, names.checkpoint_name(at(number + 1)), f"{number:016x}", rank, WORLD, "layout")


@functools.cache
def content(number: int, rank: int) -> bytes:
    return bytes(file_of({"save": number, "rank": rank, "data": torch.full((30,), float(number))}))


def save(own: History, number: int, score: float, report: Callable[[object], None], again: bool = False) -> None:
    """Save on all ranks. With `again`, a writer that is killed is replaced, as its training process does."""
    files = [memoryview(bytearray(content(number, rank))) for rank in range(WORLD)]
    coming = draft(number, score, num_bytes=sum(map(len, files)))
    own.add_pending(coming)
    plan, result = replace(own.plan_commit(coming, {}), shard=part(own.directory, number, 0)), None
    with reporting(report, number), suppress(SaveError):
        for rank in range(1, WORLD):
            mine = part(own.directory, number, rank)
            with suppress(SaveError):
                retried(again, lambda retry, mine=mine, rank=rank: shard.write(replace(mine, retry=retry), files[rank]))
        result = retried(again, lambda retry: commit.write(replace(plan, retry=retry), files[0]))
    own.resolve_pending(coming, plan, result)


def run(
    root: Path, report: Callable[[object], None], scores: list[float] = SCORES, first: int = 0, again: bool = False
) -> None:
    """Act like a training: start, resume from what is there, and save; a failed save does not stop it."""
    own = History(folder_in(root), RULES, "min")
    space.check_writable(folder_in(root))
    own.take_over("toy", resume.find_resume_point(folder_in(root)))
    own.tidy()
    for number, score in enumerate(scores, start=first):
        save(own, number, score, report, again)


def check_shards(root: Path) -> None:
    """Check that each committed checkpoint has all shards of its own save."""
    for item in Catalog(folder_in(root)).committed():
        number = item.position.batch - 1
        for rank, one in enumerate(item.shards):
            found = torch.load(folder_in(root) / item.name / one.name, weights_only=True)
            assert (found["save"], found["rank"]) == (number, rank)
        assert len(item.shards) == WORLD


def check_goes_on(root: Path) -> None:
    """Check that the next start finds it, saves again, and leaves no other file."""
    run(root, lambda number: None, [0.1], first=9)
    assert Catalog(folder_in(root)).committed()[-1].position.batch == 9 + 1
    check_tidy(root)
    check_shards(root)


def tape(root: Path, before: Callable[[int, Call], int | None] = lambda number, call: None) -> Tape:
    return Tape(root, before, WITH_DIRECTORIES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """The system calls of an undisturbed run."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "CHUNK_BYTES", 400)
        calls = record(root, run, WITH_DIRECTORIES)
    assert last_reported(calls) == len(SCORES) - 1
    check_shards(root)
    return calls


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(tmp_path)


def first_save(calls: list[Call]) -> int:
    return next(number for number, call in enumerate(calls) if call.name == "mkdir" and "epoch" in call.path)


def test_the_recorded_run_covers_every_system_call_and_both_kinds_of_deletion(whole: list[Call]) -> None:
    assert {call.name for call in whole} == {*WITH_DIRECTORIES, "report"}
    deleted = [n for n, call in enumerate(whole) if call.name == "rmdir"]
    begun = [n for n, call in enumerate(whole) if call.name == "mkdir" and "epoch" in call.path]
    assert len(deleted) >= 2
    assert all(n > begun[1] for n in deleted)


@pytest.mark.parametrize("fault", ["a full disk", "a broken disk"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_failing_system_call(fault: str, lasting: bool, whole: list[Call], roots: Roots) -> None:
    code, concerned = FAILURES[fault]
    for point in [n for n in range(first_save(whole), len(whole)) if whole[n].name in concerned]:
        root = roots(point)
        with tape(root, failing(point, code, concerned, lasting)) as recorded:
            run(root, recorded.report)
        check(root, last_reported(recorded.calls))
        check_shards(root)
        check_goes_on(root)


def test_all_ranks_are_killed(whole: list[Call], roots: Roots) -> None:
    for point in [n for n, call in enumerate(whole) if call.name != "report"]:
        root = roots(point)
        with tape(root, killing(point)) as recorded, pytest.raises(Killed):
            run(root, recorded.report)
        check(root, last_reported(recorded.calls))
        check_shards(root)
        check_goes_on(root)


def test_a_writer_that_dies_is_replaced_and_the_save_is_not_lost(whole: list[Call], roots: Roots) -> None:
    """One rank's writer dies before any of its calls; the next one repeats the request, also after the commit."""
    for point in range(first_save(whole), len(whole)):
        if whole[point].name == "report":
            continue
        root, kill = roots(point), KillOnce(point)
        with tape(root, kill) as recorded:
            run(root, recorded.report, again=True)
        assert kill.has_killed
        assert [item.position.batch for item in Catalog(folder_in(root)).committed()][-1] == len(SCORES)
        check(root, len(SCORES) - 1)
        check_shards(root)
        check_goes_on(root)


def test_a_power_cut(whole: list[Call], roots: Roots) -> None:
    states = 0
    for root, reported, _ in roots.after_power_cuts(whole):
        states += 1
        check(root, reported)
        check_shards(root)
        check_goes_on(root)
    assert states > 200
