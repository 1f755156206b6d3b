"""A drop-in for torch's DataLoader whose position is saved in every checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils import data
from torch.utils.data import BatchSampler, Dataset, IterableDataset, Sampler

from cairn.data import arguments, generators, parallel, plain_loop, position, source, workers
from cairn.data.batches import Batches
from cairn.data.divided_position import DividedPosition
from cairn.data.global_batches import GlobalBatches
from cairn.data.iterable import StatefulBatches, is_iterable
from cairn.data.position import Position
from cairn.data.sampler import rank_and_world_size
from cairn.data.seeding import SeededItems, mix_seed
from cairn.data.substreams import StreamedBatches
from cairn.data.window_position import WindowPosition
from cairn.errors import DataError

_SEEDED_ELSEWHERE = {
    *("dataset", "sampler", "batch_sampler", "generator"),
    *("collate_fn", "worker_init_fn", "_position", "_iterator"),
}
"""Attributes of a loader whose generators are seeded elsewhere."""


class DataLoader(data.DataLoader[Any]):
    """torch's DataLoader with a position: a number of batches, in an order that is a function of (seed, epoch).

    It takes what `torch.utils.data.DataLoader` takes, and works wherever Lightning takes one, also in lists, dicts and
    a `CombinedLoader`, and on several processes, each of which loads its own part (whatever the Trainer's
    `use_distributed_sampler` says). The samples do not depend on the number of workers.

    - A `sampler` draws from generators that are seeded by (seed, epoch), see `SeededOrder`; a sample from generators
      that are seeded by (seed, epoch, index), also those that the dataset owns. Without random numbers in the dataset,
      `seeded_items=False` saves 11 us a sample.
    - An `IterableDataset` that is trained on needs `state_dict()` and `load_state_dict(state)`, see `StatefulBatches`,
      and for several workers or processes also `shard(num_shards, index)`, which returns a part of it; or
      `replay=True`, to start again from its beginning after a resume.
    - With `global_batch_size`, the epoch is divided into global batches, and each of them among the processes. A run
      can then be resumed on another number of processes: the Trainer accumulates gradients over as many batches of each
      process as a global batch has, and steps, names and intervals count global batches.
    - If a subclass has its own `__iter__`, a resume reads the epoch again up to the position.
    - Outside of Lightning, `set_epoch(epoch)` chooses the epoch.

    Args:
        dataset: Map-style or iterable.
        batch_size: Samples in a batch of one process; None if the dataset's items are batches. With
            `global_batch_size`, the most samples that a process loads at a time.
        shuffle: Whether each epoch has a new order.
        sampler: Yields indices; takes the place of `shuffle`.
        batch_sampler: Yields lists of indices; takes the place of `batch_size`, `shuffle`, `sampler` and `drop_last`.
        num_workers: Number of processes that load; 0: the main process.
        collate_fn: Makes a batch of a list of samples.
        seed: Seed of the order of samples, and of the random numbers that samples draw.
        seeded_items: Whether generators are seeded for each sample, see `SeededItems`.
        replay: Whether an iterable may start again from its beginning after a resume inside an epoch.
        global_batch_size: Samples in the batches of all processes between two steps of the optimizer; None: each
            process has batches of its own.
        worker_init_fn: As in torch.
        generator: As in torch; by default one of its own, which each epoch seeds.
        persistent_workers: As in torch; an iterable's workers are restarted in each epoch.
        **options: Further arguments of torch's DataLoader.

    Raises:
        DataError: An argument is not what it must be, or contradicts another one.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        *,
        seed: int = 0,
        seeded_items: bool = True,
        replay: bool = False,
        global_batch_size: int | None = None,
        worker_init_fn: Callable[[int], None] | None = None,
        generator: torch.Generator | None = None,
        persistent_workers: bool = False,
        **options: Any,
    ) -> None:
        arguments.check(dataset, batch_size, shuffle, sampler, batch_sampler, bool(options.get("drop_last")))
        arguments.check_others(seed, num_workers, options.get("in_order", True), collate_fn, worker_init_fn)
        self.seed, self.seeded_items, self.replay = seed, seeded_items, replay
        dealing = None
        if global_batch_size is not None and not source.is_of_a_prediction(batch_sampler):
            _check_iteration(type(self))
            if not is_iterable(dataset):
                drop_last = bool(options.pop("drop_last", False))
                dealing = source.dealing(batch_size, batch_sampler, global_batch_size, drop_last)
        self.global_batch_size = global_batch_size
        self.is_dealt = global_batch_size is None  # True: the caller knows how many batches a global one has
        self.owns_generator = generator is None
        self.is_deferred = False  # True: the next iterators are empty, because a resume creates its own later
        options |= {
            "num_workers": num_workers,
            "worker_init_fn": workers.init_fn(worker_init_fn),
            # Creating an iterator draws a number, which must not come from the global generator.
            "generator": generator or torch.Generator().manual_seed(mix_seed(seed)),
            "persistent_workers": persistent_workers and num_workers > 0,
        }
        self._position: Position
        keywords: dict[str, Any]
        if is_iterable(dataset):
            keywords = {
                "drop_last": bool(options.pop("drop_last", False)),
                "replay": replay,
                "num_workers": num_workers,
            }
            keywords |= {"seed": seed if seeded_items else None, "global_batch_size": global_batch_size}
            self._position, more = source.iterable(dataset, batch_size, collate_fn, **keywords)
        else:
            keywords = {"seed": seed, "keyed": seeded_items, "dealing": dealing}
            sampling = (bool(shuffle), sampler, batch_sampler)
            self._position, more = source.map_style(dataset, batch_size, *sampling, collate_fn, **keywords)
        super().__init__(**options | more)
        # Lightning looks for the order here, also if torch was given a batch sampler; torch refuses a plain assignment.
        object.__setattr__(self, "sampler", self._position.order)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__iter__" in vars(cls):
            cls.__iter__ = _as_position(cls.__iter__)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"generator": generators.packed(self.generator)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, generator=generators.unpacked(state["generator"]))

    def __iter__(self) -> Any:
        if self.is_deferred:
            return iter(())
        if not self.is_dealt:
            # Lightning validates without gradients.
            plain_loop.warn(self.global_batches, is_training=torch.is_grad_enabled())
        if isinstance(self.dataset, SeededItems):
            self.dataset.search_again()
        return self._position.iterate(partial(_seeded_by_epoch, self, super().__iter__))

    def __len__(self) -> int:
        if self._position.is_divided:
            raise TypeError("The number of batches is not known: substreams may have different lengths.")
        return super().__len__()

    @property
    def _index_sampler(self) -> Any:
        # torch reads this property when it creates an iterator.
        indices: Any = super()._index_sampler
        if type(indices) is BatchSampler:
            return Batches(indices.sampler, indices.batch_size, indices.drop_last)
        return indices

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iterator. Lightning does so by itself."""
        self._position.order.set_epoch(epoch)

    def at_boundary(self, lag: int, epoch_is_over: bool, iterator: Any = None) -> None:
        """Prepare `state_dict` for a boundary of the training.

        Args:
            lag: Batches handed out but not trained on: Lightning fetches one ahead if the data has no length.
            epoch_is_over: The next batch is the first one of the next epoch.
            iterator: The iterator that training uses; None: the latest one.
        """
        self._position.at_boundary(lag, epoch_is_over, iterator)

    def check_resumable(self, is_tried: bool = False) -> None:
        """Warn if a sampler may draw other samples after a resume, unless a loader of its kind `is_tried` already.

        Raises:
            DataError: The position in an iterable dataset cannot be saved.
        """
        if not self.replay:
            self._position.check_resumable(self.num_workers, is_tried)

    @property
    def global_batches(self) -> GlobalBatches | StreamedBatches | None:
        """The global batches of an epoch and this process's share; None without `global_batch_size`.

        Raises:
            DataError: They cannot be divided equally among the processes.
        """
        self.is_dealt = True
        return self._position.global_batches

    @property
    def has_grown(self) -> bool:
        """Whether the dataset has another size than at the beginning of the run."""
        return self._position.has_grown

    def identity(self) -> dict[str, Any]:
        """Return what must not change between a checkpoint and its resume; an iterable has no `num_samples`."""
        return _identity(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the identity, and the position after the batches that were *trained on*, as plain values."""
        return self.identity() | self._position.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next iterator, and only that one, start at a saved position.

        Raises:
            DataError: The position belongs to other data; the message names all differences.
        """
        position.keep_way(self._position.order, state_dict)
        self._position.check(state_dict, self.identity())
        if not self.is_dealt and (text := other_counters(self, state_dict)):
            rank_zero_warn(text)
        self._position.seek(state_dict)


def _check_iteration(kind: type) -> None:
    if "__iter__" in {name for one in kind.__mro__[: kind.__mro__.index(DataLoader)] for name in vars(one)}:
        raise DataError(
            f"global_batch_size counts batches, and {kind.__name__}.__iter__ may yield others: leave one of them out.",
            parameter="global_batch_size",
        )


def other_counters(loader: DataLoader, state: Mapping[str, Any]) -> str:
    """See `WindowPosition.other_counters`."""
    now = loader._position
    return now.other_counters(state) if isinstance(now, WindowPosition) else ""


def num_substreams(loader: DataLoader) -> int | None:
    """Return the number of substreams that the iterable of a loader is read as; None if this is not known."""
    return loader._position.num_substreams if isinstance(loader._position, DividedPosition) else None


def keep_substreams(loader: DataLoader, number: int | None) -> None:
    """Let a new loader of a run read as many substreams as the one before, whatever its number of workers."""
    if number is not None and isinstance(loader._position, DividedPosition):
        loader._position.num_substreams = number


def rewind(loader: DataLoader) -> None:
    """Let the next iterator be that of the first epoch."""
    loader._position.rewind()


def _identity(loader: DataLoader) -> dict[str, Any]:
    dataset: Any = loader.dataset
    batch_size = dataset.batch_size if isinstance(dataset, StatefulBatches) else loader.batch_size
    identity = {"batch_size": batch_size, "seed": loader.seed, "world_size": parallel.share(*rank_and_world_size())[1]}
    drop_last = loader.drop_last
    if (dealing := loader._position.order.dealing) is not None:  # the same on any number of processes
        identity, drop_last = {"global_batch_size": dealing.size, "seed": loader.seed}, dealing.drop_last
    if isinstance(dataset, IterableDataset):
        size = {} if loader.global_batch_size is None else {"global_batch_size": loader.global_batch_size}
        return {name: value for name, value in identity.items() if name != "world_size" or not size} | size
    dataset = dataset.wrapped if isinstance(dataset, SeededItems) else dataset
    size = {"num_samples": len(dataset)} if hasattr(dataset, "__len__") else {}
    return identity | {"drop_last": drop_last, **loader._position.order.identity()} | size


def _as_position(iterate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the `__iter__` of a subclass with a position."""

    @wraps(iterate)
    def iterate_with_position(loader: DataLoader) -> Any:
        if loader.is_deferred:
            return iter(())
        own = {name: value for name, value in vars(loader).items() if name not in _SEEDED_ELSEWHERE}
        seed = loader.seed if loader.seeded_items else None
        return loader._position.iterate_as(partial(iterate, loader), generators.Generators(**own), seed)

    return iterate_with_position


def _seeded_by_epoch(loader: DataLoader, create: Callable[[], Any]) -> Any:
    if loader.owns_generator:
        # The seeds of the workers come from it. They are a function of (seed, epoch), so no checkpoint holds them.
        loader.generator.manual_seed(mix_seed(loader.seed, loader._position.order.turn))
    return create()
