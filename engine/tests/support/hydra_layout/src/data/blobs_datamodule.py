"""Points in blobs: as many classes as blobs."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split


class BlobsDataModule(LightningDataModule):
    """Three sets of points, which are the same at each call.

    Args:
        num_points: Number of points in all sets.
        train_val_test_split: Share of each set.
        batch_size: Points per batch.
        num_workers: Processes that load data.
        pin_memory: Whether batches are copied to pinned memory.
    """

    def __init__(
        self,
        num_points: int = 640,
        train_val_test_split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        batch_size: int = 16,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.data_train: Dataset | None = None
        self.data_val: Dataset | None = None
        self.data_test: Dataset | None = None

    @property
    def num_classes(self) -> int:
        """Number of blobs."""
        return 4

    def setup(self, stage: str | None = None) -> None:
        """Make the sets once."""
        if self.data_train is None:
            generator = torch.Generator().manual_seed(42)
            centers = 2 * torch.randn(self.num_classes, 8, generator=generator)
            labels = torch.randint(self.num_classes, (self.hparams.num_points,), generator=generator)
            points = centers[labels] + 1.5 * torch.randn(len(labels), 8, generator=generator)
            sets = random_split(TensorDataset(points, labels), self.hparams.train_val_test_split, generator)
            self.data_train, self.data_val, self.data_test = sets

    def train_dataloader(self) -> DataLoader:
        """Shuffled."""
        return self._loader(self.data_train, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """In order."""
        return self._loader(self.data_val)

    def test_dataloader(self) -> DataLoader:
        """In order."""
        return self._loader(self.data_test)

    def _loader(self, dataset: Any, shuffle: bool = False) -> DataLoader:
        return DataLoader(
            dataset=dataset,
            batch_size=self.hparams.batch_size,
            num_workers=self.hparams.num_workers,
            pin_memory=self.hparams.pin_memory,
            shuffle=shuffle,
        )
