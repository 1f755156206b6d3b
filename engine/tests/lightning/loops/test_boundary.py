"""Where the boundaries are, and which loops get them."""

import pickle

import lightning
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tests.support.runs import Scored
from tests.support.toy import BATCH_SIZE, PointData, Toy

from cairn.errors import ConfigError
from cairn.lightning.loops import boundary


class Recorder:
    """Engine that records each boundary."""

    def __init__(self):
        self.trainer, self.happened, self.boundaries, self.restored = None, [], [], 0

    def batch_done(self, num_samples):
        self.num_samples = num_samples

    def at_boundary(self, place, ends):
        self.boundaries.append((boundary.position(self.trainer, place, 0), place, ends))
        self.happened.append("boundary")

    def restore(self, ends):
        self.restored += 1

    def ended(self):
        pass

    def built(self):
        pass

    @property
    def restart(self):
        return self

    def epoch_begins(self):
        self.happened.append("epoch begins")

    def epoch_begun(self):
        self.happened.append("epoch has begun")

    def now(self):
        return {}

    def epoch_begins_again(self):
        raise AssertionError("nothing is resumed here")

    @property
    def places(self):
        return [(p.epoch, p.batch) for p, _, _ in self.boundaries]

    @property
    def ends(self):
        return [ends for _, _, ends in self.boundaries]


class Asks(Callback):
    """Callback that sets `should_stop` in a hook: after a batch, or at the end of an epoch."""

    def __init__(self, hook, batch=8):
        self.hook, self.batch = hook, batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.hook == "batch" and batch_idx + 1 == self.batch:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer, pl_module):
        if self.hook == "epoch":
            trainer.should_stop = True


def make(tmp_path, callbacks=(), **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    own = {"max_epochs": 2, "num_sanity_val_steps": 0, "accelerator": "cpu", "devices": 1, "logger": False, **quiet}
    trainer, engine = Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **{**own, **options}), Recorder()
    engine.trainer = trainer
    boundary.install(trainer, engine)
    return trainer, engine


def boundaries(tmp_path, callbacks=(), module=None, **options):
    trainer, engine = make(tmp_path, callbacks, **options)
    trainer.fit(module or Scored(), datamodule=PointData(batch_size=BATCH_SIZE))
    return engine


def test_another_version_of_lightning_is_refused(tmp_path, monkeypatch):
    trainer = Trainer(default_root_dir=tmp_path, logger=False, enable_checkpointing=False, accelerator="cpu")
    before = trainer.fit_loop
    monkeypatch.setattr(lightning, "__version__", "2.7.0")
    with pytest.raises(ConfigError, match=r"Lightning 2\.7\.0 is not supported"):
        boundary.install(trainer, Recorder())
    assert trainer.fit_loop is before


def test_the_limits_of_the_trainer_are_kept(tmp_path):
    limits = {"min_epochs": 2, "max_epochs": 5, "min_steps": 3, "max_steps": 40}
    trainer, engine = make(tmp_path, **limits)
    assert {name: getattr(trainer, name) for name in limits} == limits
    assert trainer.fit_loop.engine is trainer.fit_loop.epoch_loop.engine is engine


def test_a_profile_names_the_loops_as_it_does_without_us_and_a_copy_still_finds_their_classes(tmp_path):
    trainer, _ = make(tmp_path, max_epochs=1, profiler="simple")
    trainer.fit(Scored(), datamodule=PointData(batch_size=BATCH_SIZE))
    assert "[_TrainingEpochLoop].train_dataloader_next" in trainer.profiler.recorded_durations
    assert pickle.loads(pickle.dumps(type(trainer.fit_loop))) is boundary.BoundaryFitLoop
    assert pickle.loads(pickle.dumps(type(trainer.fit_loop.epoch_loop))) is boundary.BoundaryEpochLoop


def test_the_states_of_the_loops_are_what_lightning_returns(tmp_path):
    trainer, _ = make(tmp_path, max_epochs=2, limit_val_batches=1)
    trainer.fit(Scored(), datamodule=PointData(batch_size=BATCH_SIZE))
    connector = trainer._checkpoint_connector
    assert repr(connector._get_loops_state_dict()) == repr(type(connector)._get_loops_state_dict(connector))
    assert connector._get_loops_state_dict()["fit_loop"]["epoch_progress"]["total"]["completed"] == 2


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({}, [(e, b) for e in (0, 1) for b in range(1, 9)]),
        ({"accumulate_grad_batches": 3}, [(e, b) for e in (0, 1) for b in (3, 6, 8)]),
        ({"limit_train_batches": 2}, [(0, 1), (0, 2), (1, 1), (1, 2)]),
        ({"max_steps": 3}, [(0, 1), (0, 2), (0, 3)]),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, [(0, 2), (0, 4), (0, 6)]),
        ({"max_epochs": -1, "max_steps": 9}, [(0, b) for b in range(1, 9)] + [(1, 1)]),
    ],
)
def test_there_is_a_boundary_after_each_window_and_only_the_last_one_ends_the_run(tmp_path, options, places):
    engine = boundaries(tmp_path, **options)
    assert engine.places == places
    assert engine.ends == [False] * (len(places) - 1) + [True]
    # The last batch of an epoch has its boundary after the end of the epoch.
    last = options.get("limit_train_batches", 8)
    assert [place for _, place, _ in engine.boundaries] == ["epoch" if b == last else "batch" for _, b in places]
    assert engine.restored == 0


def test_positions_count_over_the_whole_run(tmp_path):
    engine = boundaries(tmp_path, accumulate_grad_batches=3)
    counts = [(p.total_batches, p.step) for p, _, _ in engine.boundaries]
    assert counts == [(3, 1), (6, 2), (8, 3), (11, 4), (14, 5), (16, 6)]


def test_manual_optimization_has_a_boundary_after_each_batch(tmp_path):
    assert len(boundaries(tmp_path, module=Toy(manual=True), max_epochs=1).boundaries) == 8


def test_a_stop_requested_in_a_batch_ends_the_run_at_its_boundary(tmp_path):
    engine = boundaries(tmp_path, [Asks("batch", 3)])
    assert (engine.places, engine.ends) == ([(0, 1), (0, 2), (0, 3)], [False, False, True])


def test_a_stop_requested_at_the_end_of_an_epoch_ends_the_run_at_its_boundary(tmp_path):
    engine = boundaries(tmp_path, [Asks("epoch")])
    assert engine.places[-2:] == [(0, 7), (0, 8)]
    assert engine.ends == [False] * 7 + [True]
    last, place, _ = engine.boundaries[-1]
    assert (last.total_batches, place) == (8, "epoch")


def test_a_stop_before_min_epochs_ends_the_run_with_that_epoch(tmp_path):
    engine = boundaries(tmp_path, [Asks("batch", 3)], min_epochs=2, max_epochs=5)
    assert engine.places[-2:] == [(1, 7), (1, 8)]
    assert engine.ends == [False] * 15 + [True]


def test_a_boundary_comes_after_everything_that_belongs_to_its_batch(tmp_path):
    trainer, engine = make(tmp_path, max_steps=2, val_check_interval=1)

    class Noting(Scored):
        def on_train_batch_end(self, *args):
            engine.happened.append("batch end")

        def on_validation_end(self):
            engine.happened.append("validation end")

        def lr_scheduler_step(self, scheduler, metric):
            engine.happened.append("scheduler")

        def optimizer_step(self, *args, **options):
            super().optimizer_step(*args, **options)
            engine.happened.append("step")

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    trainer.fit(Noting(), datamodule=PointData(batch_size=BATCH_SIZE))
    assert engine.happened[:2] == ["epoch begins", "epoch has begun"]
    first, second = engine.happened[2:7], engine.happened[7:]
    assert first == second
    assert sorted(first) == ["batch end", "boundary", "scheduler", "step", "validation end"]
    assert (first[0], first[-1]) == ("step", "boundary")


def test_the_boundary_of_the_last_batch_comes_after_the_hooks_at_the_end_of_the_epoch(tmp_path):
    trainer, engine = make(tmp_path, limit_train_batches=1, max_epochs=2)

    class Noting(Scored):
        def on_train_epoch_start(self):
            engine.happened.append("start")

        def on_train_epoch_end(self):
            engine.happened.append("end")

    trainer.fit(Noting(), datamodule=PointData(batch_size=BATCH_SIZE))
    assert engine.happened == ["epoch begins", "start", "epoch has begun", "end", "boundary"] * 2


@pytest.mark.parametrize(("place", "pending"), [("batch", (False, True)), ("epoch", (True, False))])
def test_a_state_is_restored_at_the_kind_of_boundary_where_it_was_saved(tmp_path, place, pending):
    trainer, _ = make(tmp_path)
    boundary.expect(trainer, place)
    assert (trainer.fit_loop.pending, trainer.fit_loop.epoch_loop.pending) == pending


def test_a_fit_is_not_done_before_the_end_of_its_epoch(tmp_path):
    trainer, _ = make(tmp_path, max_steps=5)
    steps = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    steps.ready = steps.completed = 5
    assert trainer.global_step == 5
    assert trainer.fit_loop.done
    boundary.expect(trainer, "batch")
    assert not trainer.fit_loop.done
    boundary.expect(trainer, "epoch")  # the hooks at the end of the training are still to come
    assert not trainer.fit_loop.done
    trainer.fit_loop.pending = False
    assert trainer.fit_loop.done
