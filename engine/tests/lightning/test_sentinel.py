"""The sentinel of a fit: it starts with the first report, and ends with the fit or the process."""

import os
import sys

import pytest
from tests.support.values import commit

from cairn.lightning import sentinel
from cairn.lightning.sentinel import Sentinel
from cairn.run import status
from cairn.run.directory import RunDirectory
from cairn.store import hang_reports, hangs
from cairn.types import Position


def test_it_starts_with_the_first_report_and_not_after_the_end():
    own = Sentinel(None, None, None, False)
    assert own._process is None
    own.tell(1e6, Position(0, 1, 1))
    process = own._process
    own.tell(1e6, Position(0, 2, 2))
    assert process is own._process
    assert process.poll() is None
    own.close()
    assert process.poll() < 0
    own.tell(1e6, Position(0, 3, 3))
    assert own._process is None


def test_it_ends_when_the_training_has_ended(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setattr(sentinel.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sentinel, "_end", lambda *_: sys.exit("a process that has ended does not hang"))
    sentinel.main([str(os.getppid() + 1), str(reading), "", "", "", "0"])  # it has another parent
    os.write(writing, b"1e6 0 1 1 1 1\n")
    os.close(writing)
    sentinel.main([str(os.getppid()), str(reading), "", "", "", "0"])  # the pipe is closed
    os.close(reading)


def looked(monkeypatch, state):
    """Let the sentinel look at a process that does not report any more, for up to 20 looks; return what it ends."""
    reading, writing = os.pipe()
    os.write(writing, b"1.0 2 3 17 17 34\n")
    ended, now, parents = [], [0.0], iter([os.getppid()] * 20 + [-1])
    monkeypatch.setattr(sentinel.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sentinel.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(sentinel.stacks, "state", lambda _: state)
    monkeypatch.setattr(sentinel, "_end", lambda pid, report, silent_s, *_: ended.append((report, round(silent_s, 1))))
    monkeypatch.setattr(sentinel.time, "monotonic", lambda: now.append(now[-1] + 0.2) or now[-1])
    monkeypatch.setattr(sentinel, "_TICK_S", 0.2)
    answers = iter([[reading]])
    monkeypatch.setattr(sentinel.select, "select", lambda *_: (next(answers, []), [], []))
    pid = os.getppid()
    sentinel.main([str(pid), str(reading), "", "", "", "0"])
    os.close(reading)
    os.close(writing)
    return ended


def test_a_process_that_does_not_report_for_its_limit_is_ended(monkeypatch):
    assert looked(monkeypatch, "R") == [("1.0 2 3 17 17 34", 1.0)]


@pytest.mark.parametrize("state", ["T", "t"])
def test_a_process_that_is_stopped_by_a_person_or_a_debugger_is_left_alone(monkeypatch, state):
    assert looked(monkeypatch, state) == []


@pytest.mark.parametrize(("num_before", "has_checkpoints"), [(0, True), (2, True), (0, False)])
def test_the_record_of_a_run_that_it_ends_says_so(monkeypatch, tmp_path, num_before, has_checkpoints):
    run, directory = RunDirectory(tmp_path), tmp_path / "checkpoints"
    run.start("toy", (), f"checkpoint: {{dirpath: {directory}}}\npaths: {{output_dir: {tmp_path}}}\ntrainer: {{}}")
    assert [job.state for job in status.look(tmp_path)[0]] == ["dead"]  # running, without a sign of life
    commit(directory)
    killed, requeued = [], []
    monkeypatch.setattr(sentinel, "_ANSWER_S", 0.0)
    monkeypatch.setattr(sentinel, "_requeue", requeued.append)
    monkeypatch.setattr(sentinel.stacks, "ask", lambda pid: None)
    monkeypatch.setattr(sentinel.stacks, "others", lambda pid: {})
    monkeypatch.setattr(sentinel.stacks, "kill_others", killed.append)
    for _ in range(num_before):
        hangs.note(directory, hangs.Hang("training", Position(2, 3, 17), 9.0, 9.0, "2026-01-01T00:00:00+00:00"))
    known = str(directory) if has_checkpoints else ""
    sentinel._end(123, "9.0 2 3 17 17 34 a1", 9.5, known, "", str(run.record_file), "1")
    (job,) = status.look(tmp_path)[0]
    requeues = has_checkpoints and num_before < hangs.MOST_IN_PLACE - 1
    end = "" if requeues else "; not requeued"
    assert job.state == "hung"
    assert job.why == f"training after epoch 2, batch 3 showed no sign of life for 10 s{end}"
    assert (killed, requeued) == ([[123]], [True] if requeues else [])


@pytest.mark.parametrize(("attempt", "num_noted"), [("a1", 0), ("b2", 1), (sentinel._UNNAMED, 1)])
def test_a_hang_that_another_rank_has_noted_is_not_noted_again(monkeypatch, tmp_path, attempt, num_noted):
    killed = []
    monkeypatch.setattr(sentinel, "_ANSWER_S", 0.0)
    monkeypatch.setattr(sentinel, "_requeue", lambda _: None)
    monkeypatch.setattr(sentinel.stacks, "ask", lambda pid: None)
    monkeypatch.setattr(sentinel.stacks, "others", lambda pid: {})
    monkeypatch.setattr(sentinel.stacks, "kill_others", killed.append)
    assert hang_reports.claim(tmp_path, "a1")
    sentinel._end(123, f"9.0 2 3 17 17 34 {attempt}", 9.5, str(tmp_path), "", "", "0")
    assert killed == [[123]]
    assert (tmp_path / hangs.NAME).exists() == bool(num_noted)


def test_a_record_that_cannot_be_read_does_not_save_a_run_that_hangs(tmp_path):
    for text in ("", "[]", "{", "\0"):
        (tmp_path / "run.json").write_text(text)
        sentinel._record(tmp_path / "run.json", "why")
        assert (tmp_path / "run.json").read_text() == text
    sentinel._record(tmp_path / "gone" / "run.json", "why")
