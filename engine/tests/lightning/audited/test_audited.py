"""Datasets that are built again or grow."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from tests.lightning.audited.test_audit import Net, Pairs, messages
from torch import Tensor

import cairn


class Rebuilt(LightningDataModule):
    """Builds its dataset for each epoch."""

    def train_dataloader(self) -> cairn.DataLoader:
        data = Pairs()
        assert self.trainer is not None
        data.x = data.x + self.trainer.current_epoch
        return cairn.DataLoader(data, batch_size=4, seed=0)


def test_a_dataset_that_is_built_for_each_epoch_has_not_changed(tmp_path: Path) -> None:
    seed_everything(3, verbose=False)
    checkpoints = cairn.Checkpointer(tmp_path, every=1, audit="error")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=3, callbacks=[checkpoints], reload_dataloaders_every_n_epochs=1, **quiet)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Training changes")
        trainer.fit(Net(), datamodule=Rebuilt())


class Grows(Net):
    def on_train_batch_end(self, outputs: Tensor, batch: Tensor, batch_idx: int) -> None:
        data = self.trainer.train_dataloader.dataset.dataset
        data.x = torch.cat([data.x, batch[:1]])


class Growing(Pairs):
    def __len__(self) -> int:
        return len(self.x)


def test_a_dataset_that_grows_and_is_not_saved_cannot_be_resumed(tmp_path: Path) -> None:
    (message,) = messages(tmp_path, Grows(), data=Growing(), max_steps=1)
    assert "Growing has 13 samples and had 12 at the start: a resume is refused unless a checkpoint holds" in message
