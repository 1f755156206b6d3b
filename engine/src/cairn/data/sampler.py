"""Decides in which order samples come: a function of (seed, epoch), with one integer as the position."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from cairn.data.seeding import mix_seed

_CHUNK = 1 << 16  # samples converted at a time: python integers of a whole epoch would take gigabytes


class EpochSampler(Sampler[Any]):
    """Indices of one rank, in an order that depends on nothing but (seed, epoch).

    Every rank gets ceil(num_samples / world_size) indices; if that is more than there are, the order starts
    again from its head to fill up, as in torch's DistributedSampler. The global generators are never drawn
    from. 100 million shuffled samples begin after 4 s, with 0.4 GB; in order, at once.

    Args:
        num_samples: size of the dataset.
        seed: of the shuffling.
        shuffle: False gives 0, 1, 2, ...
        rank, world_size: this rank takes every `world_size`-th index of the order, from `rank` on.
        keyed: yield (epoch, index) pairs, the keys of `SeededItems`, and not plain indices.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        keyed: bool = False,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"The rank of a sampler has to be in [0, world_size), but is {rank} of {world_size}.")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.keyed = keyed
        self._epoch = 0
        self._start = 0

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch, also after `seek`: Lightning subtracts what was done."""
        return -(-self.num_samples // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator; a start that was meant for another epoch is dropped.

        Lightning makes the first iterator of a resumed run *before* it calls this, with the same epoch: then
        nothing changes.
        """
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def seek(self, epoch: int, start: int) -> None:
        """Let the next iterator, and only that one, go on in `epoch` after `start` samples of this rank."""
        if start < 0:
            raise ValueError(f"A sampler starts at a number of samples >= 0, but was told to start at {start}.")
        self._epoch, self._start = epoch, start

    def __iter__(self) -> Iterator[Any]:
        # A plain method around a generator: the start counts when the iterator is made, not when it is first
        # used.
        epoch, start = self._epoch, self._start
        self._start = 0
        indices = self._indices(epoch, start)
        return ((epoch, index) for index in indices) if self.keyed else indices

    def _indices(self, epoch: int, start: int) -> Iterator[int]:
        order = self._order(epoch) if self.shuffle else None
        for first in range(start, len(self), _CHUNK):
            turns = torch.arange(first, min(first + _CHUNK, len(self)))
            places = (turns * self.world_size + self.rank) % self.num_samples
            yield from (places if order is None else order[places]).tolist()

    def _order(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        dtype = torch.int32 if self.num_samples < 2**31 else torch.int64
        return torch.randperm(self.num_samples, generator=generator, dtype=dtype)
