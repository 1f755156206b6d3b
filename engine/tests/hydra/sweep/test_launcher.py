"""How the jobs of a sweep end: no result counts before its job is over, and no wait lasts forever."""

import inspect
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import cloudpickle
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from submitit.core.utils import JobPaths, temporary_save_path
from submitit.local.local import Controller
from tests.support.paths import PYTHONPATH, ROOT

from cairn.hydra.sweep import launcher, outcomes, plugins
from cairn.hydra.sweep.job_name import register
from cairn.hydra.sweep.launcher import Resumable
from cairn.hydra.sweep.outcomes import JobFailed, Outcomes
from cairn.hydra.sweep.sweep_job import Division, SweepJob
from cairn.jobs import slurm
from cairn.run import attempts
from cairn.run.directory import RunDirectory
from cairn.run.ledger import SubmittedJob

plugins.register()
resumable_submitit = import_module(plugins.LAUNCHERS)


class Scene:
    """One job of a sweep, with a simulated clock: each time the launcher sleeps, the next event happens."""

    def __init__(self, folder, monkeypatch):
        self.run = RunDirectory(folder / "run")
        self.entry = SubmittedJob("run", "slurm", "12_0")
        self.entries = {"run": self.entry}
        self.outcomes = Outcomes(str(folder / ".submitit" / "%j"))
        self.paths = self.outcomes.paths(self.entry)
        self.paths.folder.mkdir(parents=True)
        self.now, self.alive, self.events = 0.0, True, []
        monkeypatch.setattr(outcomes, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(outcomes, "states", self._states)

    def _states(self, entries):
        if self.alive is None:
            raise slurm.SlurmError("no controller")
        return {entry.job: "RUNNING" for entry in entries if self.alive}

    def _sleep(self, seconds):
        self.now += seconds
        assert self.now < 1000, "the launcher waits forever"
        if self.events:
            self.events.pop(0)()

    def then(self, *events):
        """Set the events, which happen one after the other."""
        self.events = list(events)
        return self

    def lives(self, alive):
        return lambda: setattr(self, "alive", alive)

    def writes(self, outcome, value):
        """Write the result as submitit does."""
        self.paths.result_pickle.write_bytes(cloudpickle.dumps((outcome, value)))

    def records(self, status, why="", result=None, job="12_0"):
        """Write the record of the run."""
        self.run.path.mkdir(exist_ok=True)
        attempts.note(self.run, self.run.record(), None, job)
        self.run.start("task", (), "checkpoint: {}\n")
        self.run.end(status, why, result)

    def collect(self):
        job = SweepJob(0, ("a=1",), self.run, "a=1")
        return self.outcomes.collect({job: self.entries.get("run")})[0]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    return Scene(tmp_path, monkeypatch)


TRACE = "Traceback (most recent call last):\n  File ...\nRuntimeError: something broke\n"
SUCCESS = JobReturn(status=JobStatus.COMPLETED, _return_value=0.5)


def failure(result):
    assert result.status == JobStatus.FAILED
    assert isinstance(result._return_value, JobFailed)
    return str(result._return_value)


def test_a_job_that_succeeds(scene):
    result = scene.then(lambda: scene.writes("success", SUCCESS), scene.lives(False)).collect()
    assert (result.status, result.return_value) == (JobStatus.COMPLETED, 0.5)
    assert scene.now < 10, "the end of the job is logged at once"


def test_a_result_is_read_from_the_folder_that_the_job_was_submitted_with(scene, tmp_path):
    scene.alive = False
    folder = str(tmp_path / "before" / "%j")
    scene.entries["run"] = SubmittedJob("run", "slurm", "12_0", folder)
    scene.paths = JobPaths(folder, "12_0", 0)
    scene.paths.folder.mkdir(parents=True)
    scene.writes("success", SUCCESS)
    assert scene.collect().return_value == 0.5


def test_the_launcher_waits_for_a_requeued_job(scene):
    stopped = lambda: scene.records("stopped", "SIGUSR2")  # noqa: E731
    ends = lambda: scene.writes("success", SUCCESS)  # noqa: E731
    result = scene.then(stopped, scene.lives(False), scene.lives(True), *[lambda: None] * 30, ends, scene.lives(False))
    assert result.collect().return_value == 0.5


def test_an_error_does_not_count_while_the_requeued_job_is_alive(scene):
    scene.writes("error", TRACE)
    scene.records("failed", "RuntimeError: something broke")
    ends = lambda: scene.writes("success", SUCCESS)  # noqa: E731
    assert scene.then(*[lambda: None] * 30, ends, scene.lives(False)).collect().return_value == 0.5


def test_no_result_counts_while_the_scheduler_does_not_answer(scene, caplog):
    scene.alive = None
    scene.writes("error", TRACE)
    ends = lambda: scene.writes("success", SUCCESS)  # noqa: E731
    assert scene.then(*[lambda: None] * 30, ends, scene.lives(False)).collect().return_value == 0.5
    assert "no controller" in caplog.text


def test_a_failure_is_reported_with_the_reason_of_the_run(scene):
    scene.alive = False
    scene.writes("error", TRACE)
    scene.records("failed", "The data are not here: fetch them.\nMore.")
    text = failure(scene.collect())
    assert "#0 a=1 failed: The data are not here: fetch them. See" in text
    assert scene.now < 10


def test_the_failure_of_an_earlier_job_in_the_same_directory_does_not_count(scene):
    scene.alive = False
    scene.writes("error", TRACE)
    scene.records("failed", "an old reason", job="11")
    assert "failed: RuntimeError: something broke. See" in failure(scene.collect())


def test_a_failure_before_the_run_began(scene):
    scene.alive = False
    scene.writes("error", TRACE)
    text = failure(scene.collect())
    assert f"failed: RuntimeError: something broke. See {scene.paths.stdout}" in text


def test_a_job_that_was_refused_has_one_sentence_without_the_name_of_a_class(scene):
    scene.alive = False
    scene.writes("error", "Traceback:\n  File ...\ncairn.errors.ConfigError: checkpoint.dirpath=/x is taken.\n")
    assert "#0 a=1 failed: checkpoint.dirpath=/x is taken. See" in failure(scene.collect())


def test_a_job_that_was_killed_has_failed(scene):
    scene.records("running")
    text = failure(scene.then(scene.lives(False)).collect())
    assert "it ended without a result, and its run is running" in text
    assert scene.now > outcomes.LATE_S


def test_a_job_that_never_started_has_failed(scene):
    scene.alive = False
    assert "its run is not started" in failure(scene.collect())


def test_a_late_result_counts(scene):
    scene.alive = False
    scene.records("running")
    assert scene.then(lambda: None, lambda: scene.writes("success", SUCCESS)).collect().return_value == 0.5


@pytest.mark.parametrize("damage", [False, True])
def test_a_finished_run_counts_without_a_readable_result(scene, damage):
    scene.alive = False
    scene.records("finished", result=0.25)
    if damage:
        scene.paths.result_pickle.write_bytes(b"\x80")
    assert scene.collect().return_value == 0.25


def test_a_damaged_record_does_not_break_the_wait(scene):
    scene.alive = False
    scene.records("running")
    scene.run.record_file.write_text("{")
    assert "its record is damaged" in failure(scene.collect())


def test_a_job_that_is_missing_in_the_ledger_has_failed(scene):
    scene.entries.clear()
    assert "the ledger of the sweep has no job id for it" in failure(scene.collect())


@pytest.mark.parametrize(("scheduler", "is_slower"), [("slurm", True), ("local", False)])
def test_a_long_wait_polls_a_slurm_controller_less_often_but_not_this_machine(scene, scheduler, is_slower):
    scene.entries["run"] = replace(scene.entry, scheduler=scheduler)
    pauses = []
    ends = lambda: scene.writes("success", SUCCESS)  # noqa: E731
    scene.then(*[lambda: pauses.append(scene.now)] * 60, ends, scene.lives(False)).collect()
    steps = [after - before for before, after in pairwise(pauses)]
    assert (steps[0], max(steps) > 10) == (outcomes.POLL_S, is_slower)
    assert is_slower or set(steps) == {outcomes.POLL_S}


def test_only_jobs_that_are_neither_finished_nor_alive_are_submitted(tmp_path):
    finished, running, ended, new = [
        SweepJob(at, (), RunDirectory(tmp_path / name), "")
        for at, name in enumerate(["finished", "running", "ended", "new"])
    ]
    finished.run.path.mkdir()
    attempts.note(finished.run, None, None, "11")
    finished.run.start("task", (), "checkpoint: {}\n")
    finished.run.end("finished", "", None)
    entries = {
        job.name_in(tmp_path): SubmittedJob(job.name_in(tmp_path), "slurm", number)
        for job, number in ((finished, "11"), (running, "12"), (ended, "13"))
    }
    divided = Division.of([finished, running, ended, new], tmp_path, entries, {"11": "COMPLETING", "12": "RUNNING"})
    assert divided == Division(finished=[finished], missing=[ended, new])


def test_ctrl_c_stops_only_the_local_jobs_of_this_command(tmp_path, monkeypatch):
    entries = {
        "mine": SubmittedJob("mine", "local", "11"),
        "ended": SubmittedJob("ended", "local", "12"),
        "of another command": SubmittedJob("of another command", "local", "13"),
        "on slurm": SubmittedJob("on slurm", "slurm", "14"),
    }
    killed = []

    def kill(pid, number):
        killed.append((pid, number))
        if pid == 12:
            raise ProcessLookupError

    monkeypatch.setattr(resumable_submitit, "states", lambda found: {entry.job: "RUNNING" for entry in found})
    monkeypatch.setattr(resumable_submitit.os, "kill", kill)
    jobs = [
        SweepJob(at, (), RunDirectory(tmp_path / name), "")
        for at, name in enumerate(["mine", "ended", "on slurm", "new"])
    ]
    resumable_submitit.LocalLauncher()._interrupted(jobs, tmp_path, entries)
    assert killed == [(12, signal.SIGTERM), (11, signal.SIGTERM)], "the last ones first: they may still wait"


@pytest.mark.parametrize(
    ("timeout_min", "save_s", "expected", "said"),
    [
        (60, 0.0, 120, ""),
        (60, 100.0, 300, "Saves are slow in this sweep"),
        (2, 0.0, 60, "The time limit of 2 min is short: SLURM sends its signal 60 s before it instead of 120 s"),
        (4, 100.0, 120, "SLURM sends its signal 120 s before it instead of 300 s"),
    ],
)
def test_the_signal_leaves_time_for_a_save_and_for_training(monkeypatch, caplog, timeout_min, save_s, expected, said):
    for name in ("PYTHONPATH", "PROJECT_ROOT"):
        monkeypatch.setenv(name, "x")
    caplog.set_level("INFO")
    slurm_launcher = resumable_submitit.SlurmLauncher(timeout_min=timeout_min, signal_delay_s=120, setup=None)
    slurm_launcher.save_s = save_s
    assert slurm_launcher._parameters()["signal_delay_s"] == expected
    assert said in caplog.text


def test_a_local_job_survives_its_time_limit():
    starts = inspect.signature(Controller.run).parameters["max_retry"].default
    assert starts == 6, "the comment in LocalConf names this number"
    assert resumable_submitit.LocalConf().max_num_timeout >= starts, "otherwise a job would fail earlier"


@pytest.mark.parametrize("key", ["num", "id"])
def test_directories_can_be_named_by_the_number_of_the_job(tmp_path, key):
    register()
    where = [f"hydra.sweep.dir={tmp_path}", f"hydra.sweep.subdir=${{hydra.job.{key}}}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        cfg = loader.load_configuration("train", where, RunMode.MULTIRUN)
        HydraConfig.instance().set_config(cfg)
        resumable = Resumable()
        resumable.config, resumable.hydra_context = cfg, SimpleNamespace(config_loader=loader)
        assert resumable._job(("seed=1",), 3, set()).run.path == tmp_path / "3"


def test_leftovers_of_a_killed_requeue_do_not_stop_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_own_paths", lambda: JobPaths(tmp_path, "12_0"))
    monkeypatch.setattr(launcher.signal, "signal", lambda number, handler: None)
    torn = tmp_path / "12_0_submitted.pkl.save_tmp"
    torn.write_bytes(b"")
    again = Resumable().checkpoint("argument")
    assert again.args == ("argument",)
    with temporary_save_path(tmp_path / "12_0_submitted.pkl") as place:
        again.dump(place)


def test_a_wrong_type_of_a_slurm_setting_is_one_sentence():
    with pytest.raises(CompactHydraException, match=r"hydra.launcher.timeout_min: Value 'an hour' .* Integer"):
        resumable_submitit.SlurmLauncher(timeout_min="an hour")


def test_the_launchers_are_known_only_after_registration():
    code = """if True:
        from hydra.core.plugins import Plugins
        found = lambda: [name for name in Plugins.instance().class_name_to_class if "resumable" in name]
        print(found())
        from cairn.hydra.sweep import plugins
        plugins.register()
        print(sorted(name.rpartition(".")[2] for name in found()))
    """
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split("\n")[:2] == ["[]", "['LocalLauncher', 'SlurmLauncher']"]


def test_without_submitit_nothing_is_registered(monkeypatch):
    monkeypatch.setattr(plugins, "is_installed", lambda: False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != plugins.FOLDER])
    plugins.register()
    assert plugins.FOLDER not in sys.path


def test_a_job_finds_the_launcher_that_it_unpickles(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    plugins.register()
    assert os.environ["PYTHONPATH"] == f"{plugins.FOLDER}{os.pathsep}somewhere"
