"""A sweep records its submitted jobs, and their schedulers say which of them are alive."""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from cairn.jobs import slurm
from cairn.run import ledger
from cairn.run.ledger import Ledger, SubmittedJob, states


def test_a_sweep_without_submitted_jobs_has_an_empty_ledger(tmp_path):
    assert Ledger(tmp_path).newest() == {}


def test_the_last_job_of_a_directory_counts(tmp_path):
    entries = [SubmittedJob("a", "slurm", "12_0"), SubmittedJob("b", "slurm", "12_1"), SubmittedJob("a", "slurm", "13")]
    Ledger(tmp_path).add(entries[:2])
    Ledger(tmp_path).add(entries[2:])
    assert Ledger(tmp_path).newest() == {"a": entries[2], "b": entries[1]}
    assert Ledger(tmp_path).entries() == entries


def test_a_line_that_was_cut_off_is_skipped(tmp_path):
    jobs = Ledger(tmp_path)
    jobs.add([SubmittedJob("a", "slurm", "12_0")])
    jobs.path.write_text(jobs.path.read_text() + '{"directory": "b", "sch')
    assert set(jobs.newest()) == {"a"}
    jobs.add([SubmittedJob("c", "slurm", "13")])
    assert set(jobs.newest()) == {"a", "c"}


def test_slurm_reports_its_jobs(monkeypatch):
    monkeypatch.setattr(slurm, "queued", lambda: {"12_0": "RUNNING", "99": "RUNNING"})
    assert states([SubmittedJob("a", "slurm", "12_0"), SubmittedJob("b", "slurm", "12_1")]) == {"12_0": "RUNNING"}


def test_slurm_is_not_asked_for_local_jobs(monkeypatch):
    monkeypatch.setattr(slurm, "queued", lambda: 1 / 0)
    assert states([SubmittedJob("a", "local", "999999999")]) == {}


FOLDER = "/runs/a sweep/.submitit/%j"


@contextmanager
def process(*words):
    """A process that does nothing, with these words on its command line."""
    with subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE) as started:
        until = time.monotonic() + 60
        while words and words[-1] not in ledger._command_line(started.pid):
            if time.monotonic() > until or started.poll() is not None:
                started.kill()  # else leaving waits for it
                pytest.fail(f"no process came to have {words[-1]} on its command line")
            time.sleep(0.01)
        yield started
        started.communicate(b"\n")


def test_a_local_job_is_alive_while_its_process_is():
    with process("-m", "submitit.local._local", FOLDER) as started:
        entry = SubmittedJob("a", "local", str(started.pid), FOLDER)
        assert states([entry]) == {str(started.pid): "RUNNING"}
    assert states([entry]) == {}


def test_a_local_job_that_waits_for_its_turn_is_pending():
    with process("sweep/slots.py", "/x", "[null]", "python", "-m", "submitit.local._local", FOLDER) as started:
        assert states([SubmittedJob("a", "local", str(started.pid), FOLDER)]) == {str(started.pid): "PENDING"}


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-m", "submitit.local._local", "/runs/another/.submitit/%j"),
        ("train.py", "-m", "hydra/launcher=submitit_local", f"hydra.sweep.dir={FOLDER}"),
    ],
)
def test_a_process_that_reuses_the_id_is_not_the_job(words):
    with process(*words) as started:
        assert states([SubmittedJob("a", "local", str(started.pid), FOLDER)]) == {}


def test_without_proc_the_command_ps_is_used(monkeypatch):
    said = subprocess.CompletedProcess((), 0, f"python -m submitit.local._local {FOLDER}\n")
    monkeypatch.setattr(ledger, "Path", lambda path: Path("/nowhere"))
    monkeypatch.setattr(ledger.subprocess, "run", lambda *args, **more: said)
    assert states([SubmittedJob("a", "local", "17", FOLDER)]) == {"17": "RUNNING"}
