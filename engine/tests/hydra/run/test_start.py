"""What a start of a run decides before anything is built, and what it writes."""

import json
import logging
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from tests.support.values import commit

from cairn.errors import CheckpointError, ConfigError, ResumeError
from cairn.hydra import command_line
from cairn.hydra.compose.merge import Merged
from cairn.hydra.run import provenance
from cairn.hydra.run import start as starting
from cairn.hydra.run.start import JobContext, NothingToDo, Start, begin, follow
from cairn.jobs.rendezvous import Rank
from cairn.run import attempts
from cairn.run.directory import RunDirectory, RunRecord
from cairn.store import claim, resume
from cairn.store.resume import ResumePoint


class Notice:
    """Keeps what the other processes would receive."""

    def __init__(self):
        self.facts, self.rank = None, Rank()

    def announce(self, facts):
        self.facts = facts


@pytest.fixture
def config(tmp_path):
    """Of a run without checkpoints."""
    group = {"dirpath": str(tmp_path / "run/checkpoints"), "mode": "min", "triggers": {}, "keep": {}}
    return {"task_name": "toy", "seed": 0, "train": True, "data": {}, "model": {}, "trainer": {}, "checkpoint": group}


@pytest.fixture
def directory(tmp_path):
    found = RunDirectory(tmp_path / "run")
    yield found
    if hasattr(found, "_lock"):
        found.unlock()


@pytest.fixture
def notice():
    return Notice()


def planned(monkeypatch, directory, **saved):
    """Let the run have a checkpoint."""
    path = directory.path / "checkpoints" / "a.ckpt"
    plan = ResumePoint(path, SimpleNamespace(**{"elapsed_s": 0.0, "run": "r1", **saved}))
    monkeypatch.setattr(resume, "find_resume_point", lambda *_: plan)
    monkeypatch.setattr(starting.MappedCheckpointIO, "peek", lambda self, _: {"epoch": 3})
    monkeypatch.setattr(attempts, "note", lambda *_: None)
    return path


def test_a_new_run_is_recorded_and_the_other_processes_are_informed(config, directory, notice):
    start = begin(OmegaConf.create(config), directory, ("seed=0",), notice, JobContext())
    record = directory.record()
    assert (record.status, record.overrides, start.run_id) == ("running", ("seed=0",), record.id)
    assert notice.facts == {"config": str(directory.config_file), "run": record.id, "start": None, "pause_at": None}
    assert command_line.announced()[1] == notice.facts
    theirs = follow(**notice.facts, context=JobContext())
    assert (theirs.run_id, theirs.settings.seed, theirs.plan.path) == (record.id, 0, None)
    assert start.is_main
    assert not theirs.is_main


def test_each_start_records_the_commit_of_the_code(config, directory, notice, monkeypatch):
    monkeypatch.setattr(provenance, "project_commit", lambda: "abc+")
    begin(OmegaConf.create(config), directory, ("seed=0",), notice, JobContext())
    assert [attempt.git for attempt in attempts.read(directory)] == ["abc+"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seed": -1}, ConfigError, "seed=-1"),
        ({"ckpt_path": "gone.ckpt"}, CheckpointError, "There is no checkpoint gone.ckpt"),
        ({"train": False}, ConfigError, "has no weights to test: set ckpt_path="),
    ],
)
def test_a_refusal_writes_nothing(config, directory, notice, changes, error, message):
    with pytest.raises(error, match=message):
        begin(OmegaConf.create({**config, **changes}), directory, (), notice, JobContext())
    assert not directory.record_file.exists()
    assert notice.facts is None


def test_a_key_of_checkpoint_that_nothing_reads_is_named(config, directory, notice, caplog):
    config["checkpoint"] |= {"save_intervall": 5, "mine": 3, "mirror_wait": "${checkpoint.mine}"}
    begin(OmegaConf.create(config), directory, (), notice, JobContext())
    warnings = [record.getMessage() for record in caplog.records if "nothing reads" in record.getMessage()]
    assert warnings == ["checkpoint.save_intervall: nothing reads this key. Did you mean checkpoint.save_interval?"]


def test_checkpoints_of_an_unknown_run_are_refused(monkeypatch, config, directory, notice):
    planned(monkeypatch, directory)
    with pytest.raises(ResumeError, match=r"holds checkpoints, but .* has no run\.json, so .* ckpt_path="):
        begin(OmegaConf.create(config), directory, (), notice, JobContext())


@pytest.fixture
def stopped(monkeypatch, config, directory):
    """A run that was stopped, and a command that resumes it with changes."""

    def resumes(status="stopped", changed=(), why="", **changes):
        record = RunRecord("r1", "toy", status=status, why=why, result=0.5)
        directory.path.mkdir(exist_ok=True)
        directory.record_file.write_text(json.dumps(asdict(record)))
        merged = Merged(OmegaConf.create({**config, **changes}), dict.fromkeys(changed, (1, 2)), {}, {})
        monkeypatch.setattr(starting, "_configuration", lambda *_: (merged, record))

    return resumes


def test_a_finished_run_returns_its_result_and_trains_only_if_something_changes(
    stopped, config, directory, notice, caplog
):
    caplog.set_level(logging.INFO)
    stopped(status="finished")
    assert begin(OmegaConf.create(config), directory, (), notice, JobContext()) == NothingToDo(0.5)
    assert "This run is finished" in caplog.text
    stopped(status="finished", changed=["trainer.max_epochs"])
    assert isinstance(begin(OmegaConf.create(config), directory, (), notice, JobContext()), Start)


@pytest.mark.parametrize(
    ("elapsed_s", "status", "why", "expected"),
    [
        (3600.0, "stopped", "max_time", NothingToDo),
        (3599.0, "stopped", "max_time", Start),
        (3600.0, "running", "", Start),
        (3600.0, "stopped", "SIGTERM", Start),
    ],
)
def test_a_run_that_has_used_up_its_time_has_ended_unless_it_was_killed_before_its_test(
    monkeypatch, stopped, config, directory, notice, elapsed_s, status, why, expected
):
    planned(monkeypatch, directory, elapsed_s=elapsed_s)
    stopped(status, why=why, trainer={"max_time": "1h"})
    found = begin(OmegaConf.create(config), directory, (), notice, JobContext())
    assert isinstance(found, expected)
    if expected is NothingToDo:
        assert found.result == 0.5


def test_a_run_beyond_its_last_epoch_is_refused_and_keeps_its_record(monkeypatch, stopped, config, directory, notice):
    planned(monkeypatch, directory)
    stopped(trainer={"max_epochs": 2})
    before = directory.record_file.read_text()
    with pytest.raises(ResumeError, match=r"max_epochs=2"):
        begin(OmegaConf.create(config), directory, (), notice, JobContext())
    assert directory.record_file.read_text() == before


def test_a_run_in_the_directory_of_another_run_is_refused_and_changes_nothing(
    monkeypatch, stopped, config, directory, notice
):
    planned(monkeypatch, directory, run="r2")
    stopped()
    before = {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"holds checkpoints of another run \(r2\)"):
        begin(OmegaConf.create(config), directory, (), notice, JobContext())
    after = {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}
    assert {path.name: after[path] for path in after.keys() - before.keys()} == {".lock": b""}
    assert before.items() <= after.items()


def test_the_log_says_what_the_run_resumes_from_and_what_has_changed(
    monkeypatch, stopped, config, directory, notice, caplog
):
    caplog.set_level(logging.INFO)
    path = planned(monkeypatch, directory)
    stopped(changed=["trainer.max_time"])
    begin(OmegaConf.create(config), directory, (), notice, JobContext())
    assert f"Resuming from {path}" in caplog.text
    assert "Changed by this command: trainer.max_time (1 to 2)" in caplog.text


def test_a_run_without_a_checkpoint_starts_from_the_beginning(stopped, config, directory, notice, caplog):
    stopped()
    start = begin(OmegaConf.create(config), directory, (), notice, JobContext())
    assert start.plan.path is None
    assert "This run has no checkpoint yet" in caplog.text


@pytest.mark.parametrize("name", ["a${b c}.ckpt", "a\\${b}.ckpt"])
def test_the_other_processes_read_the_configuration_as_it_was_written(config, directory, notice, name):
    directory.start("toy", (), OmegaConf.to_yaml(OmegaConf.create(config)))
    written = directory.config_file.read_text().replace("seed: 0", f"seed: 0\nckpt_path: '{name}'\nrate: 1e-3")
    directory.config_file.write_text(written)
    settings = follow(str(directory.config_file), "r1", None, JobContext()).settings
    assert settings.ckpt_path == name
    assert settings.config.rate == directory.config()["rate"]


def test_an_override_that_only_the_new_command_can_do_without_is_named(monkeypatch, config, directory, caplog):
    directory.start("toy", ("experiment=gone", "seed=0", "a=1"), OmegaConf.to_yaml(OmegaConf.create(config)))

    def fails(overrides):
        raise starting.HydraException(f"Could not find {overrides[0]}")

    monkeypatch.setattr(starting, "_compose", fails)
    monkeypatch.setattr(starting, "_of_stored", lambda *_: (OmegaConf.create(config), OmegaConf.create(config)))
    monkeypatch.setattr(starting.merge, "follow_moved_paths", lambda own, now: own)
    starting._configuration(OmegaConf.create(config), directory, ("seed=0",))
    assert "still in effect for the run: experiment=gone a=1" in caplog.text


def test_scores_of_two_metrics_are_not_compared(tmp_path):
    changed = Merged(OmegaConf.create(), {"checkpoint.monitor": ("val/loss", "val/acc")}, {}, {})
    commit(tmp_path, 0, score=None)
    starting._check_ranking(changed, tmp_path)
    commit(tmp_path, 1, score=0.5)
    with pytest.raises(
        ConfigError, match=r"^checkpoint\.monitor=val/acc would rank .* scores are values of val/loss\."
    ):
        starting._check_ranking(changed, tmp_path)
    for group in ({}, {"checkpoint.monitor": ("val/loss", None)}):
        starting._check_ranking(Merged(OmegaConf.create(), group, {}, {}), tmp_path)


def test_a_pause_is_a_part_of_the_command_and_not_of_the_run(config, directory, notice):
    triggers = {"end": {"_target_": "cairn.AtEnd"}}
    given = {**config, "pause_at": " 3ep ", "checkpoint": {**config["checkpoint"], "triggers": triggers}}
    start = begin(OmegaConf.create(given), directory, ("seed=0", "++pause_at=3ep"), notice, JobContext())
    assert start.pause_at == notice.facts["pause_at"] == "3ep"
    assert directory.record().overrides == ("seed=0",)
    assert directory.config()["pause_at"] is None
    facts = {"config": str(directory.config_file), "run": "r1", "start": None}
    assert follow(**facts, context=JobContext(), pause_at="3ep").pause_at == "3ep"


@pytest.mark.parametrize(("value", "message"), [("soon", "pause_at='soon' is not a point"), ("3ep", "checkpoint=none")])
def test_a_pause_that_cannot_work_is_refused_before_anything_is_written(config, directory, notice, value, message):
    with pytest.raises(ConfigError, match=message):
        begin(OmegaConf.create({**config, "pause_at": value}), directory, (), notice, JobContext())
    assert directory.record() is None


def test_a_test_looks_into_the_mirror_of_its_own_configuration_only(monkeypatch, config, directory, notice):
    seen = []
    monkeypatch.setattr(starting.Mirrors, "join", lambda self, cfg: seen.append(cfg))
    monkeypatch.setattr(starting.evaluation, "configured", lambda cfg, *_: OmegaConf.create(config | {"seed": -1}))
    with pytest.raises(ConfigError, match="seed=-1"):
        begin(OmegaConf.create(config), directory, (), notice, JobContext())
    assert [cfg.seed for cfg in seen] == [-1]


def test_the_other_processes_take_part_in_a_test_of_a_run(monkeypatch, stopped, config, directory, notice):
    """With srun or torchrun, they would wait for the first process, and it for them."""
    path = planned(monkeypatch, directory)
    stopped(status="finished", changed=["train"], train=False, seed=7)
    directory.config_file.write_text("seed: 0\n")
    begin(OmegaConf.create(config), directory, (), notice, JobContext())
    assert (notice.facts["run"], notice.facts["start"]) == ("r1", str(path))
    assert directory.config_file.read_text() == "seed: 0\n", "that of the training"
    theirs = follow(**notice.facts, context=JobContext())
    assert (theirs.directory.path, theirs.plan.path) == (directory.path, path)
    assert (theirs.settings.seed, theirs.settings.train) == (7, False)


def test_a_start_that_was_killed_between_its_claim_and_its_record_is_gone_on_with(config, directory, notice):
    """Its claim would otherwise refuse each later start as another run."""
    config["checkpoint"]["triggers"] = {"end": {"_target_": "cairn.AtEnd"}}
    held = claim.take(directory.path / "checkpoints", "r7", str(directory.path))
    held.release()
    start = begin(OmegaConf.create(config), directory, (), notice, JobContext())
    assert (start.run_id, directory.record().id) == ("r7", "r7")
    start.claim.release()
