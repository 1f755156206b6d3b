"""Data that is opened when it is first read is not missed by a resume, which has not read it yet."""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
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


class Opened(Mapped):
    """The same by hand."""

    points: Any = None

    def __init__(self) -> None:
        self.points = None

    def __getitem__(self, index: int) -> torch.Tensor:
        self._open()
        return super().__getitem__(index)

    def _open(self) -> None:
        if self.points is None:
            self.points = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class SetByAHook(Net):
    """A resumed process has not done this yet either, and trains on other samples."""

    def on_train_epoch_end(self) -> None:
        self.trainer.train_dataloader.dataset.wrapped.points = torch.zeros(8, 4)


def texts(folder: Path, make: type[Net], data: type[Mapped]) -> list[str]:
    """Return what the run and its resume say about the data."""
    found: list[str] = []
    for max_steps in (5, 7):
        saving = cairn.Checkpointer(folder, 1)
        common = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(max_steps=max_steps, callbacks=[saving], default_root_dir=folder, **common)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(make(), cairn.DataLoader(data(), 2), ckpt_path=saving.resume())
        found += [str(item.message) for item in caught if "points" in str(item.message)]
    return found


@pytest.mark.parametrize("data", [Mapped, Opened])
def test_data_that_is_opened_when_it_is_read_is_not_missed(tmp_path: Path, data: type[Mapped]) -> None:
    assert texts(tmp_path, Net, data) == []


def test_what_a_hook_puts_into_the_data_is_missed(tmp_path: Path) -> None:
    assert any("Opened.points" in text for text in texts(tmp_path, SetByAHook, Opened))
