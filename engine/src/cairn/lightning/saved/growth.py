"""What training may change about its set-up: the parameter groups of optimizers, the batch size, and buffers.

A resume builds both again as they were at the start of the run, so that the state in a checkpoint would not fit. They
are changed to what they had become, before that state is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.data.position import BetweenEpochs
from cairn.lightning.saved import resized

_BATCH_SIZE = "batch_size"
"""The attribute that Lightning's BatchSizeFinder changes, of the data module or the model."""

Groups = list[list[str]]
"""Names of the parameters in each group of an optimizer."""


class Growth:
    """The changes of one training.

    Args:
        trainer: The trainer, before any hook of its fit has run.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._first_sizes = _batch_sizes(trainer)
        """Batch sizes by owner at the start of the run."""
        self._loaded_sizes = self._first_sizes
        """Those in the checkpoint that the fit begins with."""
        self._num_params: list[list[int]] | None = None
        """Numbers of parameters per group and optimizer, at the start of this fit."""
        self._groups: list[Groups] | None = None
        """Groups of a loaded checkpoint, until the optimizers are there."""
        self._have_grown = self._goes_on = False

    def state(self, trainer: Trainer) -> dict[str, Any]:
        """Return what has changed since the start of the run, as plain values; empty if nothing has."""
        changes: dict[str, Any] = {}
        self._have_grown = self._have_grown or _num_params(trainer) != self._num_params
        if self._have_grown:
            changes["groups"] = _groups(trainer)
        sizes = _batch_sizes(trainer)
        if sizes != self._first_sizes:
            changes["batch_size"] = {"first": dict(self._first_sizes), "now": sizes}
        if buffers := resized.record(trainer.lightning_module):
            changes["buffers"] = buffers
        return changes

    def restored(self, trainer: Trainer) -> None:
        """Note that everything is restored: groups that are added from here on are new."""
        count_repeated_groups(trainer)

    def load(self, trainer: Trainer, changes: Mapping[str, Any], goes_on: bool) -> None:
        """Take over changes before the loaders are built; a batch size that the user has changed stays.

        Args:
            trainer: The trainer.
            changes: What `state` returned.
            goes_on: Whether the run goes on; False: a new run starts from the state of another, with its own data.
        """
        self._groups, self._goes_on = changes.get("groups"), goes_on
        self._have_grown = self._groups is not None
        if goes_on and (sizes := changes.get("batch_size")):
            self._first_sizes, self._loaded_sizes = dict(sizes["first"]), dict(sizes["now"])
            for name, owner in _owners(trainer).items():
                if name in sizes["now"] and getattr(owner, _BATCH_SIZE, None) == sizes["first"].get(name):
                    setattr(owner, _BATCH_SIZE, sizes["now"][name])

    def adjust(self, checkpoint: Mapping[str, Any]) -> None:
        """Let loaders whose next epoch has not begun take another batch size, and between epochs other data.

        Args:
            checkpoint: What Lightning is about to load the positions of the loaders from.
        """
        for state in checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", []):
            if isinstance(state, BetweenEpochs):
                state.goes_on = self._goes_on
            # Training has changed it.
            if self._first_sizes != self._loaded_sizes and isinstance(state, dict) and state.get("batch") == 0:
                state.pop("batch_size", None)

    def begin(self, trainer: Trainer) -> None:
        """Give the optimizers the groups of the checkpoint, before Lightning loads their state."""
        groups, self._groups = self._groups, None
        if groups is None:
            self._num_params = _num_params(trainer)
            return
        # Hooks at the start of the training add groups that the checkpoint has already.
        ignore_repeated_groups(trainer)
        named = dict(trainer.lightning_module.named_parameters())
        for optimizer, saved in zip(trainer.optimizers, groups, strict=False):
            if all(name in named for names in saved for name in names):
                own = optimizer.param_groups
                optimizer.param_groups = [
                    # Its options come from the checkpoint.
                    {**(own[number] if number < len(own) else optimizer.defaults), "params": [named[n] for n in names]}
                    for number, names in enumerate(saved)
                ]


@contextmanager
def repeated_groups_ignored(trainer: Trainer) -> Iterator[None]:
    """Let hooks of a resumed epoch add a group again that the optimizer has already: this changes nothing."""
    ignore_repeated_groups(trainer)
    try:
        yield
    finally:
        count_repeated_groups(trainer)


def ignore_repeated_groups(trainer: Trainer) -> None:
    """Let `add_param_group` leave out groups that an optimizer has already."""
    for optimizer in _optimizers(trainer):
        optimizer.add_param_group = _adder(optimizer)


def count_repeated_groups(trainer: Trainer) -> None:
    """Undo `ignore_repeated_groups`."""
    for optimizer in _optimizers(trainer):
        vars(optimizer).pop("add_param_group", None)


def _optimizers(trainer: Trainer) -> list[Any]:
    """Return the optimizers, and what `LightningModule.optimizers()` returns in their place."""
    return [*trainer.optimizers, *trainer.strategy._lightning_optimizers]


def _adder(optimizer: Any) -> Any:
    add = optimizer.add_param_group

    def add_new(group: dict[str, Any]) -> None:
        params = group["params"]
        params = list(params) if not hasattr(params, "shape") else [params]
        known = {id(parameter) for own in optimizer.param_groups for parameter in own["params"]}
        if not params or not all(id(parameter) in known for parameter in params):
            add({**group, "params": params})

    return add_new


def _num_params(trainer: Trainer) -> list[list[int]]:
    return [[len(group["params"]) for group in optimizer.param_groups] for optimizer in trainer.optimizers]


def _groups(trainer: Trainer) -> list[Groups]:
    names = {id(parameter): name for name, parameter in trainer.lightning_module.named_parameters()}
    groups = [
        [[names.get(id(parameter), "") for parameter in group["params"]] for group in optimizer.param_groups]
        for optimizer in trainer.optimizers
    ]
    if any("" in group for optimizer in groups for group in optimizer):
        rank_zero_warn(
            "Training has added parameters to an optimizer that do not belong to the model: a resume cannot find them. "
            "Make them attributes of the model."
        )
    return groups


def _owners(trainer: Trainer) -> dict[str, Any]:
    model: LightningModule = trainer.lightning_module
    owners = {"data": trainer.datamodule, "model": model}
    own = {name: owner for name, owner in owners.items() if owner is not None}
    return own | {f"{name}.hparams": owner.hparams for name, owner in own.items() if hasattr(owner, "hparams")}


def _batch_sizes(trainer: Trainer) -> dict[str, int]:
    sizes = {name: getattr(owner, _BATCH_SIZE, None) for name, owner in _owners(trainer).items()}
    return {name: size for name, size in sizes.items() if type(size) is int}
