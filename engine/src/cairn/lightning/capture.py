"""A whole run at a boundary as a plain dict, and back: Lightning's state, and under `cairn` what it leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import move_data_to_device
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torchmetrics import MetricTracker

from cairn.data.loader import DataLoader
from cairn.errors import ConfigError, ResumeError, SaveError
from cairn.lightning import boundary, state, sums
from cairn.lightning.hyperparameters import plain_hyperparameters
from cairn.types import Position


@dataclass(frozen=True)
class Origin:
    """Where checkpoints come from: what each of them says of its run."""

    run: str
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def refuse(trainer: Trainer, module: LightningModule) -> None:
    """Refuse what keeps state where no checkpoint can see it.

    Raises:
        ConfigError: names it, and what to use instead.
    """
    if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):
        raise ConfigError(
            "StochasticWeightAveraging cannot be resumed (it keeps its averages where no checkpoint sees them): "
            "use lightning.pytorch.callbacks.EMAWeightAveraging."
        )
    if any(isinstance(part, MetricTracker) for part in module.modules()):
        raise ConfigError(
            "A torchmetrics.MetricTracker cannot be resumed (it makes a metric per epoch): log the metric itself, "
            "metrics.csv has its history."
        )


def check_data(trainer: Trainer) -> None:
    """Check that the position in the training data is saved; log by name the loaders that do not save theirs.

    Raises:
        DataError: The position in an iterable dataset of a `cairn.DataLoader` cannot be saved.
    """
    loaders = boundary.train_loaders(trainer)
    for loader in loaders:
        if isinstance(loader, DataLoader):
            loader.check_resumable()
    if unknown := sorted({type(loader).__name__ for loader in loaders if not hasattr(loader, "state_dict")}):
        rank_zero_warn(
            f"A training loader does not save its position ({', '.join(unknown)}): after a resume inside an epoch it "
            f"starts again from its head, so that batches come twice, and others not at all. cairn.DataLoader is a "
            f"drop-in for torch's that saves it."
        )


def capture(
    trainer: Trainer, place: boundary.Place, position: Position, origin: Origin, clock: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of a checkpoint, with references to live tensors. Every rank takes part; rank 0's is complete.

    Raises:
        SaveError: a logger could not write down what belongs to this position (on rank 0).
    """
    contents = boundary.dump(trainer, place)
    ranks = _gathered(_rank_state(trainer), trainer)  # all ranks meet here, before anything can fail on one of them
    contents[state.KEY] = {
        "format": state.FORMAT,
        "place": place,
        "position": asdict(position),
        "run": origin.run,
        "config": dict(origin.config),
        "should_stop": trainer.should_stop,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "threads": torch.get_num_threads(),
        "loggers": _logger_states(trainer),
        "ranks": ranks,
        "clock": dict(clock),
    }
    return plain_hyperparameters(contents)


def check(ours: Mapping[str, Any], world_size: int) -> None:
    """Can this be restored here?

    Raises:
        ResumeError: it is of a later format, or of another number of processes.
    """
    if ours["format"] > state.FORMAT:
        raise ResumeError(f"The checkpoint has format {ours['format']}, and this Cairn reads up to {state.FORMAT}.")
    if len(ours["ranks"]) != world_size:
        raise ResumeError(
            f"The checkpoint was saved by {len(ours['ranks'])} processes and is loaded by {world_size}: an exact "
            f"resume needs as many (trainer.devices, trainer.num_nodes); init_weights=FILE takes the weights alone."
        )


def warn_of_threads(trainer: Trainer, ours: Mapping[str, Any]) -> None:
    """On a CPU the number of threads decides in which order sums are rounded."""
    before, now = ours["threads"], torch.get_num_threads()
    if before != now and trainer.strategy.root_device.type == "cpu":
        rank_zero_warn(
            f"The checkpoint was made with {before} threads and this process has {now}: the run goes on, but not to "
            f"the same bits. OMP_NUM_THREADS={before} sets it."
        )


def restore(trainer: Trainer, ours: Mapping[str, Any]) -> None:
    """Put back what Lightning does not restore, the random number generators last."""
    module, mine = trainer.lightning_module, ours["ranks"][trainer.global_rank]
    # A GradientAccumulationScheduler sets it in a hook that a resumed epoch does not repeat.
    trainer.accumulate_grad_batches = ours["accumulate_grad_batches"]
    boundary.set_counters(trainer, mine["counters"])
    sums.set_metrics(module, mine["metrics"])
    sums.set_logged(trainer, mine["logged"])
    state.set_modes(module, mine["modes"])
    state.set_buffers(module, mine["buffers"])
    state.set_gradients(module, mine["gradients"])
    boundary.set_sync_flags(trainer, mine["sync"])
    for callback in trainer.callbacks:
        if callback.state_key in mine["callbacks"]:
            callback.load_state_dict(mine["callbacks"][callback.state_key])
    state.set_rng_state(mine["rng"])


def restore_loggers(trainer: Trainer, ours: Mapping[str, Any]) -> None:
    """Cut the history of the loggers that know their place to this one."""
    for name, logger in _resumable_loggers(trainer).items():
        if name in ours["loggers"]:
            logger.load_state_dict(ours["loggers"][name])


def sync_loggers(trainer: Trainer) -> None:
    """Let the history up to the last `capture` survive a power cut: it takes the disk's time, and nobody's else.

    Raises:
        SaveError: that is not sure.
    """
    with _as_a_failed_save():
        for logger in _resumable_loggers(trainer).values():
            getattr(logger, "sync", lambda: None)()


def _logger_states(trainer: Trainer) -> dict[str, Any]:
    with _as_a_failed_save():
        return {name: logger.state_dict() for name, logger in _resumable_loggers(trainer).items()}


@contextmanager
def _as_a_failed_save() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise SaveError(f"The metrics up to this checkpoint could not be written: {why}.") from error


def _resumable_loggers(trainer: Trainer) -> dict[str, Any]:
    """Loggers that can say where they stand, by class and number: `CSVLogger 0`."""
    classes: Counter[str] = Counter()
    found: dict[str, Any] = {}
    for logger in trainer.loggers:
        if hasattr(logger, "state_dict") and hasattr(logger, "load_state_dict"):
            name = type(logger).__name__
            found[f"{name} {classes[name]}"] = logger
            classes[name] += 1
    return found


def _rank_state(trainer: Trainer) -> dict[str, Any]:
    module = trainer.lightning_module
    return {
        "rng": state.rng_state(),
        "counters": boundary.counters(trainer),
        "logged": sums.logged(trainer),
        "metrics": sums.metrics(module),
        "modes": state.modes(module),
        "buffers": state.buffers(module, every=trainer.world_size > 1),
        "gradients": {} if module.automatic_optimization else state.gradients(module),
        "sync": boundary.sync_flags(trainer),
        # Lightning saves those of rank 0.
        "callbacks": boundary.callback_states(trainer) if trainer.global_rank > 0 else {},
    }


def _gathered(mine: dict[str, Any], trainer: Trainer) -> list[dict[str, Any]]:
    """The states of all ranks in their order, on rank 0; elsewhere nothing."""
    if trainer.world_size == 1:
        return [mine]
    # What another rank's GPU holds would be put on that GPU again, by this process: a context there, and slow copies.
    mine = move_data_to_device(mine, torch.device("cpu"))
    ranks: list[Any] = [None] * trainer.world_size
    torch.distributed.gather_object(mine, ranks if trainer.is_global_zero else None, dst=0)
    return ranks
