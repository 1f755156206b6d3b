"""Crash consistency: whatever happens at any system call of a save, an intact checkpoint is found.

The call fails, the process is killed there, or the power is cut. The checkpoint is not older than the last one that was
reported as committed, and no link dangles.
"""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table
from tests.support.crash import (
    FAILURES,
    Roots,
    check,
    check_tidy,
    failing,
    folder_in,
    killing,
    last_reported,
    record,
    reporting,
)
from tests.support.power import NAMES, Call, Killed, Tape, after_a_power_cut, put_up
from tests.support.values import draft, file_of

from cairn.errors import SaveError
from cairn.policy.keep import Latest, WithinBytes
from cairn.store import commit, disk, resume, space
from cairn.store.catalog import Catalog
from cairn.store.history import History

SCORES = [0.5, 0.3, 0.4, 0.2, 0.6]
RULES = [Latest(1), WithinBytes("3kB")]
"""Rules for which links move and stay, and files are deleted before a save (by the budget) and after it."""


Rows = Counter[tuple[str, str]]


@pytest.fixture(autouse=True)
def small_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "CHUNK_BYTES", 400)  # so that a checkpoint takes several


def run(root: Path, report: Callable[[object], None], scores: list[float] = SCORES, first: int = 0) -> None:
    """Act like a training: start, resume from what is there, and save; a failed save does not stop it."""
    folder = folder_in(root)
    own = History(folder, RULES, "min")
    space.check_writable(folder)
    own.take_over("toy", resume.find_resume_point(folder))
    own.tidy()
    for number, score in enumerate(scores, start=first):
        file = file_of({"state_dict": {"weight": torch.full((30,), float(number))}})
        coming = draft(number, score, num_bytes=len(file))
        own.add_pending(coming)
        plan, result = own.plan_commit(coming, {}), None
        with reporting(report, number):
            try:
                result = commit.write(plan, file)
            except SaveError:
                pass  # the next save tries again
        own.resolve_pending(coming, plan, result)


def check_goes_on(root: Path) -> None:
    """Check that the next start finds it, saves again, and leaves no other file."""
    run(root, lambda number: None, [0.1], first=9)
    assert Catalog(folder_in(root)).committed()[-1].position.batch == 9 + 1
    check_tidy(root)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """The system calls of an undisturbed run."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "CHUNK_BYTES", 400)
        calls = record(root, run)
    assert last_reported(calls) == len(SCORES) - 1
    return calls


@pytest.fixture(scope="module")
def table() -> Iterator[Rows]:
    """Count how often each fault was tried at each system call; `pytest -s` prints it."""
    rows: Rows = Counter()
    yield rows
    shown = Table(
        "system call", "fault", "times", title="An intact checkpoint, not older than the last reported, after:"
    )
    for (call, fault), count in sorted(rows.items()):
        shown.add_row(call, fault, str(count))
    Console(width=100).print(shown)


def test_the_recorded_run_covers_every_system_call_and_both_kinds_of_deletion(whole: list[Call]) -> None:
    assert {call.name for call in whole} == {*NAMES, "report"}
    deleted = [n for n, call in enumerate(whole) if call.name == "unlink" and call.path.endswith(".ckpt.tmp")]
    saves = [n for n, call in enumerate(whole) if call.name == "open" and call.path.endswith(".ckpt.tmp")]
    links = [n for n, call in enumerate(whole) if call.name == "symlink"]
    before = [n for n in deleted if n + 1 in saves]
    assert before, "to make room for a save"
    assert [n for n in deleted if n not in before and any(link < n for link in links)], "and after one"


def _during_training(calls: list[Call]) -> range:
    """Calls after the directory was created; before that, a failure is an error at the start of the run."""
    return range(next(n for n, call in enumerate(calls) if call.name == "open" and "epoch" in call.path), len(calls))


def _last_save(calls: list[Call]) -> int:
    return max(n for n, call in enumerate(calls) if call.name == "report" and call.other == str(len(SCORES) - 2))


@pytest.mark.parametrize("fault", FAILURES)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_a_failing_system_call(fault: str, lasting: bool, whole: list[Call], table: Rows, tmp_path: Path) -> None:
    (code, concerned), roots = FAILURES[fault], Roots(tmp_path)
    for point in [n for n in _during_training(whole) if whole[n].name in concerned]:
        root = roots(point)
        with Tape(root, failing(point, code, concerned, lasting)) as tape:
            run(root, tape.report)
        reported = last_reported(tape.calls)
        if code == errno.ENOSPC:
            assert Catalog(folder_in(root)).leftovers() == [], "nothing is left of what failed"
        check(root, reported)
        if not lasting:
            assert reported == len(SCORES) - 1 or point > _last_save(whole), "the next saves went well"
        check_goes_on(root)
        table[whole[point].name, f"{fault}, {'from then on' if lasting else 'once'}"] += 1


def test_a_partial_write(whole: list[Call], table: Rows, tmp_path: Path) -> None:
    roots = Roots(tmp_path)
    for point in [n for n, call in enumerate(whole) if call.name == "write"]:
        root = roots(point)
        with Tape(root, lambda n, call, point=point: len(call.data) // 2 if n == point else None) as tape:
            run(root, tape.report)
        assert last_reported(tape.calls) == len(SCORES) - 1
        check(root, len(SCORES) - 1)
        table["write", "takes half"] += 1


def test_a_kill(whole: list[Call], table: Rows, tmp_path: Path) -> None:
    roots = Roots(tmp_path)
    for point in [n for n, call in enumerate(whole) if call.name != "report"]:
        root = roots(point)
        with Tape(root, killing(point)) as tape, pytest.raises(Killed):
            run(root, tape.report)
        assert [_what(done) for done in tape.calls] == [_what(done) for done in whole[:point]]
        check(root, last_reported(tape.calls))
        check_goes_on(root)
        table[whole[point].name, "kill -9 before it"] += 1


def _what(call: Call) -> tuple[str, ...]:
    return call.name, call.path, call.other  # the bytes of a manifest hold the time


def test_a_power_cut(whole: list[Call], table: Rows, tmp_path: Path) -> None:
    states = 0
    for root, reported, call in Roots(tmp_path).after_power_cuts(whole):
        states += 1
        check(root, reported)
        check_goes_on(root)
        table[call.name, "power cut after it"] += 1
    assert states > 200


def test_without_its_syncs_the_same_run_loses_checkpoints(whole: list[Call], tmp_path: Path) -> None:
    """Test of the test: it detects a missing sync."""
    careless = [call for call in whole if call.name != "fsync"]
    with pytest.raises(AssertionError):
        _check_states(careless[:40], tmp_path)


def _check_states(calls: list[Call], folder: Path) -> None:
    for number, tree in enumerate(after_a_power_cut(calls)):
        put_up(tree, folder / str(number))
        check(folder / str(number), last_reported(calls))


STRACE = shutil.which("strace")
ALONE = "import sys; sys.path[:0] = sys.argv[2:]; from tests.store.test_crash import alone; alone(sys.argv[1])"


def alone(root: str) -> None:
    """The run that strace watches, without pytest."""
    disk.CHUNK_BYTES = 400
    run(Path(root), lambda number: None)


@pytest.mark.slow
@pytest.mark.skipif(STRACE is None, reason="strace is not installed (Debian: apt-get install strace)")
def test_the_recording_has_every_system_call_that_strace_sees(whole: list[Call], tmp_path: Path) -> None:
    log, root = tmp_path / "log", tmp_path / "root"
    root.mkdir()
    command = [sys.executable, "-c", ALONE, str(root), *sys.path[:2], "src"]
    traced = subprocess.run(
        [str(STRACE), "-f", "-y", "-o", str(log), "-e", f"trace={CHANGING}", *command], capture_output=True, text=True
    )
    if "ptrace" in traced.stderr.lower():
        pytest.skip(f"strace may not trace here: {traced.stderr.strip()}")
    assert traced.returncode == 0, traced.stderr
    found = [name for line in log.read_text().splitlines() if (name := _changes(line, root))]
    assert Counter(found) == Counter(call.name for call in whole if call.name != "report")


# Every call that can change a file or a folder, including those that the code does not use.
CHANGING = (
    "open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,rename,renameat,"
    "renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,truncate,ftruncate,fallocate,"
    "copy_file_range,sendfile,splice,chmod,fchmod,fchmodat,utimensat"
)
SAME = {"openat": "open", "rename": "replace", "renameat": "replace", "renameat2": "replace"}


def _changes(line: str, root: Path) -> str | None:
    """The system call in a line of strace, if it changes something in the folder; else None."""
    begun = re.match(r"\d+ +(\w+)\(", line)  # not "<... openat resumed>", which continues an earlier line
    if begun is None or str(root) not in line:
        return None
    name = begun[1]
    if name.startswith("open") and "O_CREAT" not in line:
        return None
    return SAME.get(name, name.removesuffix("at"))
