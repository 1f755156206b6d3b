"""Decides what a sample of text is: `seq_len` bytes of local files, and the same moved on by one byte."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cairn.data.datamodule import DataModule
from cairn.errors import DataError
from project.data.corpus import Corpus


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Sample i is the bytes [i * seq_len, (i + 1) * seq_len] of a part of a file, as (x, y), both int64
    (seq_len,).

    y is what comes one byte after x. The file is mapped, not read: only the samples that are used take
    memory.

    Args:
        path: of the file.
        first, last: the part: bytes [first, last).
        seq_len: bytes of a sample.
    """

    def __init__(self, path: Path, first: int, last: int, seq_len: int) -> None:
        self.path = path
        self.first = first
        self.last = last
        self.seq_len = seq_len

    def __len__(self) -> int:
        return max(0, self.last - self.first - 1) // self.seq_len

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        start = self.first + index * self.seq_len
        window = torch.from_numpy(self._bytes[start : start + self.seq_len + 1].astype(np.int64))
        return window[:-1], window[1:]

    @cached_property
    def _bytes(self) -> "np.memmap[Any, np.dtype[np.uint8]]":
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    def __getstate__(self) -> dict[str, Any]:
        # A map is pickled by value, all gigabytes of it: a worker opens its own.
        return {name: value for name, value in self.__dict__.items() if name != "_bytes"}


class Text(DataModule):
    """Bytes of local files for a language model: x and y int64 (batch, seq_len), values 0 to 255.

    The files, sorted by path, are one text; its end is for validation, and what comes last for the test. It
    is put together once, in a file under `cache_dir`.

    Args:
        files: a glob, where `**` goes into folders; None takes the sources of Python's standard library.
        cache_dir: folder for the text as one file.
        seq_len: bytes of a sample.
        val_fraction, test_fraction: of the bytes.

    The other arguments are those of `DataModule`.
    """

    seeded_items = False

    def __init__(
        self,
        files: str | None = None,
        cache_dir: str = "data/text",
        batch_size: int = 32,
        *,
        seq_len: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        drop_last: bool = False,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
    ) -> None:
        super().__init__(
            batch_size,
            num_workers=num_workers,
            seed=seed,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            drop_last=drop_last,
        )
        self.files = files
        self.cache_dir = Path(cache_dir)
        self.seq_len = seq_len
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction

    @cached_property
    def corpus(self) -> Corpus:
        """The files, looked up once.

        Raises:
            FileNotFoundError: if the glob matches nothing.
        """
        return Corpus.find(self.files)

    def prepare_data(self) -> None:
        """Put the files together; one process of a machine does this before the others look."""
        self.corpus.cache_in(self.cache_dir)

    def setup(self, stage: str | None = None) -> None:
        """Make the three sets; the same ones for every stage.

        Raises:
            ValueError: if one of them would be empty.
        """
        path, num_bytes = self.corpus.cache_in(self.cache_dir), self.corpus.num_bytes
        test = num_bytes - int(num_bytes * self.test_fraction)
        val = test - int(num_bytes * self.val_fraction)
        self.train_set = self._windows("train", path, 0, val)
        self.val_set = self._windows("val", path, val, test)
        self.test_set = self._windows("test", path, test, num_bytes)

    def identity(self) -> dict[str, Any]:
        """That of `DataModule`, with the text and the length of its samples."""
        return super().identity() | {"text": self.corpus.fingerprint, "seq_len": self.seq_len}

    def _windows(self, name: str, path: Path, first: int, last: int) -> Windows:
        windows = Windows(path, first, last, self.seq_len)
        if not len(windows):
            raise DataError(
                f"The {name} part of the text has {last - first} bytes, too few for one sample of"
                f" seq_len={self.seq_len} and the byte after it: take more files, a shorter seq_len, or other"
                " fractions."
            )
        return windows
