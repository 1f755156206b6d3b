"""What became of the jobs of a sweep: nothing is believed before a job is over, and nothing is waited for in vain."""

import inspect
import signal
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import cloudpickle
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from submitit.core.utils import JobPaths, temporary_save_path
from submitit.local.local import Controller
from tests.support.paths import ROOT

from cairn.hydra import launcher
from cairn.hydra.job_name import register
from cairn.hydra.launcher import Job, JobFailed, Resumable
from cairn.jobs import slurm
from cairn.runs import attempts
from cairn.runs.directory import RunDirectory
from cairn.runs.ledger import Entry
from hydra_plugins import resumable_submitit
from hydra_plugins.resumable_submitit import LocalConf, LocalLauncher, SlurmLauncher


class Scene:
    """One job of a sweep, and a clock that goes on, and has something happen, whenever the launcher sleeps."""

    def __init__(self, folder, monkeypatch):
        self.run = RunDirectory(folder / "run")
        self.entry = Entry("run", "slurm", "12_0")
        self.entries = {"run": self.entry}
        self.resumable = Resumable(submitit_folder=str(folder / ".submitit" / "%j"))
        self.paths = self.resumable._paths(self.entry)
        self.paths.folder.mkdir(parents=True)
        self.now, self.alive, self.events = 0.0, True, []
        monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(launcher, "states", self._states)

    def _states(self, entries):
        if self.alive is None:
            raise slurm.SlurmError("no controller")
        return {entry.job: "RUNNING" for entry in entries if self.alive}

    def _sleep(self, seconds):
        self.now += seconds
        assert self.now < 1000, "it waits for ever"
        if self.events:
            self.events.pop(0)()

    def then(self, *events):
        """What happens, one after the other."""
        self.events = list(events)
        return self

    def lives(self, alive):
        return lambda: setattr(self, "alive", alive)

    def writes(self, outcome, value):
        """The pickle of submitit."""
        self.paths.result_pickle.write_bytes(cloudpickle.dumps((outcome, value)))

    def records(self, status, why="", result=None, job="12_0"):
        """The run's own record."""
        self.run.path.mkdir(exist_ok=True)
        attempts.note(self.run, self.run.record(), None, job)
        self.run.start("task", (), "checkpoint: {}\n")
        self.run.end(status, why, result)

    def collect(self):
        job = Job(0, ("a=1",), self.run, "a=1")
        return self.resumable._collect([job], self.run.path.parent, self.entries)[0]


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
    assert scene.now < 10, "it is told at once"


def test_a_result_lies_where_the_job_was_submitted_whatever_the_folder_is_today(scene, tmp_path):
    scene.alive = False
    folder = str(tmp_path / "before" / "%j")
    scene.entries["run"] = Entry("run", "slurm", "12_0", folder)
    scene.paths = JobPaths(folder, "12_0", 0)
    scene.paths.folder.mkdir(parents=True)
    scene.writes("success", SUCCESS)
    assert scene.collect().return_value == 0.5


def test_a_job_that_is_requeued_is_waited_for(scene):
    stopped = lambda: scene.records("stopped", "SIGUSR2")  # noqa: E731
    ends = lambda: scene.writes("success", SUCCESS)  # noqa: E731
    result = scene.then(stopped, scene.lives(False), scene.lives(True), *[lambda: None] * 30, ends, scene.lives(False))
    assert result.collect().return_value == 0.5


def test_an_error_of_an_attempt_is_not_believed_while_the_job_lives_again(scene):
    scene.writes("error", TRACE)
    scene.records("failed", "RuntimeError: something broke")
    ends = lambda: scene.writes("success", SUCCESS)  # noqa: E731
    assert scene.then(*[lambda: None] * 30, ends, scene.lives(False)).collect().return_value == 0.5


def test_nothing_is_believed_while_the_scheduler_does_not_answer(scene, caplog):
    scene.alive = None
    scene.writes("error", TRACE)
    ends = lambda: scene.writes("success", SUCCESS)  # noqa: E731
    assert scene.then(*[lambda: None] * 30, ends, scene.lives(False)).collect().return_value == 0.5
    assert "no controller" in caplog.text


def test_a_failure_is_told_as_the_run_tells_it(scene):
    scene.alive = False
    scene.writes("error", TRACE)
    scene.records("failed", "The data are not here: fetch them.\nMore.")
    text = failure(scene.collect())
    assert "#0 a=1 failed: The data are not here: fetch them. See" in text
    assert scene.now < 10


def test_a_failure_of_another_job_in_the_same_directory_is_not_this_one(scene):
    scene.alive = False
    scene.writes("error", TRACE)
    scene.records("failed", "an old story", job="11")
    assert "failed: RuntimeError: something broke. See" in failure(scene.collect())


def test_a_failure_before_the_run_has_begun(scene):
    scene.alive = False
    scene.writes("error", TRACE)
    text = failure(scene.collect())
    assert f"failed: RuntimeError: something broke. See {scene.paths.stdout}" in text


def test_killed_without_a_result(scene):
    scene.records("running")
    text = failure(scene.then(scene.lives(False)).collect())
    assert "it has ended without a result, and its run is running" in text
    assert scene.now > launcher._LATE_S


def test_it_never_began(scene):
    scene.alive = False
    assert "its run is not begun" in failure(scene.collect())


def test_a_result_that_comes_late(scene):
    scene.alive = False
    scene.records("running")
    assert scene.then(lambda: None, lambda: scene.writes("success", SUCCESS)).collect().return_value == 0.5


@pytest.mark.parametrize("damage", [False, True])
def test_a_finished_run_without_a_readable_result(scene, damage):
    scene.alive = False
    scene.records("finished", result=0.25)
    if damage:
        scene.paths.result_pickle.write_bytes(b"\x80")
    assert scene.collect().return_value == 0.25


def test_a_record_that_is_damaged_does_not_end_the_wait(scene):
    scene.alive = False
    scene.records("running")
    scene.run.record_file.write_text("{")
    assert "not readable" in failure(scene.collect())


def test_a_job_that_nobody_has_noted(scene):
    scene.entries.clear()
    assert "which job of the scheduler it is was not noted" in failure(scene.collect())


@pytest.mark.parametrize(("scheduler", "is_seldom"), [("slurm", True), ("local", False)])
def test_a_controller_is_asked_seldom_when_the_wait_is_long_and_this_machine_as_often_as_ever(
    scene, scheduler, is_seldom
):
    scene.entries["run"] = replace(scene.entry, scheduler=scheduler)
    pauses = []
    ends = lambda: scene.writes("success", SUCCESS)  # noqa: E731
    scene.then(*[lambda: pauses.append(scene.now)] * 60, ends, scene.lives(False)).collect()
    steps = [after - before for before, after in pairwise(pauses)]
    assert (steps[0], max(steps) > 10) == (launcher._POLL_S, is_seldom)
    assert is_seldom or set(steps) == {launcher._POLL_S}


def test_ctrl_c_stops_the_local_jobs_of_this_command_and_no_others(tmp_path, monkeypatch):
    entries = {
        "mine": Entry("mine", "local", "11"),
        "ended": Entry("ended", "local", "12"),
        "of another command": Entry("of another command", "local", "13"),
        "on slurm": Entry("on slurm", "slurm", "14"),
    }
    killed = []

    def kill(pid, number):
        killed.append((pid, number))
        if pid == 12:
            raise ProcessLookupError

    monkeypatch.setattr(resumable_submitit, "states", lambda found: {entry.job: "RUNNING" for entry in found})
    monkeypatch.setattr(resumable_submitit.os, "kill", kill)
    jobs = [
        Job(at, (), RunDirectory(tmp_path / name), "") for at, name in enumerate(["mine", "ended", "on slurm", "new"])
    ]
    LocalLauncher()._interrupted(jobs, tmp_path, entries)
    assert killed == [(11, signal.SIGTERM), (12, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("timeout_min", "save_s", "expected", "said"),
    [
        (60, 0.0, 120, ""),
        (60, 100.0, 300, "Saves take long here"),
        (2, 0.0, 60, "The time limit of 2 min is short: SLURM's signal comes 60 s before it and not 120 s"),
        (4, 100.0, 120, "comes 120 s before it and not 300 s"),
    ],
)
def test_the_signal_comes_early_enough_for_a_save_and_not_before_the_job_has_trained(
    monkeypatch, caplog, timeout_min, save_s, expected, said
):
    for name in ("PYTHONPATH", "PROJECT_ROOT"):
        monkeypatch.setenv(name, "x")
    caplog.set_level("INFO")
    slurm_launcher = SlurmLauncher(timeout_min=timeout_min, signal_delay_s=120, setup=None)
    slurm_launcher.save_s = save_s
    assert slurm_launcher._parameters()["signal_delay_s"] == expected
    assert said in caplog.text


def test_a_time_limit_of_a_local_job_is_not_its_end():
    starts = inspect.signature(Controller.run).parameters["max_retry"].default
    assert starts == 6, "LocalConf says so"
    assert LocalConf().max_num_timeout >= starts, "else a job would fail before"


@pytest.mark.parametrize("key", ["num", "id"])
def test_directories_may_be_named_by_the_number_of_the_job(tmp_path, key):
    register()
    where = [f"hydra.sweep.dir={tmp_path}", f"hydra.sweep.subdir=${{hydra.job.{key}}}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        cfg = loader.load_configuration("train", where, RunMode.MULTIRUN)
        HydraConfig.instance().set_config(cfg)
        resumable = Resumable()
        resumable.config, resumable.hydra_context = cfg, SimpleNamespace(config_loader=loader)
        assert resumable._job(("seed=1",), 3, set()).run.path == tmp_path / "3"


def test_what_a_kill_has_left_of_a_requeue_does_not_stop_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "_own_paths", lambda: JobPaths(tmp_path, "12_0"))
    monkeypatch.setattr(launcher.signal, "signal", lambda number, handler: None)
    torn = tmp_path / "12_0_submitted.pkl.save_tmp"
    torn.write_bytes(b"")
    again = Resumable().checkpoint("argument")
    assert again.args == ("argument",)
    with temporary_save_path(tmp_path / "12_0_submitted.pkl") as place:
        again.dump(place)
