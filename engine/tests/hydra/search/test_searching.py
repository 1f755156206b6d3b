"""A whole search through Hydra, with a launcher whose jobs take no time and leave what a run leaves."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException, HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import read_write
from tests.support.searches import EPOCHS, PER_EPOCH, Killed, score_of
from tests.support.searches import search as made_search

from cairn.hydra.search import jobs as searching_jobs
from cairn.hydra.search import plugins, searching
from cairn.hydra.sweep import job_name
from cairn.jobs.signals import Interruption
from cairn.run.directory import RunDirectory
from cairn.search import state
from cairn.search.state import Trial

pytest.importorskip("optuna")

TRAIN = """\
hydra: { searchpath: ["pkg://cairn.hydra.configs"] }
defaults:
  - cairn
  - _self_
  - override hydra/sweeper: halving
task_name: toy
optimized_metric: val/loss
trainer: { max_epochs: 9, max_steps: -1 }
checkpoint: { dirpath: "${paths.output_dir}/checkpoints", monitor: val/loss, mode: min }
lr: 0.1
drop: 0.0
"""
VARIED = ["lr=tag(log, interval(1e-4, 1e-1))", "drop=interval(0, 0.5)"]
FEW = ["hydra.sweeper.num_trials=4", "hydra.sweeper.eta=2", "hydra.sweeper.rungs=[1ep,3ep]"]
BATCHES = PER_EPOCH * (4 * 1 + 2 * 2 + 1 * 6)


class Jobs:
    """A launcher whose jobs are done at once."""

    def __init__(self):
        self.launches, self.num_batches, self.fails, self.dies_after = [], 0, set(), math.inf

    def setup(self, context, config):
        self.context, self.config = context, config
        return self

    def launch(self, job_overrides, initial_job_idx):
        # Not composed: that takes a tenth of a second for each job.
        jobs = [dict(item.lstrip("+").split("=", 1) for item in job) for job in job_overrides]
        self.launches.append(jobs)
        return [self._job(job, number) for number, job in enumerate(jobs, start=initial_job_idx)]

    def _job(self, job, number):
        if self.dies_after == 0:
            raise Killed
        self.dies_after -= 1
        run = RunDirectory(where(self) / job["hydra.sweep.subdir"].strip("'"))
        run.path.mkdir(parents=True, exist_ok=True)
        stop = job.get("pause_at")
        total = EPOCHS * PER_EPOCH if stop is None else int(stop.removesuffix("ep")) * PER_EPOCH
        file = run.progress_file
        before = json.loads(file.read_text())["total_batches"] if file.is_file() else 0
        assert before < total, "no trial is launched where it has been"
        self.num_batches += total - before
        facts = {"epoch": total // PER_EPOCH - 1, "batch": PER_EPOCH, "total_batches": total, "step": total}
        file.write_text(json.dumps({**facts, "elapsed_s": 1.0, "at": 0.0, "batches_per_epoch": PER_EPOCH}))
        run.start("toy", (), f"checkpoint: {{dirpath: {run.path}}}\npaths: {{output_dir: {run.path}}}\n", "toy")
        if number in self.fails:
            run.end("failed", "it broke\nhere")
            return JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError("it broke"))
        run.end(
            "finished" if stop is None else "paused",
            stop or "",
            score_of({"drop": 0.0} | {key: float(job[key]) for key in ("lr", "drop") if key in job}, total),
        )
        return JobReturn(status=JobStatus.COMPLETED)


@pytest.fixture
def jobs(monkeypatch):
    made = Jobs()
    monkeypatch.setattr(
        Plugins,
        "instantiate_launcher",
        lambda self, hydra_context, task_function, config: made.setup(hydra_context, config),
    )
    return made


@pytest.fixture
def search(tmp_path, monkeypatch, jobs):
    """Run a command; return the search."""
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text(TRAIN)
    plugins.register()
    job_name.register()
    count = [0]

    def run(*overrides, kind="halving"):
        count[0] += 1
        is_named = any("hydra.sweep.dir" in item for item in overrides)
        with initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration("train", list(overrides), RunMode.MULTIRUN)
            HydraConfig.instance().set_config(config)
            if not is_named:  # each command has a time of its own
                with read_write(config.hydra):
                    config.hydra.sweep.dir = str(tmp_path / "multiruns" / str(count[0]))
            given = {key: value for key, value in config.hydra.sweeper.items() if key != "_target_"}
            made = searching.Searching(kind, given, HydraContext(loader, None), lambda cfg: None, config)
            try:
                return made.run()
            finally:
                made._lock.close()

    return run


def where(jobs):
    return Path(jobs.config.hydra.sweep.dir)


def test_survivors_go_on_in_their_directories(search, jobs, capsys):
    found = search(*VARIED, *FEW, "trainer.max_epochs=9")
    assert jobs.num_batches == BATCHES
    directories = [[job["hydra.sweep.subdir"].strip("'") for job in launch] for launch in jobs.launches]
    names = [trial.directory for trial in found.trials]
    assert {name for launch in directories for name in launch} == set(names)
    assert len(set(names)) == 4
    assert all(name.startswith("drop=") and ",lr=" in name and name.count("=") == 2 for name in names), "what differs"
    assert [job.get("pause_at") for launch in jobs.launches for job in launch] == ["1ep"] * 4 + ["3ep"] * 2 + [None]
    (winner,) = [trial for trial in found.trials if trial.state == "finished"]
    assert state.read(where(jobs)) == found
    results = yaml.safe_load((where(jobs) / "optimization_results.yaml").read_text())
    assert results == {"name": "halving", "best_params": winner.parameters, "best_value": winner.score}
    assert (where(jobs) / "multirun.yaml").is_file()
    shown = capsys.readouterr().out
    assert f"{BATCHES} batches; all trials to their end: {4 * EPOCHS * PER_EPOCH}" in shown
    assert f"lr={winner.parameters['lr']}" in shown.replace("\n", "")


def test_a_search_that_was_killed_goes_on_with_the_same_command(search, jobs):
    jobs.dies_after = 5
    with pytest.raises(Killed):
        search(*VARIED, *FEW)
    killed = where(jobs)
    jobs.dies_after = math.inf
    found = search(*VARIED, *FEW)
    assert where(jobs) == killed
    assert jobs.num_batches == BATCHES
    assert found.state == "finished"
    assert len(jobs.launches) == 4 + 2 + 1 + 1
    again = search(*VARIED, *FEW)
    assert where(jobs) != killed, "a finished search is over"
    assert [trial.parameters for trial in again.trials] == [trial.parameters for trial in found.trials]


def test_a_finished_search_in_its_directory_says_so(search, jobs, tmp_path, caplog, capsys):
    """A failed trial is a failed trial, and not the end of the search."""
    caplog.set_level("INFO")
    jobs.fails = {2}
    here = f"hydra.sweep.dir={tmp_path / 'mine'}"
    found = search(*VARIED, *FEW, here)
    assert [(trial.number, trial.error) for trial in found.trials if trial.state == "failed"] == [(2, "it broke")]
    assert "failed: it broke. See" in capsys.readouterr().out
    num_launches = len(jobs.launches)
    assert search(*VARIED, *FEW, here) == found
    assert len(jobs.launches) == num_launches
    assert "This search is finished" in caplog.text


def test_a_search_in_which_all_trials_fail_is_an_error(search, jobs):
    jobs.fails = set(range(4))
    with pytest.raises(CompactHydraException, match=r"No trial has a score\. it broke\."):
        search(*VARIED, *FEW)


def test_a_search_without_rungs(search, jobs):
    found = search(*VARIED, FEW[0], "hydra/sweeper=optuna", kind="optuna")
    assert {trial.state for trial in found.trials} == {"finished"}
    assert jobs.num_batches == 4 * EPOCHS * PER_EPOCH


def test_parameters_from_a_file(search, jobs):
    found = search("lr=0.01", *FEW, "+hydra.sweeper.params.drop='range(0, 0.35, 0.1)'", "hydra.sweeper.sampler=grid")
    assert sorted(trial.parameters["drop"] for trial in found.trials) == [0.0, 0.1, 0.2, 0.3]
    assert {job["lr"] for launch in jobs.launches for job in launch} == {"0.01"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lr=0.1"], "has nothing to vary"),
        ([*VARIED, "hydra.sweeper.sampler=best"], "hydra.sweeper.sampler='best' must be tpe"),
        ([*VARIED, "hydra.sweeper.eta=1"], "hydra.sweeper.eta=1 must be an integer from 2"),
        ([*VARIED, "hydra.sweeper.num_trials=0"], "hydra.sweeper.num_trials=0 must be an integer from 1"),
        ([*VARIED, "hydra.sweeper.num_trials=null"], "only sampler=grid knows"),
        ([*VARIED, "hydra.sweeper.rungs=[3ep,1ep]"], "1ep does not come after 3ep"),
        ([*VARIED, "hydra.sweeper.rungs=[0.5ep,3ep]"], "hydra.sweeper.rungs: trials would have no val/loss"),
        ([*VARIED, "hydra.sweeper.losers=some"], "hydra.sweeper.losers='some' must be best"),
        ([*VARIED, "hydra.sweeper.schedule=slow"], "hydra.sweeper.schedule='slow' must be halving or hyperband"),
        ([*VARIED, "optimized_metric=null"], "needs optimized_metric=METRIC"),
        ([*VARIED, "optimized_metric=val/acc"], "Set hydra.sweeper.mode=min or max"),
        ([*VARIED, "pause_at=3ep"], "a search pauses its trials itself"),
        ([*VARIED, "trainer.max_epochs=-1"], "needs the length of a run"),
        ([*VARIED, "hydra.sweep.subdir=same"], "would both have the directory same"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(search, jobs, overrides, message):
    with pytest.raises(CompactHydraException, match=message):
        search(*overrides)


def test_two_commands_for_one_search_are_refused(search, jobs, tmp_path, monkeypatch):
    def taken(directory, patience_s):
        raise searching.place.ResumeError("taken")

    monkeypatch.setattr(searching.place.lock, "take", taken)
    with pytest.raises(CompactHydraException, match="This search is running already, in"):
        search(*VARIED, *FEW)


def test_a_job_that_ends_where_it_was_is_launched_again(search, jobs):
    """The job of the last rung may have been at its end still, when its search was repeated."""
    real, calls = jobs.launch, []

    def late(job_overrides, initial_job_idx):
        calls.append(len(job_overrides))
        if len(calls) in (5, 6):  # the first launches of the second rung
            return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]
        return real(job_overrides, initial_job_idx)

    jobs.launch = late
    found = search(*VARIED, *FEW)
    assert replace(found, trials=()).state == "finished"
    assert not [trial for trial in found.trials if trial.state == "failed"]
    assert jobs.num_batches == BATCHES


def test_a_search_that_was_killed_while_it_shows_its_results_is_not_begun_again(search, jobs, monkeypatch):
    real = searching.results.show

    def dies(*args):
        raise Killed

    monkeypatch.setattr(searching.results, "show", dies)
    with pytest.raises(Killed):
        search(*VARIED, *FEW)
    ended, num_launches = where(jobs), len(jobs.launches)
    monkeypatch.setattr(searching.results, "show", real)
    found = search(*VARIED, *FEW)
    assert (where(jobs), len(jobs.launches)) == (ended, num_launches)
    assert state.read(ended) == found
    assert found.state == "finished"


def test_a_trial_that_another_process_still_trains_is_waited_for(search, jobs, monkeypatch, caplog):
    """A job of a command that was killed before it had noted the job."""
    caplog.set_level("INFO")
    real, busy, calls = jobs.launch, [], []

    def refused(job_overrides, initial_job_idx):
        calls.append(initial_job_idx)
        if len(calls) == 1:
            busy.extend([True, True])
            return [JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError("Another process trains"))]
        return real(job_overrides, initial_job_idx)

    jobs.launch = refused
    monkeypatch.setattr(searching_jobs.directory_lock, "is_held_elsewhere", lambda path: bool(busy) and busy.pop())
    monkeypatch.setattr(searching_jobs, "_POLL_S", 0.0)
    found = search(*VARIED, *FEW)
    assert not [trial for trial in found.trials if trial.state == "failed"]
    assert "Trial 0: another process trains it. Waiting for its end." in caplog.text
    assert calls[:3] == [0, 0, 1]


def test_an_option_that_does_not_exist_is_refused_before_any_trial(search, jobs, tmp_path):
    for name in ("mlp", "cnn"):
        (tmp_path / "configs" / "net").mkdir(exist_ok=True)
        (tmp_path / "configs" / "net" / f"{name}.yaml").write_text("width: 8\n")
    with pytest.raises(HydraException, match="net/rnn"):
        search("lr=0.1", "+net=mlp,cnn,rnn", *FEW)
    with pytest.raises(HydraException, match="depth"):
        search("lr=0.1", "+net=mlp,cnn", "net.depth=1,2", *FEW)
    assert not jobs.launches
    assert len(search("lr=0.1", "+net=mlp,cnn", "net.width=1,2", *FEW).trials) == 4


def test_a_new_trial_never_has_the_directory_of_an_earlier_command(search, jobs, monkeypatch):
    same = [*VARIED, *FEW, "hydra.sweep.subdir=at-${drop}"]
    dies = [True]

    def ask(space, now):
        if now.trials and dies and dies.pop():
            raise Killed
        return {"lr": 0.1 / (1 + len(now.trials)), "drop": 0.5}

    monkeypatch.setattr(searching.sampler, "ask", ask)
    with pytest.raises(Killed):
        search(*same)
    with pytest.raises(CompactHydraException, match=r"Trials 0 and 1 would both have the directory at-"):
        search(*same)


def test_a_failed_trial_is_not_the_best():
    ended = Trial(0, "a", {"lr": 0.1}, "stopped").reaches(0, 0.3, 1, 5)
    failed = Trial(1, "b", {"lr": 0.2}, "failed").reaches(0, 0.1, 1, 5)
    found = made_search(parameters={"lr": {}}, trials=(ended, failed))
    assert searching.results.best(found) == ended


def test_a_trial_that_leaves_the_process_is_a_failed_trial(search, jobs):
    """With Hydra's own launcher, each trial runs in the process of the search."""
    real = jobs.launch

    def leaves(job_overrides, initial_job_idx):
        assert len(job_overrides) == 1
        if initial_job_idx == 2:
            raise SystemExit(3)
        return real(job_overrides, initial_job_idx)

    jobs.launch = leaves
    found = search(*VARIED, *FEW, "hydra.sweeper.parallel=4")
    failed = [(trial.number, trial.error) for trial in found.trials if trial.state == "failed"]
    assert failed == [(2, "it has called sys.exit(3) before its end")]

    def stopped(job_overrides, initial_job_idx):
        raise Interruption("SIGTERM")

    jobs.launch = stopped
    with pytest.raises(Interruption):
        search(*VARIED, *FEW)


def test_the_order_of_the_overrides_of_a_repeated_command_does_not_matter(search, jobs):
    undisturbed = search(*VARIED, *FEW)
    jobs.dies_after = 1
    with pytest.raises(Killed):
        search(*VARIED, *FEW)
    jobs.dies_after = math.inf
    found = search(*FEW, *reversed(VARIED))
    assert [trial.parameters for trial in found.trials] == [trial.parameters for trial in undisturbed.trials]
