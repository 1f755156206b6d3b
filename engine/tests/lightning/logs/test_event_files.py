"""After a resume, TensorBoard has each point once, in the folder of the version in which the run began."""

import os
import shutil
import time

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.data import TensorDataset

import cairn
from cairn.lightning.logs import event_files


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def training_step(self, batch, batch_idx):
        loss = (self.weight - batch[0]).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        tensorboard = self.logger.experiment
        tensorboard.add_scalar("by samples", float(loss.detach()), 1000 * (self.trainer.global_step + 1))
        tensorboard.add_scalars("both", {"loss": float(loss.detach()), "one": 1.0}, self.trainer.global_step)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val", (self.weight - batch[0]).square().mean())

    def on_train_epoch_end(self):
        self.logger.experiment.add_scalar("by epoch", float(self.weight.detach().sum()), self.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class CopyAtEachBatch(Callback):
    """Copies the directory at the start of each batch but the first: what a `kill -9` would leave there."""

    def __init__(self, source, target):
        self.source, self.target = source, target

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for logger in trainer.loggers:
            logger.experiment.flush()
        if trainer.global_step:
            shutil.copytree(self.source, self.target / str(trainer.global_step), symlinks=True)


def fit(run, every=3, version=None, callbacks=(), **options):
    seed_everything(0, verbose=False)
    checkpoints = cairn.Checkpointer(run / "checkpoints", every, writing=cairn.Writing("sync"), triggers={"stop": None})
    logger = TensorBoardLogger(run, name="tb", version=version, default_hp_metric=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "log_every_n_steps": 1}
    trainer = Trainer(max_epochs=2, callbacks=[*callbacks, checkpoints], logger=logger, **quiet, **options)
    points = TensorDataset(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    data = cairn.DataLoader(points, 2, shuffle=True)
    trainer.fit(Net(), data, cairn.DataLoader(points, 4), ckpt_path=checkpoints.resume())
    return logger


def points(folder):
    """Return {folder: {tag: [(step, value), ...]}}, as TensorBoard reads it, but without its own clean-up."""
    found = {}
    for path in sorted({path.parent for path in folder.rglob("*tfevents*")}):
        events = EventAccumulator(str(path), purge_orphaned_data=False).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("checkpoint/")]
        rows = {tag: sorted((event.step, event.value) for event in events.Scalars(tag)) for tag in tags}
        found[path.relative_to(folder).as_posix()] = rows
    return found


def written(folder):
    """Return {folder: {tag: sorted steps}} of every event in every file that TensorBoard would read."""
    found = {}
    for path in folder.rglob("*tfevents*"):
        rows = found.setdefault(path.parent.relative_to(folder).as_posix(), {})
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if not value.tag.startswith(("checkpoint/", "_hparams_/")):
                    rows.setdefault(value.tag, []).append(event.step)
    return {name: {tag: sorted(steps) for tag, steps in rows.items()} for name, rows in found.items()}


@pytest.mark.parametrize("version", [None, "", "mine"])
def test_each_point_is_once_after_a_kill_at_any_batch(version, tmp_path):
    copies = tmp_path / "copies"
    fit(tmp_path / "whole", version=version, callbacks=[CopyAtEachBatch(tmp_path / "whole", copies)])
    whole = points(tmp_path / "whole" / "tb")
    folder = "version_0" if version is None else version or "."
    assert {"loss_step", "loss_epoch", "val", "by samples", "by epoch"} <= whole[folder].keys()
    assert len(whole) == 3
    for stop in sorted(copies.iterdir(), key=lambda path: int(path.name))[2:]:  # there is a checkpoint after 3 batches
        fit(stop, version=version)
        assert points(stop / "tb") == whole, f"after {stop.name} batches"
        assert written(stop / "tb") == written(tmp_path / "whole" / "tb"), f"after {stop.name} batches"


def test_a_run_that_is_killed_again_before_its_next_save_has_each_point_once(tmp_path):
    run, copies = tmp_path / "run", tmp_path / "copies"
    fit(tmp_path / "whole")
    fit(run, callbacks=[CopyAtEachBatch(run, copies)])
    again = tmp_path / "again"
    fit(copies / "5", callbacks=[CopyAtEachBatch(copies / "5", again)])
    last = fit(again / "5")
    assert points(again / "5" / "tb") == points(tmp_path / "whole" / "tb")
    assert os.path.basename(last.log_dir) == "version_0"
    assert len(list((again / "5").rglob("replaced.*"))) > 0


def test_files_of_other_runs_below_the_folder_are_left_alone(tmp_path):
    run, copies = tmp_path / "run", tmp_path / "copies"
    fit(run, version="", callbacks=[CopyAtEachBatch(run, copies)])
    other = copies / "5" / "tb" / "other" / "events.out.tfevents.1700000000.host.1.0"
    other.parent.mkdir()
    other.write_bytes(b"x" * 1000)
    fit(copies / "5", version="")
    assert other.read_bytes() == b"x" * 1000


def test_events_that_are_gone_are_named(tmp_path):
    run, copies = tmp_path / "run", tmp_path / "copies"
    fit(run, callbacks=[CopyAtEachBatch(run, copies)])
    shutil.rmtree(copies / "5" / "tb")
    with pytest.warns(match=r"TensorBoard: .* has fewer events than the checkpoint knows"):
        fit(copies / "5")


def test_files_of_another_run_in_the_same_folder_are_left_alone_and_named(tmp_path):
    run, copies = tmp_path / "run", tmp_path / "copies"
    fit(tmp_path / "whole", version="mine")
    fit(run, version="mine", callbacks=[CopyAtEachBatch(run, copies)])
    other = copies / "5" / "tb" / "mine" / "events.out.tfevents.1700000000.host.1.0"
    other.write_bytes(b"x" * 1000)
    with pytest.warns(match=r"also has events of another run, which are left alone \(events.*\.host\.1\.0\)"):
        fit(copies / "5", version="mine")
    assert other.read_bytes() == b"x" * 1000
    other.unlink()
    assert points(copies / "5" / "tb") == points(tmp_path / "whole" / "tb")


def test_a_resumed_process_that_was_killed_before_its_next_save_is_known_by_its_note(tmp_path, monkeypatch):
    run, copies, again = tmp_path / "run", tmp_path / "copies", tmp_path / "again"
    fit(tmp_path / "whole", version="mine")
    fit(run, version="mine", callbacks=[CopyAtEachBatch(run, copies)])
    monkeypatch.setattr(os, "getpid", lambda: 0)
    fit(copies / "4", version="mine", callbacks=[CopyAtEachBatch(copies / "4", again)])
    monkeypatch.undo()
    fit(again / "5", version="mine")
    assert points(again / "5" / "tb") == points(tmp_path / "whole" / "tb")


class Refuses(Callback):
    def on_train_start(self, trainer, pl_module):
        raise ValueError("not like this")


def test_a_start_that_is_refused_leaves_the_events_after_the_checkpoint(tmp_path, monkeypatch):
    run, copies = tmp_path / "run", tmp_path / "copies"
    fit(tmp_path / "whole", version="mine")
    fit(run, version="mine", callbacks=[CopyAtEachBatch(run, copies)])
    folder = copies / "5" / "tb"
    before = {path: path.read_bytes() for path in folder.rglob("*tfevents*")}
    monkeypatch.setattr(os, "getpid", lambda: 0)
    with pytest.raises(ValueError, match="not like this"):
        fit(copies / "5", version="mine", callbacks=[Refuses()])
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in before} == before
    fit(copies / "5", version="mine")
    assert points(folder) == points(tmp_path / "whole" / "tb")


@pytest.mark.parametrize("same_process_number", [False, True])
def test_a_run_that_was_killed_before_its_first_checkpoint_has_each_point_once(
    same_process_number, tmp_path, monkeypatch
):
    run, copies = tmp_path / "run", tmp_path / "copies"
    fit(run, version="mine", callbacks=[CopyAtEachBatch(run, copies)])
    assert not list((copies / "2" / "checkpoints").glob("*.ckpt"))
    before = written(copies / "2" / "tb")
    assert before["mine"]["loss_step"] == [0, 1]
    if same_process_number:  # in a container that was started again
        monkeypatch.setattr(event_files, "_BEGAN_S", event_files._BEGAN_S + 10**6)
        monkeypatch.setattr(time, "time", lambda: float(event_files._BEGAN_S))
    else:
        monkeypatch.setattr(os, "getpid", lambda: 0)
    fit(copies / "2", version="mine")
    assert written(copies / "2" / "tb") == written(run / "tb")
    assert points(copies / "2" / "tb") == points(run / "tb")
    assert list((copies / "2" / "tb").rglob("replaced.*"))


def test_a_run_in_another_checkpoint_directory_leaves_the_events_of_the_first(tmp_path):
    for name in ("one", "other"):
        seed_everything(0, verbose=False)
        checkpoints = cairn.Checkpointer(tmp_path / name, 100, writing=cairn.Writing("sync"))
        logger = TensorBoardLogger(tmp_path, name="tb", version="mine", default_hp_metric=False)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = Trainer(max_steps=1, callbacks=[checkpoints], logger=logger, log_every_n_steps=1, **quiet)
        data = cairn.DataLoader(TensorDataset(torch.ones(8, 3)), 2)
        trainer.fit(Net(), data, cairn.DataLoader(TensorDataset(torch.ones(4, 3)), 4))
    assert written(tmp_path / "tb" / "mine")["."]["loss_step"] == [0, 0]
