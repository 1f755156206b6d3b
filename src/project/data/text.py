"""Text for a language model: a sample is `seq_len` bytes of local files, and the same shifted by one byte."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import cairn
from cairn.errors import DataError

from .corpus import Corpus


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (x, y), both int64 (seq_len,): consecutive windows of a part of a file; y is x shifted by one byte.

    The file is memory-mapped: only the samples in use take memory.

    Args:
        path: The file.
        first: Offset of the first byte of the part.
        last: Offset of the end of the part (exclusive).
        seq_len: Bytes per sample.
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
        # Pickle would copy the whole mapped file: each worker maps it again instead.
        return {name: value for name, value in self.__dict__.items() if name != "_bytes"}


class Text(cairn.DataModule):
    """Bytes of local files for a language model: x and y int64 (batch, seq_len), values 0 to 255.

    The files, sorted by path, are joined into one file under `cache_dir`. The end of the text is used
    for the test, and the part before it for validation.

    Args:
        files: A glob (`**` matches folders); None uses the sources of Python's standard library.
        cache_dir: Directory for the joined file.
        batch_size: Samples per batch and process.
        seq_len: Bytes per sample.
        val_fraction: Fraction of the bytes for validation.
        test_fraction: Fraction of the bytes for the test.
        options: Other arguments of `cairn.DataModule`.
    """

    seeded_items = False

    def __init__(
        self,
        files: str | None = None,
        cache_dir: str = "data/text",
        batch_size: int = 32,
        *,
        seq_len: int = 128,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        self.files = files
        self.cache_dir = Path(cache_dir)
        self.seq_len = seq_len
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction

    @cached_property
    def corpus(self) -> Corpus:
        """The files of the text, found once.

        Raises:
            FileNotFoundError: No file matches the glob.
        """
        return Corpus.find(self.files)

    def prepare_data(self) -> None:
        """Join the files; Lightning calls this in one process per machine, before `setup`."""
        self.corpus.cache_in(self.cache_dir)

    def setup(self, stage: str | None = None) -> None:
        """Make the three sets; they are the same for every stage.

        Raises:
            ValueError: A set would be empty.
        """
        path, num_bytes = self.corpus.cache_in(self.cache_dir), self.corpus.num_bytes
        test = num_bytes - int(num_bytes * self.test_fraction)
        val = test - int(num_bytes * self.val_fraction)
        self.train_set = self._windows("train", path, 0, val)
        self.val_set = self._windows("val", path, val, test)
        self.test_set = self._windows("test", path, test, num_bytes)

    def identity(self) -> dict[str, Any]:
        """Extend the identity of the data: a checkpoint of another text, or another `seq_len`, is refused."""
        return super().identity() | {"text": self.corpus.fingerprint, "seq_len": self.seq_len}

    def _windows(self, name: str, path: Path, first: int, last: int) -> Windows:
        windows = Windows(path, first, last, self.seq_len)
        if not len(windows):
            raise DataError(
                f"The {name} part of the text has {last - first} bytes, too few for one sample of "
                f"seq_len={self.seq_len} plus one byte: use more files, a shorter seq_len, or other fractions."
            )
        return windows
