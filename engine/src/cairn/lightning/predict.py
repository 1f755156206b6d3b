"""Predict with a Trainer into a directory: divided among processes, in parts, and resumable."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden

from cairn.data.seeding import mix_seed, seed_global_generators, seeded
from cairn.errors import CairnError, CheckpointError, ConfigError, DataError, ModelError, first_line
from cairn.lightning import predicted_data
from cairn.lightning.predicted_data import Share
from cairn.lightning.predicted_loader import LoaderPredictions
from cairn.predictions import plan as plans
from cairn.predictions.parts import PLAN, Parts
from cairn.predictions.plan import Plan
from cairn.predictions.reading import LOADER
from cairn.writing import exported

log = logging.getLogger(__name__)

_FIRST, _SECOND = "predict_dataloader", "test_dataloader"
_STAGES = {_FIRST: "predict", _SECOND: "test"}


def write_predictions(
    trainer: Trainer,
    model: LightningModule,
    data: Any = None,
    *,
    directory: str | Path,
    ckpt_path: str | Path | None = None,
    seed: int = 0,
    made_with: Mapping[str, Any] | None = None,
) -> None:
    """Predict with `Trainer.predict`, and write what `predict_step` returns; `cairn.load_predictions` reads it.

    Killed at any point and repeated, it goes on after the last part that was written, on any number of processes, and
    ends with the same files. Each sample is predicted once, in the order of the data. Random numbers that the model
    draws are a function of (seed, batch).

    Args:
        trainer: The trainer.
        model: The model.
        data: A data module, of which `predict_dataloader` is used, or else `test_dataloader`; or loaders; None: those
            of the model.
        directory: Where the parts go.
        ckpt_path: Checkpoint to load; None: the current weights.
        seed: Seed of the random numbers.
        made_with: What else the predictions depend on, as plain values. Where it differs from that of the predictions
            in the directory, they are refused.

    Raises:
        ConfigError: The directory holds predictions of something else, or safetensors is missing.
        DataError: There is nothing to predict, or it cannot be divided.
        CheckpointError: A part is missing at the end.
        ModelError: `predict_step` returns something that cannot be written.
        SaveError: The disk refuses a part.
    """
    exported.require("write_predictions", "safetensors")
    owner = data if isinstance(data, LightningDataModule) else _Loaders(data) if data is not None else model
    name = _loader_name(owner)
    writer = _Writer(Path(directory), seed, made_with or {})
    original = getattr(owner, name)
    limit = trainer.limit_predict_batches
    shares = {"predict_dataloader": lambda: writer.begin_later(trainer, original, limit)}
    with (
        _replaced(owner, **shares, **_with_stage(owner, name)),
        _with_callback(trainer, writer),
        _explained(model, name, writer),
    ):
        trainer.limit_predict_batches = 1.0  # the limit is about the whole, and not about the share of a process
        try:
            with warnings.catch_warnings(), seeded(seed):
                warnings.filterwarnings("ignore", "Total length of")  # all parts are there
                module = owner if isinstance(owner, LightningDataModule) else None
                trainer.predict(model, None, module, return_predictions=False, ckpt_path=ckpt_path, weights_only=True)
        finally:
            trainer.limit_predict_batches = limit
    writer.end(trainer)


def _loader_name(owner: Any) -> str:
    base = LightningModule if isinstance(owner, LightningModule) else LightningDataModule
    for name in _STAGES:
        if is_overridden(name, owner, base):
            return name
    raise DataError(f"{type(owner).__name__} has neither a {_FIRST} nor a {_SECOND}: add one of them.")


def _with_stage(owner: Any, name: str) -> dict[str, Any]:
    """Return the `setup` of a data module whose loaders for the test are used: it makes those in the stage `test`."""
    if isinstance(owner, LightningModule):
        return {}
    setup = owner.setup
    return {"setup": lambda stage=None: setup(_STAGES[name])}


@contextmanager
def _replaced(owner: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """Replace methods of one object."""
    before = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    for name, function in methods.items():
        object.__setattr__(owner, name, function)
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(owner, name)
        for name, function in before.items():
            object.__setattr__(owner, name, function)


@contextmanager
def _with_callback(trainer: Trainer, callback: Callback) -> Iterator[None]:
    callbacks: list[Callback] = trainer.callbacks
    callbacks.append(callback)
    try:
        yield
    finally:
        callbacks.remove(callback)


@contextmanager
def _explained(model: LightningModule, name: str, writer: _Writer) -> Iterator[None]:
    """Say what is missing if the predict_step of Lightning calls forward with batches that it does not take."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, CairnError) or not writer.has_begun or is_overridden("predict_step", model):
            raise
        raise ModelError(
            f"{type(model).__name__} has no predict_step, and its forward does not take a batch of {name} "
            f"({first_line(error)}): add a predict_step that returns what is to be written."
        ) from error


class _Loaders(LightningDataModule):
    """A data module for loaders that the caller has made."""

    def __init__(self, loaders: Any) -> None:
        super().__init__()
        self.loaders = loaders

    def predict_dataloader(self) -> Any:
        return self.loaders


class _Writer(Callback):
    """Writes parts of the predictions as soon as they are complete.

    Args:
        directory: Where they go.
        seed: Seed of the random numbers that the model draws.
        made_with: What the predictions depend on.
    """

    def __init__(self, directory: Path, seed: int, made_with: Mapping[str, Any]) -> None:
        self.directory, self.seed, self.made_with = directory, seed, dict(made_with)
        self._all: list[LoaderPredictions] = []
        self.has_begun = False
        """Whether a batch was given to the model."""
        self._num_loaders = 0
        self._refused: Exception | None = None

    def begin_later(self, trainer: Trainer, loaders: Callable[[], Any], limit: float) -> Any:
        """As `begin`, but `end` raises its error: after one in a hook, Lightning leaves classes of loaders changed."""
        try:
            return self.begin(trainer, loaders(), limit)
        except Exception as error:
            self._refused = error
            return []

    def begin(self, trainer: Trainer, loaders: Any, limit: float) -> Any:
        """Return the share of this process in each loader.

        Args:
            trainer: The trainer, whose processes have met.
            loaders: The loaders of the user.
            limit: `trainer.limit_predict_batches`.
        """
        together = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "sequential")
        if together._mode != "sequential":
            raise DataError(
                "Lightning predicts one loader after the other: set the mode of CombinedLoader to sequential."
            )
        flat = together.flattened
        if not flat:
            raise DataError("There is nothing to predict: the data module returns no loader.")
        self._num_loaders = len(flat)
        for number, loader in enumerate(flat):
            folder = self.directory if len(flat) == 1 else self.directory / f"{LOADER}{number}"
            self._all.append(self._begin(trainer, Parts(folder), loader, limit))
        shares = [item.share for item in self._all]
        return shares[0] if len(shares) == 1 else shares

    def _begin(self, trainer: Trainer, parts: Parts, loader: Any, limit: float) -> LoaderPredictions:
        strategy, world_size = trainer.strategy, trainer.world_size
        # A sampler of the user may draw random numbers: all processes take the batches of rank 0.
        batches = strategy.broadcast(predicted_data.batches_of(loader, limit, self.seed))
        if batches is None:
            predicted_data.check_alone(world_size)
        elif not batches:
            raise DataError("There is nothing to predict: the loader has no batch, or the limit of the trainer is 0.")
        made_with = {**self.made_with, "precision": str(trainer.precision)}
        error, plan, missing = None, None, []
        if trainer.is_global_zero:
            try:
                _check_number(self.directory, self._num_loaders)
                plan = parts.begin(plans.make(batches, world_size, self.seed, made_with))
                there = set(parts.there())
                missing = [part for part in range(plan.num_parts or 0) if part not in there]
                if there:
                    log.info("%s holds %d parts: they are not predicted again.", parts.directory, len(there))
            except Exception as raised:  # on all processes, so that none of them waits for the others
                error = raised
        error, plan, missing = strategy.broadcast((error, plan, missing))
        if error is not None:
            raise error
        assert plan is not None
        if batches is not None:
            share = Share(loader, batches, plans.deal(plan, missing, trainer.global_rank, world_size), 0, self.seed)
        elif plan.num_parts is not None:  # its end is known, because all of it has been predicted
            share = Share(loader, [], [], 0, self.seed)
        else:
            share = Share(predicted_data.Limited(loader, limit), None, [], _num_first(parts, plan), self.seed)
        return LoaderPredictions(parts, plan, share)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Seed what the model draws: it must not depend on where a run was killed."""
        self.has_begun = True
        seed = mix_seed(self.seed, dataloader_idx, self._all[dataloader_idx].entry().batch)
        torch.manual_seed(seed % 2**63)  # also the generators of accelerators
        seed_global_generators(seed)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the outputs, and write the part that they complete."""
        self._all[dataloader_idx].add(outputs)

    def end(self, trainer: Trainer) -> None:
        """Write what is left, and check that all processes have written their parts.

        Raises:
            CheckpointError: Some are missing.
        """
        if self._refused is not None:
            raise self._refused
        for item in self._all:
            item.end()
        try:
            trainer.strategy.barrier("predictions")
        except RuntimeError as error:  # Lightning looks after the other processes every few seconds only
            raise CheckpointError(
                "Another process has died before its predictions were written: repeat the command, which goes on there."
            ) from error
        for item in self._all if trainer.is_global_zero else ():
            item.check()


def _check_number(directory: Path, number: int) -> None:
    """Refuse predictions of another number of data loaders: their files have other places, and would stay.

    Raises:
        ConfigError: There are some.
    """
    own = [PLAN] if number == 1 else [f"{LOADER}{at}" for at in range(number)]
    there = [PLAN] * (directory / PLAN).exists() + [path.name for path in directory.glob(f"{LOADER}*")]
    if odd := [name for name in there if name not in own]:
        raise ConfigError(
            f"{directory} holds predictions of another number of data loaders ({min(odd)}). Delete this directory to "
            f"predict again, or name another one."
        )


def _num_first(parts: Parts, plan: Plan) -> int:
    """Return the number of batches in the parts that are there, without a gap, from the beginning."""
    number = 0
    for expected, part in enumerate(parts.there()):
        if part != expected:
            break
        number += len(parts.record(part).num_rows)
    return number
