"""Checks of the data before training: each loader saves its position, or is named."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import IterableDataset, RandomSampler, Subset

from cairn.data.copies import OUTSIDE, draws_nothing, outside
from cairn.data.generators import Generators, drawing
from cairn.data.hidden_state import hidden_state
from cairn.data.iterable import StatefulBatches
from cairn.data.loader import DataLoader
from cairn.data.seeding import SeededItems
from cairn.data.trial import is_constant
from cairn.lightning.loops import boundary
from cairn.lightning.loops.loaders import foreign, is_stateful

_HOW = "Use cairn.DataLoader, a drop-in for torch's DataLoader that saves its position."
_KNOWN_SAMPLERS = {"BatchSampler", "RandomSampler", "SequentialSampler", "_InfiniteConstantSampler"}
"""Samplers whose draws torchdata restores; a batch sampler, if it is around another one."""
_CHECKED: WeakKeyDictionary[Trainer, set[tuple[type, type]]] = WeakKeyDictionary()
"""Classes of the validation loaders that were checked, and of their data sets, by trainer."""
_PADDING = (type(None), type(None))
"""Stands there for the check of all loaders together."""


def check_data(trainer: Trainer) -> None:
    """Check that the position in the training data is saved; warn about each loader that does not save it.

    Raises:
        DataError: The position in an iterable dataset of a `cairn.DataLoader` cannot be saved.
    """
    loaders = boundary.train_loaders(trainer)
    for loader in loaders:
        if isinstance(loader, DataLoader):
            loader.check_resumable()
            if not loader.seeded_items and (owned := _owned_generators(loader)):
                rank_zero_warn(
                    f"The training data draws from a generator of its own ({owned}), which no checkpoint holds and "
                    f"seeded_items=False does not seed: a resumed run draws other numbers. Set seeded_items=True."
                )
            elif where := _drawing_in_workers(loader):
                rank_zero_warn(
                    f"The training data seems to draw random numbers in its workers ({where}), which no checkpoint "
                    f"holds and seeded_items=False does not seed: a run that is resumed inside an epoch draws other "
                    f"numbers. Set seeded_items=True."
                )
            if (hidden := hidden_state(loader)).endswith(OUTSIDE):
                rank_zero_warn(outside(hidden))
            elif hidden:
                rank_zero_warn(
                    f"The training data keeps a state of its own: {hidden}. A resumed run may train on other samples. "
                    f"Make a sample a function of its index and of random numbers, which are seeded for each sample."
                )
    if unknown := sorted({type(loader).__name__ for loader in loaders if not is_stateful(loader)}):
        rank_zero_warn(
            f"A training loader does not save its position ({', '.join(unknown)}): after a resume inside an epoch, it "
            f"starts again with the first batch, so some batches are repeated and others are skipped. {_HOW}"
        )
    for loader in foreign(loaders):
        if doubt := _doubt(loader):
            rank_zero_warn(f"{doubt} {_HOW}")
    _check_padding(trainer)


def check_val_data(trainer: Trainer) -> None:
    """Warn about a validation loader that makes a resume inexact; call it when a validation starts.

    Lightning creates these loaders for the first validation, which is not always the sanity check, and perhaps again in
    each epoch. Each kind is checked once: the search for generators takes milliseconds, and a trial seconds.
    """
    _check_padding(trainer)
    checked = _CHECKED.setdefault(trainer, set())
    before = {*checked}
    for loader in boundary.val_loaders(trainer):
        kind = _kind(loader)
        checked.add(kind)
        if kind in before:
            continue
        name = type(loader).__name__
        if getattr(loader, "persistent_workers", False) and not isinstance(loader, DataLoader):
            rank_zero_warn(
                f"A validation loader ({name}) keeps its workers between validations: they draw a seed at their first "
                f"start only, so that a resumed run is not bit-identical. Use cairn.DataLoader, or "
                f"persistent_workers=False."
            )
            break
        keeps_workers = isinstance(loader, DataLoader) and loader.persistent_workers
        if keeps_workers and (where := _drawing_in_workers(loader)):
            rank_zero_warn(
                f"A validation loader ({name}) seems to draw random numbers in workers that it keeps between "
                f"validations ({where}), and seeded_items=False does not seed them: a resumed run validates with "
                f"other random numbers. Set seeded_items=True."
            )
            break
        if owned := _owned_generators(loader):
            rank_zero_warn(
                f"A validation loader ({name}) draws from a generator of its own ({owned}), which no checkpoint holds: "
                f"a resumed run validates with other random numbers. Use cairn.DataLoader, which seeds it for each "
                f"sample."
            )
            break


def _check_padding(trainer: Trainer) -> None:
    """Warn once about a validation whose scores depend on the number of processes, although the training does not."""
    checked, size = _CHECKED.setdefault(trainer, set()), boundary.global_batch_size(trainer)
    loaders = boundary.val_loaders(trainer)
    padded = [loader for loader in loaders if getattr(loader, "global_batch_size", None) is None]
    padded = [loader for loader in padded if not isinstance(getattr(loader, "dataset", None), IterableDataset)]
    if size is None or trainer.world_size == 1 or not padded or _PADDING in checked:
        return
    checked.add(_PADDING)
    rank_zero_warn(
        f"A validation loader ({type(padded[0]).__name__}) has no global_batch_size: if its samples cannot be shared "
        f"equally, some count twice, and its scores depend on the number of processes. Use cairn.DataLoader(..., "
        f"global_batch_size={size})."
    )


def _kind(loader: Any) -> tuple[type, type]:
    """Return the classes of a loader and of the user's dataset in it."""
    dataset = getattr(loader, "dataset", None)
    while isinstance(dataset, SeededItems | StatefulBatches | Subset):
        dataset = dataset.dataset if isinstance(dataset, Subset) else dataset.wrapped
    return type(loader), type(dataset)


def _doubt(loader: Any) -> str:
    """Return why the state of a foreign loader may not be its position, as sentences; '' if it is known to be."""
    name, package = type(loader).__name__, {kind.__module__.partition(".")[0] for kind in type(loader).__mro__}
    if "litdata" in package:
        return (
            f"A training loader ({name} of litdata) ends an epoch only when it is read to its end, which Lightning "
            f"does not do: after a resume, an epoch may be skipped."
        )
    if "torchdata" not in package:
        return (
            f"A training loader ({name}) has a state of its own, which is saved and loaded, but whether it is the "
            f"position after the last trained batch is not known: a resumed run may repeat or skip batches. "
            f"cairn.testing.assert_exact finds out."
        )
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        return (
            f"A training loader ({name} of torchdata) over an iterable saves its position, but not the random numbers "
            f"that samples draw, and a resume after the last batch of an epoch may skip the next epoch."
        )
    if getattr(loader, "num_workers", 0):
        return (
            f"A training loader ({name} of torchdata) saves its position, but not the random numbers of its samples: "
            f"if they draw any, a resumed run is not bit-identical."
        )
    for sampler in (getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if _is_own(sampler) and not is_stateful(sampler) and not is_constant(sampler):
            return (
                f"A training loader ({name} of torchdata) saves its position, but not what {type(sampler).__name__} "
                f"draws from: after a resume, it draws other samples."
            )
    return ""


def _is_own(sampler: Any) -> bool:
    """Whether a loader of torchdata does not know how this sampler draws."""
    kind = type(sampler)
    known = kind.__module__.partition(".")[0] in ("torch", "torchdata")
    return sampler is not None and not (known and kind.__name__ in _KNOWN_SAMPLERS)


def _drawing_in_workers(loader: DataLoader) -> str:
    """Return the path of a function that seems to draw numbers that nothing seeds in the middle of an epoch."""
    if loader.seeded_items or not loader.num_workers or isinstance(loader.dataset, IterableDataset):
        return ""
    where = drawing(dataset=loader.dataset, collate_fn=loader.collate_fn)
    # An option may have turned the random numbers off, such as an augmentation.
    return "" if where and draws_nothing(loader.dataset, loader.collate_fn) else where


def _owned_generators(loader: Any) -> str:
    names = ["sampler", "batch_sampler", "collate_fn"]
    if getattr(loader, "num_workers", 0) or isinstance(getattr(loader, "sampler", None), RandomSampler):
        names.insert(0, "generator")  # otherwise, only a base seed is drawn from it, which nothing uses
    roots = {name: getattr(loader, name, None) for name in names}
    if isinstance(loader, DataLoader):
        is_seeded = loader.seeded_items or isinstance(loader.dataset, IterableDataset)
        roots = {} if is_seeded else {"dataset": loader.dataset, "collate_fn": loader.collate_fn}
        if roots and loader.num_workers and not loader.owns_generator:
            roots["generator"] = loader.generator
    elif not getattr(loader, "num_workers", 0):  # a worker begins with a copy in each validation
        roots["dataset"] = getattr(loader, "dataset", loader)
    return ", ".join(Generators(**roots).paths[:3])
