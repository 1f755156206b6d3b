"""Data that is opened when it is first read is not missed by a resume, which has not read it yet."""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from tests.lightning.audited.test_audit import Net
from torch.utils.data import Dataset

import cairn


class Mapped(Dataset[torch.Tensor]):
    """Opens its data when the first sample is read, which a resumed process has not done yet."""

    @cached_property
    def points(self) -> torch.Tensor:
        return torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.points[index]


def test_data_that_is_opened_when_it_is_read_is_not_missed(tmp_path: Path) -> None:
    for max_steps in (2, 4):
        saving = cairn.Checkpointer(tmp_path, 1)
        common = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(max_steps=max_steps, callbacks=[saving], default_root_dir=tmp_path, **common)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(Net(), cairn.DataLoader(Mapped(), 2), ckpt_path=saving.resume())
        assert [str(item.message) for item in caught if "points" in str(item.message)] == []
