"""The jobs of a sweep are remembered, and whether they are alive is asked of whoever runs them."""

import subprocess
import sys

from cairn.cluster import slurm
from cairn.cluster.ledger import Entry, Ledger, states


def test_nothing_was_submitted(tmp_path):
    assert Ledger(tmp_path).newest() == {}


def test_the_last_job_of_a_directory_counts(tmp_path):
    entries = [Entry("a", "slurm", "12_0"), Entry("b", "slurm", "12_1"), Entry("a", "slurm", "13")]
    Ledger(tmp_path).add(entries[:2])
    Ledger(tmp_path).add(entries[2:])
    assert Ledger(tmp_path).newest() == {"a": entries[2], "b": entries[1]}


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add([Entry("a", "slurm", "12_0")])
    ledger.path.write_text(ledger.path.read_text() + '{"directory": "b", "sch')
    assert set(ledger.newest()) == {"a"}


def test_what_slurm_says(monkeypatch):
    monkeypatch.setattr(slurm, "queued", lambda: {"12_0": "RUNNING", "99": "RUNNING"})
    assert states([Entry("a", "slurm", "12_0"), Entry("b", "slurm", "12_1")]) == {"12_0": "RUNNING"}


def test_slurm_is_not_asked_for_local_jobs(monkeypatch):
    monkeypatch.setattr(slurm, "queued", lambda: 1 / 0)
    assert states([Entry("a", "local", "999999999")]) == {}


def test_a_local_job_is_alive_while_its_process_is():
    command = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", command, "submitit"], stdin=subprocess.PIPE) as process:
        entry = Entry("a", "local", str(process.pid))
        assert states([entry]) == {str(process.pid): "RUNNING"}
        process.stdin.close()
        process.wait()
        assert states([entry]) == {}


def test_a_process_that_has_taken_over_the_number_is_another_one():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert states([Entry("a", "local", str(process.pid))]) == {}
        process.stdin.close()
