"""What is different in a run that is a part of a proof: shorter, without loggers that upload, and recorded.

In an ordinary run, each function returns what it was given.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from cairn.errors import ConfigError
from cairn.policy.when import AtEnd, Auto, Every, EveryNBatches, EveryNEpochs, EveryNSeconds, EveryNSteps, Trigger
from cairn.testing import proof_run
from cairn.testing.limits import shortened
from cairn.testing.proof_run import ProofRun
from cairn.types import Draft, Moment
from cairn.writing.options import Writing

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from cairn.hydra.parse.settings import CheckpointSettings
    from cairn.lightning.checkpointer import Checkpointer
    from cairn.testing.record import Recording

_INTERVAL = 3
"""Save interval of a short run, in batches, in place of a longer one or of one that depends on the time."""
_ON_ALL_RANKS = (
    "cairn.FSDP2Strategy",
    "lightning.pytorch.strategies.DDPStrategy",
    "lightning.pytorch.strategies.ddp.DDPStrategy",
    "pytorch_lightning.strategies.DDPStrategy",
    "pytorch_lightning.strategies.ddp.DDPStrategy",
)
_recordings: list[Recording] = []


class SaveAfter:
    """Due once, after a number of batches. Its checkpoint does not last, so that it changes nothing in the long run."""

    lasting = recurs = False

    def __init__(self, num_batches: int | None) -> None:
        self.num_batches = num_batches

    def due(self, moment: Moment, saved: Sequence[Draft]) -> bool:
        return moment.position.total_batches == self.num_batches


def config(composed: DictConfig) -> DictConfig:
    """Return the configuration of this run: in a proof, a short version of it that writes to its directory only.

    Args:
        composed: The resolved configuration.

    Raises:
        ConfigError: A run with this configuration cannot be proved.
    """
    given = proof_run.current()
    if given is None:
        return composed
    plain: dict[str, Any] = OmegaConf.to_container(composed)  # type: ignore[assignment]
    if not plain.get("train", True):
        raise ConfigError("prove=true needs a training: leave out train=false.")
    _check_trains(plain["trainer"])
    trainer, notes = plain["trainer"], given.notes
    batches = _batches(trainer, given)
    notes += _notes(trainer, given, batches)
    trainer |= shortened(trainer, given.epochs, batches, given.val_batches)
    trainer |= {"max_time": None, "profiler": None, "log_every_n_steps": 1, "enable_progress_bar": False}
    trainer |= {"limit_test_batches": 1, "default_root_dir": str(given.directory)}
    trainer |= _on_this_machine(trainer, given)
    if other := [name for name, node in (plain.get("logger") or {}).items() if node and name != "csv"]:
        notes.append(f"loggers except CSV: {', '.join(other)} {'is' if len(other) == 1 else 'are'} left out")
    plain["logger"] = {"csv": {"_target_": "cairn.CSVLogger", "save_dir": str(given.directory / "csv")}}
    plain["checkpoint"]["dirpath"] = str(given.directory / "checkpoints")
    plain["predict"] = False  # of all data, in each of the runs
    changed: DictConfig = OmegaConf.create(plain)
    return changed


def _batches(trainer: Mapping[str, Any], given: ProofRun) -> int | None:
    """Return the limit of batches in an epoch: a window of accumulated gradients has to end inside of it."""
    window = trainer.get("accumulate_grad_batches") or 1
    return given.batches if window == 1 or given.batches is None else max(given.batches, window + 1)


def _notes(trainer: Mapping[str, Any], given: ProofRun, batches: int | None) -> list[str]:
    """Return what a proof never covers."""
    time = f", trainer.max_time={trainer['max_time']}" if trainer.get("max_time") else ""
    return [
        f"training after epoch {given.epochs} and after batch {batches} of an epoch, and validation after batch "
        f"{given.val_batches}: what first happens there, such as a later stage of a schedule",
        f"what depends on the time: saves by time, background writers{time}",
    ]


def checkpoint(group: CheckpointSettings) -> CheckpointSettings:
    """Return the settings of checkpoints: in a proof, one that is saved right where the run is killed.

    Raises:
        ConfigError: The run saves nothing.
    """
    given = proof_run.current()
    if given is None:
        return group
    if not group.triggers:
        raise ConfigError(
            "prove=true needs checkpoints, and checkpoint=none saves nothing that could be resumed: choose another "
            "preset, such as checkpoint=combined."
        )
    triggers = {name: _short(trigger) for name, trigger in group.triggers.items()}
    if not any(isinstance(trigger, AtEnd) for trigger in triggers.values()):
        # Otherwise a resumed run would test the checkpoint that it was resumed from, and other runs have no such.
        triggers[f"{proof_run.TRIGGER}_end"] = AtEnd()
    triggers[proof_run.TRIGGER] = SaveAfter(given.kill_after)
    # A writer in the background would commit at another moment in each run.
    return replace(group, triggers=triggers, writing=Writing("sync", when_busy="wait"))


def _short(trigger: Trigger) -> Trigger:
    inner = trigger.trigger if isinstance(trigger, Every) else trigger
    if isinstance(inner, EveryNSeconds | Auto):
        return EveryNBatches(_INTERVAL)
    if isinstance(inner, EveryNBatches):
        return EveryNBatches(min(inner.num_batches, _INTERVAL))
    if isinstance(inner, EveryNSteps):
        return EveryNSteps(min(inner.num_steps, _INTERVAL))
    if isinstance(inner, EveryNEpochs) and inner.num_epochs > 1:
        return EveryNEpochs(1)
    return trigger


def options(given_options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the Trainer that train.py sets itself."""
    given = proof_run.current()
    if given is None:
        return given_options
    found = {name: value for name, value in given_options.items() if name not in ("logger", "max_time", "profiler")}
    _check_trains(found)
    short = shortened(found, given.epochs, given.batches, given.val_batches)
    return {
        **found,
        **{name: value for name, value in short.items() if name in found},
        **_on_this_machine(found, given),
    }


def _check_trains(trainer: Mapping[str, Any]) -> None:
    if trainer.get("fast_dev_run"):
        raise ConfigError("fast_dev_run of the trainer saves nothing that could be resumed: not with prove=true.")


def _on_this_machine(trainer: Mapping[str, Any], given: ProofRun) -> dict[str, Any]:
    """Return the arguments that have to change, so that all processes of a run are started and killed here."""
    changed: dict[str, Any] = {}
    if trainer.get("num_nodes", 1) not in (1, "auto"):
        changed["num_nodes"] = 1
        given.notes.append("several nodes: trainer.num_nodes is 1 here")
    strategy = trainer.get("strategy", "auto")
    if strategy == "auto" or _is_read_on_all_ranks(strategy):
        if trainer.get("devices", 1) != 1:
            given.notes.append("attributes and states of callbacks on other ranks than 0, if there are several")
        return changed
    name = strategy.get("_target_") if isinstance(strategy, Mapping) else strategy
    shown = name if isinstance(name, str) else type(name).__name__
    given.notes.append(f"trainer.strategy={shown}: it is auto here, with one process")
    return {**changed, "devices": 1, "strategy": "auto"}


def _is_read_on_all_ranks(strategy: Any) -> bool:
    """Whether the facts of each process can be read there: of the whole model (DDP), or of its rows (FSDP2)."""
    if isinstance(strategy, str):
        return strategy.startswith("ddp")
    if isinstance(strategy, Mapping):
        return strategy.get("_target_") in _ON_ALL_RANKS
    from lightning.pytorch.strategies import DDPStrategy

    from cairn.lightning.fsdp.strategy import FSDP2Strategy

    return isinstance(strategy, DDPStrategy | FSDP2Strategy)


def callbacks(built: Sequence[Callback], checkpoints: Checkpointer) -> list[Callback]:
    """Return the callbacks of the trainer: in a proof, with one that records the run."""
    given = proof_run.current()
    if given is None:
        return list(built)
    from lightning.pytorch.callbacks import Checkpoint, ProgressBar

    from cairn.testing.record import Recording

    recording = Recording(given)
    _recordings.append(recording)
    checkpoints.watchers.append(recording)
    kept = []
    for callback in built:
        elsewhere = isinstance(callback, Checkpoint) and _writes_elsewhere(callback, given.directory)
        if elsewhere and callback is not checkpoints:
            given.notes.append(f"{type(callback).__name__} with a directory of its own: it is left out")
        elif not isinstance(callback, ProgressBar):
            kept.append(callback)
    return [*kept, recording]


def _writes_elsewhere(callback: Any, directory: Path) -> bool:
    path = getattr(callback, "dirpath", None)
    return path is not None and not Path(path).absolute().is_relative_to(directory)


def load(script: str) -> str:
    """Import what every run imports; called once, before the runs are forked."""
    from cairn.hydra.run import imports

    with imports.quick():
        import cairn.hydra.run.session
        import cairn.testing.record  # noqa: F401
    return script


def run(script: str, given: ProofRun, argv: Sequence[str]) -> None:
    """Run train.py in this process, like `python train.py`, and write the report.

    Args:
        script: Path of train.py.
        given: The run that this process becomes.
        argv: Command-line arguments.
    """
    from cairn.hydra.run.outcome import describe, is_for_users

    proof_run.give(given)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors of the run are raised, rather than printed
    sys.argv = [script, *argv]
    sys.path.insert(0, str(Path(script).parent))  # as Python does
    try:
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as error:
            if error.code not in (None, 0):
                raise error.__cause__ or error from error
        if not _recordings:
            raise ConfigError("train.py has not called run.trainer(), so there is nothing to prove.")
        _recordings[-1].write()
    except BaseException as error:
        is_expected = is_for_users(error) or isinstance(error, HydraException)
        error.described = (describe(error), is_expected)  # type: ignore[attr-defined]
        raise
