"""Checkpointer in short runs: what it saves, when, under which names, and how a run ends."""

import csv
import errno
import functools
import json
import logging
import math
import os
import random
import re
import signal
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from tests.support import toy
from tests.support.disk import Disk
from tests.support.equality import differences, outcome
from tests.support.runs import Scored, fit, policy, prepare
from tests.support.toy import BATCH_SIZE, Cell, PointData, StreamData, Toy
from tests.support.values import drop_manifest, flip_byte, names_of
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, MetricTracker

from cairn.account import clock as clock_module
from cairn.errors import CairnError, ConfigError, ResumeError, SaveError
from cairn.jobs.signals import Interrupts
from cairn.lightning import capture, decision, versions
from cairn.lightning.interrupts import WatchTraining
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.lightning.loops.calls import Stopped
from cairn.lightning.saved.hyperparameters import _warn
from cairn.policy import pause
from cairn.policy.keep import Best, Latest
from cairn.policy.when import AtEnd, BestValidation, Every, OnStop
from cairn.store import disk as disk_module
from cairn.store import names, resume
from cairn.store.catalog import Catalog
from cairn.store.resume import ResumePoint
from cairn.writing import committing, copying, pipeline, writer

EVERY = {"interval": Every(1)}
BEST = {"triggers": {"best": BestValidation()}, "rules": {"best": Best()}, "monitor": "val/score"}
ALL = {"rules": {"all": Latest(-1)}}


def at_batch(batch, epoch=0):
    return f"epoch_{epoch:03d}_batch_{batch:06d}.ckpt"


def plan_of(directory):
    return resume.find_resume_point(directory / "checkpoints")


def plain_trainer(directory, **options):
    """Return a trainer of Lightning, without Cairn."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    own = {"accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0, **quiet}
    return Trainer(default_root_dir=directory, **own, **options)


class After(Callback):
    """Callback that calls `do` once, after `num_batches` batches of the run."""

    def __init__(self, num_batches, do):
        self.num_batches, self.do, self.count = num_batches, do, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.count += 1
        if self.count == self.num_batches:
            self.do()


# What is saved


def test_all_reasons_of_a_step_share_one_file(tmp_path):
    triggers = {"interval": Every(8), "best": BestValidation(), "end": AtEnd(), "signal": OnStop()}
    run = fit(prepare(tmp_path, Scored([0.5]), policy(tmp_path, triggers=triggers, monitor="val/score")))
    assert [item.reasons for item in run.committed] == [("interval", "best", "end")]
    assert run.files == [names.BEST, at_batch(8), names.LAST]
    assert run.engine.telemetry.num_saves == 1


def test_without_triggers_nothing_is_written(tmp_path):
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path, triggers={})))
    assert not run.directory.joinpath("checkpoints").exists()
    assert (run.checkpoints.best_model_path, run.checkpoints.last_model_path) == ("", "")
    assert run.engine.telemetry.num_saves == 0


def test_the_manifest_describes_the_run(tmp_path):
    run = fit(prepare(tmp_path, Toy(), policy(tmp_path, monitor="val/loss"), run_id="abc", limit_train_batches=3))
    first, last = run.committed
    assert (first.score, last.score) == (None, last.metrics["val/loss"])
    assert {"train/loss_step", "val/loss", "val/lowest"} <= set(last.metrics)
    assert (last.run, last.number, last.position.samples) == ("abc", 2, 9)
    fields = json.loads((tmp_path / "checkpoints" / names.manifest_name(last.name)).read_text())
    assert fields["provenance"] == {"world_size": 1, "seed": 7, **versions.installed()}
    assert last.stall_s >= last.write_s > 0


def test_the_costs_of_all_saves_add_up(tmp_path):
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path, **ALL)))
    assert run.engine.telemetry.num_saves == 8
    assert run.engine.telemetry.meter.total_stall_s >= sum(item.stall_s for item in run.committed) > 0


def test_costs_count_over_all_attempts(tmp_path):
    module = Scored()
    stop = lambda save_s: "SIGTERM" if module.num_batches == 4 else None  # noqa: E731
    with pytest.raises(Stopped):
        fit(prepare(tmp_path, module, policy(tmp_path, **ALL), stop=stop))
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path, **ALL), plan=plan_of(tmp_path)))
    assert (run.module.num_batches, run.engine.telemetry.num_saves) == (4, 8)
    assert run.engine.telemetry.meter.total_stall_s >= sum(item.stall_s for item in run.committed) > 0


def test_lightning_reads_a_checkpoint_without_cairn(tmp_path):
    run = fit(prepare(tmp_path, Toy(lr=0.03), policy(tmp_path), limit_train_batches=3))
    path = tmp_path / "checkpoints" / names.LAST
    module = Toy.load_from_checkpoint(path, weights_only=True)
    assert module.hparams["lr"] == 0.03
    assert all(torch.equal(mine, run.module.state_dict()[name]) for name, mine in module.state_dict().items())
    assert torch.load(path, weights_only=True, mmap=True)["cairn"]["config"] == {"seed": 7}


def test_lightning_continues_from_a_checkpoint_without_cairn(tmp_path):
    fit(prepare(tmp_path, Scored(), policy(tmp_path)))
    module, trainer = Scored(), plain_trainer(tmp_path, max_epochs=2)
    path = str(tmp_path / "checkpoints" / names.LAST)
    trainer.fit(module, datamodule=PointData(batch_size=BATCH_SIZE, seed=3), ckpt_path=path, weights_only=True)
    assert (trainer.current_epoch, trainer.global_step, module.weight.item()) == (2, 16, 16)


@pytest.mark.parametrize(
    ("collated", "samples"),
    [
        (lambda x, y, paths: [x, y], 6),
        (lambda x, y, paths: {"x": x, "y": y}, 6),
        (lambda x, y, paths: {"paths": paths, "x": x}, 6),
        (lambda x, y, paths: (paths, {"deep": [x]}), 6),
        (lambda x, y, paths: x, 6),
        (lambda x, y, paths: {"mean": x.mean()}, 2),  # a tensor without a length is one sample
        (lambda x, y, paths: paths, 2),
    ],
)
def test_samples_are_counted_by_the_first_tensor_of_a_batch(tmp_path, collated, samples):
    class Data(PointData):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return collated(batch[0], batch[1], [f"{index}.png" for index in batch[2]])

    run = fit(prepare(tmp_path, Scored(), policy(tmp_path), limit_train_batches=2), Data(batch_size=BATCH_SIZE))
    assert run.committed[-1].position.samples == samples


# The best checkpoint, the last one, and which ones are kept

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "mode", "best", "kept"),
    [
        ([0.5, 0.3, 0.4, 0.6], "min", 4, [4]),
        ([0.5, 0.3, 0.4, 0.6], "max", 8, [8]),
        ([0.5, 0.5, 0.5, 0.5], "min", 2, [2]),
        ([NAN, 0.5, NAN, 0.4], "min", 8, [8]),
        ([0.5, NAN, -INF, 0.6], "min", 2, [2]),
        ([0.5, NAN, INF, 0.4], "max", 2, [2]),
    ],
)
def test_best_is_the_best_of_all_validations(tmp_path, scores, mode, best, kept):
    settings = policy(tmp_path, mode=mode, **BEST)
    run = fit(prepare(tmp_path, Scored(scores), settings, val_check_interval=2))
    folder = tmp_path / "checkpoints"
    assert names_of(run.committed) == [at_batch(batch) for batch in kept]
    assert (folder / names.BEST).readlink().as_posix() == at_batch(best)
    assert run.checkpoints.best_model_path == str(folder / at_batch(best))
    assert run.checkpoints.best_model_score.item() == pytest.approx(scores[best // 2 - 1])
    assert run.trainer.checkpoint_callback is run.checkpoints


def test_best_and_last_are_two_files_and_two_links(tmp_path):
    settings = policy(tmp_path, **{**BEST, "triggers": {**EVERY, **BEST["triggers"]}})
    run = fit(prepare(tmp_path, Scored([0.5, 0.3, 0.4, 0.6]), settings, val_check_interval=2))
    assert run.files == [names.BEST, at_batch(4), at_batch(8), names.LAST]
    assert run.checkpoints.best_model_path.endswith(at_batch(4))
    assert run.checkpoints.last_model_path.endswith(at_batch(8))
    assert (tmp_path / "checkpoints" / names.LAST).readlink().as_posix() == at_batch(8)


def test_without_any_finite_score_nothing_is_best(tmp_path):
    settings = policy(tmp_path, monitor="val/score")
    run = fit(prepare(tmp_path, Scored([NAN, INF, NAN, NAN]), settings, val_check_interval=2))
    assert run.files == [at_batch(7), at_batch(8), names.LAST]
    assert (run.checkpoints.best_model_path, run.checkpoints.best_model_score) == ("", None)
    for path in tmp_path.glob("checkpoints/*.json"):
        assert json.loads(path.read_text(), parse_constant=pytest.fail)["score"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"val_check_interval": 1},
        {"val_check_interval": 2, "accumulate_grad_batches": 2},
    ],
)
def test_a_score_belongs_to_the_weights_saved_with_it(tmp_path, options):
    settings = policy(tmp_path, monitor="val/weight", mode="max", **ALL)
    run = fit(prepare(tmp_path, Scored(), settings, **options))
    scored = [item for item in run.committed if item.score is not None]
    assert scored
    for item in scored:
        state = torch.load(tmp_path / "checkpoints" / item.name, weights_only=True)
        assert item.score == state["state_dict"]["weight"].item()


def test_ckpt_path_best_tests_the_best_weights(tmp_path):
    run = fit(prepare(tmp_path, Scored([0.5, 0.3, 0.4, 0.6]), policy(tmp_path, **BEST), val_check_interval=2))

    class Data(PointData):
        def setup(self, stage=None):
            super().setup(stage)
            self.test_set = self.val_set

    (scores,) = run.trainer.test(
        run.module, datamodule=Data(batch_size=3), ckpt_path="best", weights_only=True, verbose=False
    )
    assert scores == {"test/weight": 4.0}


def test_the_score_of_an_ema_run_belongs_to_the_averaged_weights(tmp_path):
    settings = policy(tmp_path, monitor="val/weight", **ALL)
    run = fit(prepare(tmp_path, Scored(), settings, callbacks=[EMAWeightAveraging(decay=0.5)], val_check_interval=4))
    scored = [item for item in run.committed if item.score is not None]
    for item in scored:
        state = torch.load(tmp_path / "checkpoints" / item.name, weights_only=True)
        assert item.score == pytest.approx(state["state_dict"]["weight"].item())


def test_a_directory_of_another_run_is_refused_and_not_changed(tmp_path):
    fit(prepare(tmp_path, Scored(), policy(tmp_path), run_id="first"))
    folder = tmp_path / "checkpoints"
    (folder / names.temp_name(at_batch(9))).write_text("half, and perhaps still being written")
    before = {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()}
    run = prepare(tmp_path, Scored(), policy(tmp_path), run_id="second")
    with pytest.raises(ConfigError, match=r"belongs to another run \(first, .*\): give each run a directory"):
        fit(run)
    assert run.module.num_batches == 0
    assert {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_start_removes_leftovers_of_a_killed_run_and_saves_again(tmp_path):
    fit(prepare(tmp_path, Scored(), policy(tmp_path, **ALL)))
    folder = tmp_path / "checkpoints"
    flip_byte(folder, at_batch(8))
    drop_manifest(folder, at_batch(7))
    (folder / names.temp_name(at_batch(9))).write_text("half")
    found = plan_of(tmp_path)
    assert found.saved.name == at_batch(6)
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path, **ALL), plan=found))
    assert run.module.num_batches == 2
    assert run.files == [*(at_batch(batch) for batch in range(1, 9)), names.LAST]
    assert [item.number for item in run.committed] == list(range(8))
    assert plan_of(tmp_path).rejected == ()
    assert run.engine.telemetry.num_saves == 8


# What is refused


class Refuses(Callback):
    """Callback that fails in one hook."""

    def __init__(self, hook):
        def fail(*args):
            raise ValueError("not like this")

        setattr(self, hook, fail)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
def test_a_start_that_is_refused_inside_of_fit_changes_nothing(tmp_path, hook):
    """Neither do the rules of the refused start delete anything, nor are rows after the checkpoint cut."""

    def prepared(limits, **options):
        logger = CSVLogger(tmp_path / "csv")
        return prepare(tmp_path, Scored(), policy(tmp_path, **limits), logger=logger, log_every_n_steps=1, **options)

    fit(prepared(ALL))
    flip_byte(tmp_path / "checkpoints", at_batch(8))
    (tmp_path / "checkpoints" / names.temp_name(at_batch(9))).write_text("half")

    def files():
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in tmp_path.rglob("*")}

    before, last = files(), {"rules": {"last": Latest(1)}}
    with pytest.raises(ValueError, match="not like this"):
        fit(prepared(last, plan=plan_of(tmp_path), callbacks=[Refuses(hook)]))
    changed = {path.name for path, found in files().items() if before.get(path) != found}
    assert changed <= {"checkpoints", ".claim", ".lock"}
    assert files().keys() == before.keys()
    run = fit(prepared(last, plan=plan_of(tmp_path)))
    assert run.files == [at_batch(8), names.LAST]


class Untrained(Scored):
    """Module that fails the test if it is trained."""

    def training_step(self, batch, batch_idx):
        raise AssertionError("the run must be refused before training starts")


def test_a_monitor_that_is_not_logged_is_refused_before_training(tmp_path):
    run = prepare(tmp_path, Untrained(), policy(tmp_path, monitor="val/loss"))
    with pytest.raises(
        ConfigError, match=r"monitor='val/loss' is not logged by a validation .*: val/score, val/weight"
    ):
        fit(run)
    assert run.files == []


def test_a_callback_that_cannot_be_resumed_is_refused_by_name(tmp_path):
    run = prepare(tmp_path, Untrained(), policy(tmp_path), callbacks=[StochasticWeightAveraging(0.1)])
    with pytest.raises(ConfigError, match=r"StochasticWeightAveraging cannot be resumed, .*EMAWeightAveraging"):
        fit(run)


def test_a_metric_that_cannot_be_resumed_is_refused_by_name(tmp_path):
    module = Untrained()
    module.tracker = MetricTracker(MeanMetric(), maximize=False)
    with pytest.raises(ConfigError, match="MetricTracker cannot be resumed"):
        fit(prepare(tmp_path, module, policy(tmp_path)))


@pytest.mark.parametrize("dirpath", ["file", "file/checkpoints"])
def test_a_directory_that_cannot_be_created_is_refused_before_training(tmp_path, dirpath):
    (tmp_path / "file").write_text("")
    with pytest.raises(CairnError, match="file"):
        fit(prepare(tmp_path, Untrained(), replace(policy(tmp_path), directory=tmp_path / dirpath)))


def test_a_share_of_an_epoch_needs_training_data_with_a_length(tmp_path):
    run = prepare(tmp_path, Scored(), policy(tmp_path, triggers={"interval": Every("0.25ep")}))
    with pytest.raises(ConfigError, match=r"interval='0\.25ep' needs training data with a length"):
        fit(run, StreamData(batch_size=BATCH_SIZE))


class Partial(Scored):
    """Module with a partial among its hyperparameters, as in a Hydra project."""

    def __init__(self, optimizer, lr=0.5):
        super().__init__()
        self.save_hyperparameters(logger=False)


def test_hyperparameters_without_a_plain_form_are_left_out_with_one_warning(tmp_path):
    _warn.cache_clear()
    run = prepare(tmp_path, Partial(functools.partial(torch.optim.SGD, lr=1.0)), policy(tmp_path, **ALL))
    with pytest.warns(UserWarning, match="leave out the hyperparameters optimizer") as warned:
        fit(run)
    assert len([item for item in warned if "leave out" in str(item.message)]) == 1
    assert run.engine.telemetry.num_saves > 1
    contents = torch.load(tmp_path / "checkpoints" / names.LAST, weights_only=True)
    assert contents["hyper_parameters"] == {"lr": 0.5}


class Unloadable(Scored):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = {"optimizer": functools.partial(torch.optim.SGD, lr=1.0)}


def test_state_that_could_not_be_loaded_is_refused_before_the_first_batch_by_its_key(tmp_path):
    run = prepare(tmp_path, Unloadable(), policy(tmp_path))
    with pytest.raises(ConfigError, match=r"checkpoint\['mine'\]\['optimizer'\] is a functools\.p"):
        fit(run)
    assert run.module.num_batches == 0
    assert run.files == []


def test_a_checkpoint_of_more_processes_is_refused(tmp_path):
    fit(prepare(tmp_path / "one", Scored(), policy(tmp_path / "one")))
    contents = torch.load(tmp_path / "one" / "checkpoints" / names.LAST, weights_only=True)
    contents["cairn"]["ranks"] *= 2
    torch.save(contents, tmp_path / "two.ckpt")
    run = prepare(tmp_path, Scored(), policy(tmp_path), plan=ResumePoint(tmp_path / "two.ckpt"), max_epochs=2)
    with pytest.raises(ResumeError, match=r"saved by 2 processes, but this run has 1, .*set global_batch_size=\d+"):
        fit(run)


def test_a_checkpoint_of_a_later_format_is_refused(tmp_path):
    fit(prepare(tmp_path / "one", Scored(), policy(tmp_path / "one")))
    contents = torch.load(tmp_path / "one" / "checkpoints" / names.LAST, weights_only=True)
    contents["cairn"]["format"] = 9
    torch.save(contents, tmp_path / "later.ckpt")
    run = prepare(tmp_path, Scored(), policy(tmp_path), plan=ResumePoint(tmp_path / "later.ckpt"), max_epochs=2)
    with pytest.raises(ResumeError, match=r"has format 9, but this version of Cairn reads formats up to 1"):
        fit(run)


def test_a_checkpoint_of_lightning_is_resumed_with_a_warning(tmp_path):
    trainer = plain_trainer(tmp_path, max_epochs=1)
    trainer.fit(Scored(), datamodule=PointData(batch_size=BATCH_SIZE, seed=3))
    trainer.save_checkpoint(tmp_path / "theirs.ckpt")
    run = prepare(tmp_path, Scored(), policy(tmp_path), plan=ResumePoint(tmp_path / "theirs.ckpt"), max_epochs=2)
    with pytest.warns(UserWarning, match="not written by Cairn: it is resumed as Lightning does, not exactly"):
        fit(run)
    assert run.module.num_batches == 8
    assert run.module.weight.item() == 16
    assert names_of(run.committed) == [at_batch(7, epoch=1), at_batch(8, epoch=1)]


@pytest.mark.parametrize("triggers", [EVERY, {}])
def test_a_loader_that_does_not_save_its_position_is_named_if_something_is_saved(tmp_path, triggers):
    run = prepare(tmp_path, Scored(), policy(tmp_path, triggers=triggers), limit_train_batches=2)
    loader = DataLoader(TensorDataset(torch.zeros(8, 4)), batch_size=4)
    warns = pytest.warns(
        UserWarning, match=r"does not save its position \(DataLoader\).*Use cairn\.DataLoader, a drop-in"
    )
    with warns if triggers else nullcontext():
        run.trainer.fit(run.module, loader, loader)
    assert run.module.num_batches == 2


# What stops a run


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}])
@pytest.mark.parametrize("when", [1, 3, 5, 8])
def test_a_signal_stops_at_the_next_boundary_with_a_checkpoint(tmp_path, when, options):
    module = Scored()
    run = prepare(
        tmp_path,
        module,
        policy(tmp_path, triggers={"signal": OnStop(), "end": AtEnd()}),
        stop=lambda save_s: "SIGTERM" if module.num_batches >= when else None,
        max_epochs=2,
        **options,
    )
    with pytest.raises(Stopped) as stopped:
        fit(run)
    boundary = when if not options else next(batch for batch in (3, 6, 8) if batch >= when)
    assert module.num_batches == boundary
    (item,) = run.committed
    assert (item.name, item.reasons) == (at_batch(boundary), ("signal",))
    assert (stopped.value.reason, stopped.value.saved) == ("SIGTERM", item)


def test_a_signal_stops_without_a_checkpoint_if_there_are_no_triggers(tmp_path):
    run = prepare(tmp_path, Scored(), policy(tmp_path, triggers={}, rules={}), stop=lambda save_s: "SIGINT")
    with pytest.raises(Stopped) as stopped:
        fit(run)
    assert (stopped.value.reason, stopped.value.saved, run.module.num_batches) == ("SIGINT", None, 1)
    assert not (tmp_path / "checkpoints").exists()


def test_a_stop_reports_the_newest_checkpoint_even_if_it_is_older(tmp_path):
    module = Scored()
    stop = lambda save_s: "SIGTERM" if module.num_batches == 5 else None  # noqa: E731
    with pytest.raises(Stopped) as stopped:
        fit(prepare(tmp_path, module, policy(tmp_path, triggers={"interval": Every(2)}), stop=stop))
    assert stopped.value.saved.name == at_batch(4)


def test_a_real_signal_is_obeyed(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    signals = Interrupts()
    callbacks = [After(3, lambda: signal.raise_signal(signal.SIGTERM)), WatchTraining(signals)]
    settings = policy(tmp_path, triggers={"signal": OnStop()})
    run = prepare(tmp_path, Scored(), settings, stop=lambda save_s: signals.name, callbacks=callbacks)
    with pytest.raises(Stopped, match="SIGTERM"), signals:
        fit(run)
    assert names_of(run.committed) == [at_batch(3)]
    assert signal.getsignal(signal.SIGTERM) == before


class Clock(Callback):
    """Callback with a simulated clock: a batch takes ten seconds, and nothing else takes time."""

    def __init__(self, monkeypatch):
        self.now_s = 1000.0
        for module in (clock_module, committing):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def on_train_batch_end(self, *args):
        self.now_s += 10


def test_a_time_interval_counts_from_the_last_save(tmp_path, monkeypatch):
    clock, settings = Clock(monkeypatch), policy(tmp_path, triggers={"interval": Every("25s")}, **ALL)
    run = prepare(tmp_path, Scored(), settings, callbacks=[clock], max_epochs=2)
    run.module.on_validation_end = lambda: setattr(clock, "now_s", clock.now_s + 15)
    fit(run)
    places = [(item.position.epoch, item.position.batch, item.elapsed_s) for item in run.committed]
    assert places == [(0, 3, 30), (0, 6, 60), (0, 8, 95), (1, 3, 125), (1, 6, 155), (1, 8, 190)]


def test_a_time_limit_stops_at_a_boundary_and_counts_over_all_attempts(tmp_path, monkeypatch):
    settings = policy(tmp_path, triggers={"limit": OnStop()}, max_time_s=45)
    stops = []
    for limit_s in (45, 45, 65):
        found = plan_of(tmp_path)
        run = prepare(
            tmp_path, Scored(), replace(settings, max_time_s=limit_s), plan=found, callbacks=[Clock(monkeypatch)]
        )
        fit(run)
        assert (run.checkpoints.stopped_by, run.checkpoints.newest.reasons) == ("max_time", ("limit",))
        stops.append((run.checkpoints.newest.position.batch, run.engine.telemetry.elapsed_s))
    assert stops == [(5, 50), (5, 50), (7, 70)], "a run that has used up its time trains nothing"


def paused(settings, text):
    """Settings of a run that pauses."""
    point = pause.parse(text)
    return replace(settings, pause=point, triggers={**settings.triggers, "pause": pause.AtPause(point)})


def test_a_run_whose_time_is_used_up_where_it_would_pause_has_stopped(tmp_path, monkeypatch):
    settings = policy(tmp_path, triggers={"limit": OnStop()}, max_time_s=45)
    run = prepare(tmp_path, Scored(), paused(settings, "5ba"), callbacks=[Clock(monkeypatch)])
    fit(run)
    assert (run.module.num_batches, run.checkpoints.stopped_by) == (5, "max_time")
    assert run.checkpoints.newest.reasons == ("limit",)


@pytest.mark.parametrize("text", ["3ba", "1ep", "40s"])
def test_a_run_that_has_come_to_its_end_has_ended_wherever_it_would_pause(text, tmp_path, monkeypatch):
    """As after a kill in its test, when a search repeats its job."""
    settings = replace(policy(tmp_path), max_time_s=75)
    fit(prepare(tmp_path, Scored(), replace(settings, max_time_s=None), callbacks=[Clock(monkeypatch)]))
    again = prepare(tmp_path, Scored(), paused(settings, text), plan=plan_of(tmp_path), callbacks=[Clock(monkeypatch)])
    fit(again)
    assert (again.module.num_batches, again.checkpoints.stopped_by) == (0, "")


def test_a_new_run_from_a_checkpoint_has_its_full_time_limit(tmp_path, monkeypatch):
    first = prepare(tmp_path / "first", Scored(), policy(tmp_path / "first"), callbacks=[Clock(monkeypatch)])
    fit(first)
    settings = policy(tmp_path / "second", max_time_s=45)
    start = ResumePoint(tmp_path / "first" / "checkpoints" / names.LAST)
    clock = Clock(monkeypatch)
    second = prepare(
        tmp_path / "second", Scored(), settings, plan=start, run_id="second", max_epochs=2, callbacks=[clock]
    )
    fit(second)
    assert (second.module.num_batches, second.checkpoints.stopped_by) == (5, "max_time")
    assert (second.engine.telemetry.num_saves, second.engine.telemetry.elapsed_s) == (5, 50)


def test_a_new_run_counts_its_own_saves_and_does_not_change_the_old_run(tmp_path):
    fit(prepare(tmp_path / "first", Scored(), policy(tmp_path / "first")))
    folder = tmp_path / "first" / "checkpoints"
    before = {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()}
    start = ResumePoint(folder / names.LAST)
    second = policy(tmp_path / "second", **ALL)
    run = fit(prepare(tmp_path / "second", Scored(), second, plan=start, run_id="second", max_epochs=2))
    assert [item.number for item in run.committed] == list(range(8))
    assert {item.run for item in run.committed} == {"second"}
    assert run.committed[0].position.total_batches == 9
    assert run.engine.telemetry.num_saves == 8
    assert {path.name: path.lstat().st_mtime_ns for path in folder.iterdir()} == before


def test_fast_dev_run_writes_nothing(tmp_path):
    settings = policy(tmp_path, monitor="never logged", triggers={**EVERY, "end": AtEnd()})
    run = fit(prepare(tmp_path, Scored(), settings, fast_dev_run=2))
    assert run.module.num_batches == 2
    assert run.files == []


# Saving and the training


def test_saving_does_not_change_the_training(tmp_path):
    never, always = (trained(tmp_path / name, triggers) for name, triggers in (("never", {}), ("always", EVERY)))
    assert never.files == []
    assert always.engine.telemetry.num_saves == 8
    assert never.module.samples == always.module.samples
    assert never.drawn_next == always.drawn_next
    assert never.metrics == always.metrics
    for name, weight in never.module.state_dict().items():
        assert torch.equal(weight, always.module.state_dict()[name]), name


def trained(directory, triggers):
    seed_everything(7, verbose=False)
    settings = policy(directory, triggers=triggers, monitor="val/loss")
    run = fit(prepare(directory, Toy(), settings, max_epochs=2, limit_train_batches=4, val_check_interval=2))
    run.drawn_next = (torch.rand(3).tolist(), random.random())
    run.metrics = (directory / "csv" / "metrics.csv").read_text()
    return run


CELL = Cell(trainer={"max_epochs": 2}, interval=3)


class Fragile(Toy):
    """Module that fails in batch number `fail_at`."""

    fail_at = None

    def training_step(self, batch, batch_idx):
        if Fragile.fail_at == self.trainer.global_step + 1:
            raise ArithmeticError("an error of the model")
        return super().training_step(batch, batch_idx)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The outcome of the toy run without an interruption."""
    directory = tmp_path_factory.mktemp("undisturbed")
    return outcome(directory, toy.train(directory, CELL))


def resumed(directory, undisturbed):
    """Resume the run in the directory, and return its outcome with the samples of all attempts."""
    done = plan_of(directory).saved.position.total_batches
    return outcome(directory, undisturbed.samples[:done] + toy.train(directory, CELL, seed=99))


def half_done(directory):
    """Return the incomplete files in the directory of the checkpoints."""
    folder = directory / "checkpoints"
    return [*Catalog(folder).rejected(), *(path for path in folder.iterdir() if names.is_temp(path.name))]


@pytest.mark.parametrize(("fail_at", "newest"), [(4, 3), (15, 12)])
def test_an_exception_leaves_the_last_checkpoint_and_the_run_resumes_from_it(
    tmp_path, undisturbed, fail_at, newest, monkeypatch
):
    monkeypatch.setattr(Fragile, "fail_at", fail_at)
    with pytest.raises(ArithmeticError):
        toy.train(tmp_path, replace(CELL, module_class=Fragile))
    assert plan_of(tmp_path).saved.position.total_batches == newest
    assert half_done(tmp_path) == []
    assert differences(undisturbed, resumed(tmp_path, undisturbed)) == []


@pytest.mark.parametrize("step", [0, 4])  # a sync of the file, and one of its manifest; test_crash.py has them all
def test_a_failed_save_is_logged_and_training_continues_and_saves_again(
    tmp_path, undisturbed, step, monkeypatch, caplog
):
    (tmp_path / "checkpoints").mkdir()
    disk = Disk(tmp_path / "checkpoints", monkeypatch)
    full = After(9, lambda: setattr(disk, "fail_at", len(disk.steps) + step))
    samples = toy.train(tmp_path, replace(CELL, callbacks=lambda: [full]))
    monkeypatch.undo()
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert re.search(
        r"epoch_001_batch_000001\.ckpt could not be written: No space left on device \(it needs about [\d.]+ kB, and "
        r"[\d.]+ GB are free there\)\. Failed save 1 of 3 in a row .*: training continues; the next save tries",
        message,
    )
    assert half_done(tmp_path) == []
    found = outcome(tmp_path, samples)
    assert {re.split(r"[:\[]", entry)[0] for entry in differences(undisturbed, found)} == {"kept"}


def test_failed_saves_in_a_row_stop_the_run_and_it_resumes_from_the_last_good_one(
    tmp_path, undisturbed, monkeypatch, caplog
):
    folder = tmp_path / "checkpoints"
    full = After(9, lambda: monkeypatch.setattr(disk_module, "put_chunks", no_space))
    with pytest.raises(SaveError, match=r"Failed save 3 of 3 in a row .*: the run stops, because"):
        toy.train(tmp_path, replace(CELL, callbacks=lambda: [full]))
    monkeypatch.undo()
    assert caplog.text.count("training continues") == 2
    assert half_done(tmp_path) == []
    newest = plan_of(tmp_path).saved
    assert newest.position.total_batches == 8  # the best so far
    assert (folder / names.LAST).resolve() == folder / newest.name
    assert differences(undisturbed, resumed(tmp_path, undisturbed)) == []


def no_space(path, *rest):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_successful_save_resets_the_count_of_failed_saves(tmp_path, monkeypatch):
    put, tries = disk_module.put_chunks, []

    def sometimes(path, *rest):
        if path.suffix == ".ckpt":
            tries.append(path)
        return no_space(path) if path.suffix == ".ckpt" and len(tries) % 3 else put(path, *rest)

    monkeypatch.setattr(disk_module, "put_chunks", sometimes)
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path), limit_train_batches=6))
    assert [item.position.batch for item in run.committed] == [3, 6]
    assert run.engine.telemetry.num_saves == 2


def test_a_failed_last_save_fails_the_run(tmp_path, monkeypatch):
    settings = policy(tmp_path, triggers={"end": AtEnd()}, max_failed_saves=-1)
    monkeypatch.setattr(disk_module, "put_chunks", no_space)
    with pytest.raises(SaveError, match="This was the last save of the run"):
        fit(prepare(tmp_path, Scored(), settings))


def test_a_signal_stops_a_run_even_if_it_cannot_save(tmp_path, monkeypatch, caplog):
    settings = policy(tmp_path, triggers={"interval": Every(3), "signal": OnStop()})
    signals = iter([None] * 4 + ["SIGTERM"])
    run = prepare(tmp_path, Scored(), settings, stop=lambda save_s: next(signals))
    full = After(4, lambda: monkeypatch.setattr(disk_module, "put_chunks", no_space))
    run.trainer.callbacks.insert(0, full)
    with pytest.raises(Stopped, match="SIGTERM") as stopped:
        fit(run)
    assert stopped.value.saved.position.batch == 3
    assert "This was the last save of the run" in caplog.text
    assert "training continues" not in caplog.text


@pytest.mark.parametrize("what", ["state_dict", "sync"])
def test_metrics_that_cannot_be_written_fail_the_save_but_not_the_run(tmp_path, monkeypatch, caplog, what):
    run = prepare(tmp_path, Scored(), policy(tmp_path))
    state = getattr(run.trainer.logger, what)
    fails = [True]

    def once():
        if fails.pop() if fails else False:
            raise OSError(errno.ENOSPC, "No space left on device")
        return state()

    monkeypatch.setattr(run.trainer.logger, what, once)
    fit(run)
    assert "The metrics up to this checkpoint could not be written: No space left" in caplog.text
    assert [item.position.batch for item in run.committed] == [7, 8]
    assert run.engine.telemetry.num_saves == 7


def test_a_run_without_disk_space_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_module, "free_bytes", lambda path: 10)
    run = prepare(tmp_path, Scored(), policy(tmp_path))
    with pytest.raises(ConfigError, match=r"needs about .* and only 10 B are free"):
        fit(run)
    assert run.module.num_batches == 0


@pytest.mark.parametrize("limits", [[1, 2, 5], [8, 10], [14]], ids=str)
def test_a_run_stopped_by_its_time_limit_resumes_exactly(tmp_path, undisturbed, limits, monkeypatch):
    settings = toy.checkpointer(tmp_path, CELL, "toy").policy
    samples = []
    for num_batches in limits:
        seed_everything(7, verbose=False)
        limited = replace(settings, max_time_s=10 * num_batches - 5, triggers={**settings.triggers, "limit": OnStop()})
        module, clock = Toy(), Clock(monkeypatch)
        run = prepare(tmp_path, module, limited, plan=plan_of(tmp_path), max_epochs=2, callbacks=[clock])
        fit(run)
        assert run.checkpoints.stopped_by == "max_time"
        assert "limit" in run.checkpoints.newest.reasons
        samples += module.samples
    assert samples == undisturbed.samples[: limits[-1]]
    monkeypatch.undo()
    assert differences(undisturbed, resumed(tmp_path, undisturbed)) == []


def test_a_checkpoint_saved_only_for_a_stop_is_deleted_after_the_next_one(tmp_path):
    module = Scored()
    settings = policy(tmp_path, triggers={"interval": Every(3), "signal": OnStop(), "end": AtEnd()}, **ALL)
    stop = lambda save_s: "SIGTERM" if module.num_batches == 4 else None  # noqa: E731
    with pytest.raises(Stopped):
        fit(prepare(tmp_path, module, settings, stop=stop))
    stopped = Catalog(tmp_path / "checkpoints").committed()
    assert [(item.name, item.lasting) for item in stopped] == [(at_batch(3), True), (at_batch(4), False)]
    run = fit(prepare(tmp_path, Scored(), settings, plan=plan_of(tmp_path)))
    assert [(item.name, item.number) for item in run.committed] == [
        (at_batch(3), 0),
        (at_batch(6), 1),
        (at_batch(8), 2),
    ]


def test_a_checkpointer_belongs_to_one_trainer(tmp_path):
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path)))
    other = prepare(tmp_path, Scored(), policy(tmp_path))
    other.trainer.callbacks = [run.checkpoints]
    with pytest.raises(ConfigError, match="belongs to another Trainer already: make one for each"):
        fit(other)


# What saves cost


def test_auto_logs_its_choice_and_manifests_record_it(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, decision.__name__)
    settings = policy(tmp_path, triggers={"interval": Every("auto")}, **ALL)
    run = fit(prepare(tmp_path, Scored(), settings, callbacks=[Clock(monkeypatch)], max_epochs=2))
    assert len(run.committed) > 8, "a save is cheap compared to a batch of ten seconds"
    assert {item.interval_batches for item in run.committed} == {1}
    messages = [record.getMessage() for record in caplog.records if "Interval 'auto'" in record.getMessage()]
    assert messages
    assert "every batch (about 10 s), so that saving costs at most 1 %" in messages[0]
    assert "estimated before the first save" in messages[0]


def test_each_save_logs_its_cost(tmp_path):
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path, **ALL)))
    costs = list(csv.DictReader((tmp_path / "csv" / "checkpoints.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in costs] == [item.position.step for item in run.committed]
    for row, item in zip(costs, run.committed, strict=True):
        assert (float(row["stall_s"]), float(row["write_s"])) == (item.stall_s, item.write_s)
        assert (int(row["bytes"]), int(row["skipped"])) == (item.num_bytes, 0)
    assert float(costs[-1]["overhead"]) > 0
    assert "stall_s" not in (tmp_path / "csv" / "metrics.csv").read_text(), "the costs of two equal runs differ"


@pytest.fixture
def busy_until_waited_for(monkeypatch):
    """Make the writer busy until a save waits for it."""
    free, perform, wait = threading.Event(), writer.InlineWriter.write, pipeline.SavePipeline._wait_until

    def slow(self, job, buffer):
        free.wait()
        return perform(self, job, buffer)

    def waited(self, is_so):
        if not is_so():
            free.set()
            wait(self, is_so)
            free.clear()

    monkeypatch.setattr(writer.InlineWriter, "write", slow)
    monkeypatch.setattr(pipeline.SavePipeline, "_wait_until", waited)


@pytest.mark.parametrize("when_busy", ["skip", "wait"])
def test_an_interval_save_is_dropped_while_the_writer_is_busy_but_the_last_save_is_not(
    tmp_path, when_busy, busy_until_waited_for
):
    triggers = {"interval": Every(1), "end": AtEnd()}
    ways = {"writer": "thread", "buffers": 1, "when_busy": when_busy}
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path, triggers=triggers, **ALL, **ways)))
    expected = [1, 8] if when_busy == "skip" else list(range(1, 9))
    assert [item.position.batch for item in run.committed] == expected
    assert run.engine.telemetry.meter.num_skipped == run.committed[-1].skipped == 8 - len(expected)
    assert run.engine.telemetry.num_saves == len(expected)


def test_waiting_for_a_copy_within_a_save_is_counted_once(tmp_path, monkeypatch):
    finish = copying.Copier.finish

    def long(self):
        late = self._pending is not None
        return finish(self) + (500.0 if late else 0.0)

    monkeypatch.setattr(copying.Copier, "finish", long)
    settings = policy(tmp_path, triggers={"end": AtEnd()}, writer="thread", overlap=True)
    run = fit(prepare(tmp_path, Scored(), settings))
    assert run.engine.telemetry.num_saves == 1
    assert run.engine.telemetry.meter.total_stall_s < 500.0


def test_a_save_of_the_best_waits_where_an_interval_save_is_dropped(tmp_path, busy_until_waited_for):
    triggers = {"interval": Every(5), "best": BestValidation()}
    settings = policy(tmp_path, triggers=triggers, monitor="val/score", writer="thread", buffers=1)
    run = fit(prepare(tmp_path, Scored([0.5, 0.1]), settings, val_check_interval=4))
    assert [(item.position.batch, item.reasons) for item in run.committed] == [(4, ("best",)), (8, ("best",))]
    assert run.engine.telemetry.meter.num_skipped == 1


def test_a_save_on_a_signal_waits_where_an_interval_save_is_dropped(tmp_path, busy_until_waited_for):
    module = Scored()
    triggers = {"interval": Every(1), "signal": OnStop()}
    stop = lambda save_s: "SIGTERM" if module.num_batches == 4 else None  # noqa: E731
    run = prepare(tmp_path, module, policy(tmp_path, triggers=triggers, writer="thread", buffers=1), stop=stop)
    with pytest.raises(Stopped):
        fit(run)
    assert [item.position.batch for item in run.committed] == [1, 4]
    assert run.engine.telemetry.meter.num_skipped == 2


@pytest.mark.parametrize("way", ["process", "thread"])
def test_a_failed_training_commits_its_pending_save_and_leaves_no_threads_or_files_open(tmp_path, way):
    module = Scored()
    module.on_train_batch_start = lambda batch, batch_idx: 1 / (4 - batch_idx)
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    run = prepare(tmp_path, module, policy(tmp_path, writer=way, when_busy="wait"))
    with pytest.raises(ZeroDivisionError):
        fit(run)
    assert [item.position.batch for item in run.committed] == [3, 4], "the pending save was committed"
    assert run.engine.saves.pipeline is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


def test_a_run_saved_before_costs_were_recorded_is_resumed(tmp_path, monkeypatch):
    original = capture.contents

    def older(collected, trainer, place, position, origin, clock):
        known = {key: clock[key] for key in ("elapsed_s", "num_saves")}
        return original(collected, trainer, place, position, origin, known)

    with monkeypatch.context() as patch:
        patch.setattr(capture, "contents", older)
        fit(prepare(tmp_path, Scored(), policy(tmp_path)))
    run = fit(prepare(tmp_path, Scored(), policy(tmp_path), plan=plan_of(tmp_path), max_epochs=2))
    assert (run.module.num_batches, run.engine.telemetry.num_saves) == (8, 16)


@pytest.mark.parametrize("way", ["process", "thread", "sync"])
def test_a_save_that_fails_together_with_training_is_logged(tmp_path, way, caplog):
    module = Scored()
    run = prepare(tmp_path, module, policy(tmp_path, writer=way, when_busy="wait"))

    def break_everything(batch, batch_idx):
        if batch_idx == 2:
            run.engine.saves.pipeline.wait()  # a save in progress would create the folder again
            (tmp_path / "checkpoints").rename(tmp_path / "moved")
            (tmp_path / "checkpoints").write_text("in the way")
        return 1 / (3 - batch_idx) and None

    module.on_train_batch_start = break_everything
    with pytest.raises(ZeroDivisionError):
        fit(run)
    assert "epoch_000_batch_000003.ckpt could not be written: " in caplog.text


def test_overlap_refuses_weights_that_change_outside_of_the_optimizer_step(tmp_path, caplog):
    class Renormalized(Scored):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(4, 3, max_norm=0.1)

        def on_train_batch_start(self, batch, batch_idx):
            with torch.no_grad():
                self.embedding.weight.add_(1.0)

        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + self.embedding(torch.arange(4)).sum()

    ways = {"writer": "thread", "overlap": True, "max_failed_saves": 3, "when_busy": "wait"}
    with toy.copied_as_late_as_possible(), pytest.raises(SaveError, match="3 of 3 in a row"):
        fit(prepare(tmp_path, Renormalized(), policy(tmp_path, **ways)))
    assert "changed outside of an optimizer's step" in caplog.text
