"""Handwritten digits: the 1797 scans inside scikit-learn, split into three sets by the seed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

import cairn
from cairn.errors import DataError


class Scans(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (image, label), each image shifted at random by up to `max_shift` pixels.

    Args:
        images: float32 (num_samples, 1, height, width).
        labels: int64 (num_samples,).
        max_shift: Maximum shift in pixels, in each direction; with 0, no random numbers are drawn.
    """

    def __init__(self, images: Tensor, labels: Tensor, max_shift: int = 0) -> None:
        self.images = images
        self.labels = labels
        self.max_shift = max_shift

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return (shift(image, self.max_shift) if self.max_shift else image), self.labels[index]


def shift(image: Tensor, max_shift: int) -> Tensor:
    """Shift an image (..., height, width) by up to `max_shift` pixels along both axes; fill with zeros."""
    height, width = image.shape[-2:]
    top, left = torch.randint(0, 2 * max_shift + 1, (2,)).tolist()
    return pad(image, [max_shift] * 4)[..., top : top + height, left : left + width]


class Digits(cairn.DataModule):
    """8x8 scans of the digits 0 to 9: images float32 (batch, 1, 8, 8) in [0, 1], labels int64 (batch,).

    Source: the test part of E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI Machine
    Learning Repository, 1998. Nothing is downloaded.

    Args:
        batch_size: Samples per batch and process.
        val_fraction: Fraction of the scans for validation.
        test_fraction: Fraction of the scans for the test; the rest is for training.
        augment: Shift each training image at random.
        max_shift: Maximum shift in pixels.
        options: Other arguments of `cairn.DataModule`; `seed` also determines the split.

    Raises:
        ValueError: The fractions leave nothing to train on.
    """

    def __init__(
        self,
        batch_size: int = 64,
        *,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        augment: bool = False,
        max_shift: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        if not 0 < val_fraction + test_fraction < 1:
            raise DataError(
                f"val_fraction={val_fraction} and test_fraction={test_fraction} leave nothing to train on: "
                "their sum must be between 0 and 1."
            )
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.max_shift = max_shift if augment else 0
        self.seeded_items = self.max_shift > 0

    def setup(self, stage: str | None = None) -> None:
        """Make the three sets; they are the same for every stage."""
        images, labels = _load()
        num_val, num_test = (round(part * len(labels)) for part in (self.val_fraction, self.test_fraction))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.seed))
        train, val, test = order.split([len(labels) - num_val - num_test, num_val, num_test])
        self.train_set = Scans(images[train], labels[train], self.max_shift)
        self.val_set = Scans(images[val], labels[val])
        self.test_set = Scans(images[test], labels[test])


def _load() -> tuple[Tensor, Tensor]:
    # The file behind `sklearn.datasets.load_digits`: importing scikit-learn itself takes a second.
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("The digits are part of scikit-learn, which is not installed: pip install scikit-learn.")
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        raise DataError(f"This version of scikit-learn has no {file}: pip install 'scikit-learn==1.9.*'.")
    rows = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))  # 64 pixels from 0 to 16, then the digit
    return rows[:, :-1].reshape(-1, 1, 8, 8) / 16, rows[:, -1].to(torch.int64)
