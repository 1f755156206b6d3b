"""How many local jobs run at a time: the number that is chosen, and processes that keep to it."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from itertools import accumulate

import pytest
from hydra.errors import CompactHydraException

from cairn.hydra.sweep import parallel, slots


@pytest.mark.parametrize(
    ("given", "per_job", "gpus", "devices", "why"),
    [
        (None, None, "", [None] * 3, "one per CPU core"),
        (5, None, "", [None] * 5, "hydra.launcher.array_parallelism"),
        (None, None, "0 1", ["0", "1"], "one per GPU"),
        (None, 1, "4 7", ["4", "7"], "one per GPU"),
        (None, 2, "0 1 2 3 4", ["0,1", "2,3"], "2 GPUs for each"),
        (1, 1, "0 1", ["0"], "hydra.launcher.array_parallelism"),
        (5, None, "0 1", ["0", "1", "0", "1", "0"], "hydra.launcher.array_parallelism"),
        (None, 0, "0 1", [None] * 3, "one per CPU core"),
    ],
)
def test_a_job_per_gpu_else_per_core_unless_configured(given, per_job, gpus, devices, why):
    chosen = parallel.choose(given, per_job, gpus.split(), 3)
    assert list(chosen.devices) == devices
    assert why in str(chosen)


def test_one_sentence_says_how_many_run_at_a_time():
    sentence = "At most 2 jobs run at a time (one per CPU core; hydra.launcher.array_parallelism changes this)."
    assert str(parallel.choose(None, None, [], 2)) == sentence
    assert str(parallel.choose(1, None, [], 2)) == "At most 1 job runs at a time (hydra.launcher.array_parallelism)."


@pytest.mark.parametrize("given", [0, -1, True, "2", 1.5])
def test_a_number_that_makes_no_sense_is_refused(given):
    with pytest.raises(CompactHydraException, match="must be an integer from 1"):
        parallel.choose(given, None, [], 2)


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(CompactHydraException, match="gpus_per_node=4, but this machine has 2"):
        parallel.choose(None, 4, ["0", "1"], 2)


def test_the_gpus_keep_the_names_that_the_environment_gives_them(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(parallel, "_DRIVERS", ("/dev/null",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert parallel.gpus() == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert parallel.gpus() == ["0", "1"]
    monkeypatch.setattr(parallel, "_DRIVERS", ())
    assert parallel.gpus() == []


def test_the_locks_are_in_the_sweep_also_while_a_job_waits(tmp_path):
    folder = parallel.place_of_locks(tmp_path / "slots")
    with open(folder / "next") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert parallel.place_of_locks(folder) == tmp_path / "slots"


def test_without_locks_in_the_sweep_a_temporary_folder_has_them(tmp_path, monkeypatch, caplog):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(parallel.fcntl, "flock", no_locks)
    monkeypatch.setattr(parallel.tempfile, "tempdir", str(tmp_path))
    found = parallel.place_of_locks(tmp_path / "slots")
    assert (found.parent, found.is_dir(), found != tmp_path / "slots") == (tmp_path, True, True)
    assert "No locks available" in caplog.text


@pytest.fixture
def start(tmp_path):
    """Starts a shell command in one of the slots; what still runs at the end is killed."""
    started = []

    def waiting(script, devices):
        command = [sys.executable, "-I", "-S", slots.__file__, str(tmp_path / "slots"), json.dumps(devices)]
        started.append(subprocess.Popen([*command, "/bin/sh", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE))
        return started[-1]

    yield waiting
    for process in started:
        process.kill()
        process.communicate()


def test_no_more_jobs_run_than_there_are_slots_and_all_of_them_do(start, tmp_path):
    script = "echo +$CUDA_VISIBLE_DEVICES >> log; sleep 0.02; echo -$CUDA_VISIBLE_DEVICES >> log"
    jobs = [start(script, ["0,1", "2,3"]) for _ in range(7)]
    assert [job.wait(60) for job in jobs] == [0] * 7
    lines = (tmp_path / "log").read_text().split()
    running = [*accumulate(1 if line[0] == "+" else -1 for line in lines)]
    assert (len(lines), max(running) <= 2) == (14, True)
    for devices in ("0,1", "2,3"):  # one job at a time for each
        own = [line[0] for line in lines if line[1:] == devices]
        assert "".join(own) == "+-" * (len(own) // 2)


def test_a_job_that_is_killed_frees_its_slot_and_one_that_waits_can_be_stopped(start, tmp_path):
    first = start("echo on; exec sleep 600", [None])
    assert first.stdout.readline() == b"on\n"
    waits, last = start("touch never", [None]), start("echo done", [None])
    while b"slots.py" not in _command_line(waits):
        pass
    waits.send_signal(signal.SIGTERM)
    assert waits.wait(60) == -signal.SIGTERM
    assert last.poll() is None
    first.kill()
    assert last.communicate(timeout=60)[0] == b"done\n"
    assert not (tmp_path / "never").exists()


def _command_line(process):
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:
        return file.read()


def test_a_job_keeps_its_process_id_and_the_environment(start):
    job = start("echo $$ $CUDA_VISIBLE_DEVICES", [None])
    expected = f"{job.pid} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}".split()
    assert job.communicate(timeout=60)[0].decode().split() == expected
