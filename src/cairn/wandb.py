"""What W&B gets of a run, and what a run gets from W&B: its checkpoints, the one it starts from, and a later `sync`.

Imports wandb only where somebody wants it: it takes a second.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cairn.checkpoint import layout
from cairn.checkpoint.catalog import Catalog
from cairn.checkpoint.errors import ResumeError
from cairn.checkpoint.retention import best_of, parse_size
from cairn.checkpoint.schedule import parse_duration_s
from cairn.checkpoint.tracker import UNTRACKED, Tracker
from cairn.checkpoint.types import Saved
from cairn.provenance import Start
from cairn.rundir import RunDirectory

if TYPE_CHECKING:
    from cairn.checkpoint.tracking import Wishes
    from cairn.logging.wandb import WandbLogger

PREFIX = "wandb:"
"""`ckpt_path=wandb:entity/project/name:alias` names a checkpoint that lies in W&B."""
STOP_S = 10.0
"""Who was stopped by a signal has little time left for uploads: the next start, or `sync`, makes up for them."""


def local(named: str, directory: RunDirectory) -> Path:
    """The file that a run starts from; one that lies in W&B is fetched into the run directory, once.

    Raises:
        ResumeError: it is not to be had.
    """
    if not named.startswith(PREFIX):
        return Path(named)
    folder = directory.path / "start"
    if there := sorted(folder.glob("*.ckpt")):
        return there[0]
    from cairn.checkpoint import tracking
    from cairn.logging import wandb

    wandb.prepare(directory.path, offline=False)
    return tracking.download(named.removeprefix(PREFIX), folder)


def own(node: DictConfig, run_id: str, directory: RunDirectory) -> dict[str, Any]:
    """What the configuration leaves to the run: its id; in a sweep, a name that says what is special, and the group."""
    found: dict[str, Any] = {"id": node.get("id") or run_id, "forget": _forget}
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is None or hydra.mode != RunMode.MULTIRUN:
        return found
    sweep = Path(hydra.sweep.dir).absolute()
    found["group"] = node.get("group") or f"{sweep.parent.name}-{sweep.name}"
    found["name"] = node.get("name") or hydra.job.override_dirname.replace(",", " ") or directory.path.name
    return found


def _forget() -> None:
    from cairn.checkpoint import tracking

    tracking.forget()


def tracker(cfg: DictConfig, loggers: Sequence[Any], directory: RunDirectory, facts: Mapping[str, Any]) -> Tracker:
    """Who has the checkpoints of a run beside its disk: W&B, if it is among the loggers and shall have any."""
    wanted = cfg.get("train") and cfg.checkpoint.triggers and "artifacts" in cfg.checkpoint
    logger = next((item for item in loggers if hasattr(item, "mode") and hasattr(item, "journal")), None)
    if logger is None or not wanted or cfg.checkpoint.artifacts.which == "none" or logger.mode == "disabled":
        return UNTRACKED
    return _tracker(cfg, logger, directory, facts)


def _tracker(cfg: DictConfig, logger: WandbLogger, directory: RunDirectory, facts: Mapping[str, Any]) -> Tracker:
    from cairn.checkpoint import tracking

    told = {key: facts[key] for key in ("git_commit", "started_from") if key in facts}
    place = tracking.Place(directory.path, Path(cfg.checkpoint.dirpath), told)
    run = logger.experiment
    start = Start(**facts["started_from"]) if "started_from" in facts else None
    uses = [artifact] if start and (artifact := _artifact(start, run.entity, run.project)) else []
    return tracking.WandbTracker(run, place, wishes(cfg), uses)


def _artifact(start: Start, entity: str, project: str) -> str:
    """The version that a run has started from; empty if its file says nothing of a run."""
    if start.named.startswith(PREFIX):
        return start.named.removeprefix(PREFIX)
    return f"{entity}/{project}/model-{start.run}:step-{start.step}" if start.run else ""


def wishes(cfg: DictConfig) -> Wishes:
    """What of the checkpoints shall be in W&B; `config.check` has seen it."""
    from cairn.checkpoint.tracking import Wishes

    group = cfg.checkpoint.artifacts
    return Wishes(group.which, group.every, group.pruned, None if group.queue is None else parse_size(group.queue))


def wait_s(cfg: DictConfig, exit_code: int) -> float:
    """How long the end of a run may wait for uploads, in seconds."""
    if exit_code > 128 or "artifacts" not in cfg.checkpoint:
        return STOP_S
    return parse_duration_s(cfg.checkpoint.artifacts.wait, name="checkpoint.artifacts.wait")


def is_preempted(exit_code: int) -> bool:
    """Was the run stopped by somebody else than who sits before it?"""
    return exit_code > 128 and exit_code != 128 + signal.SIGINT


@dataclass(frozen=True)
class Synced:
    """What W&B has of a run after a `sync`."""

    run: str
    """entity/project/id."""
    num_rows: int
    """Of the history, sent now."""
    states: Sequence[tuple[Saved, str]]
    """Each kept checkpoint, and its version, empty if there is none."""


def sync(run: RunDirectory, limit_s: float) -> Synced:
    """Send a run to W&B, or what W&B lacks of it; the run's files stay as they are.

    Raises:
        ResumeError: it has never been logged to W&B, or W&B cannot be reached.
    """
    cfg, record = run.config(), run.record()
    node = next((node for node in cfg.get("logger", {}).values() if "wandb" in str(node.get("_target_")).lower()), None)
    if node is None or record is None:
        raise ResumeError(f"{run.path} has no W&B logger in its configuration: there is nothing to send.")
    from hydra.utils import instantiate

    from cairn.checkpoint import tracking
    from cairn.logging import wandb

    os.environ.pop("WANDB_MODE", None)  # whatever the runs do: this command goes to the network
    wandb.prepare(run.path, offline=False)
    logger = instantiate(node, id=node.get("id") or record.id, save_dir=str(run.path), offline=False)
    experiment = logger.experiment
    num_rows = wandb.send(experiment, list(wandb.read(wandb.journal_path(run.path))))
    logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    kept = Catalog(run.checkpoints()).committed()
    mode = cfg.checkpoint.mode if cfg.checkpoint.monitor else None
    best = best_of(kept, mode) if mode else None
    place = tracking.Place(run.path, run.checkpoints())
    sender = tracking.WandbTracker(experiment, place, wishes(cfg))
    sender.opened(kept, {layout.LAST: kept[-1].name if kept else None, layout.BEST: best.name if best else None})
    sender.close(record.status == "finished", limit_s)
    name = f"{experiment.entity}/{experiment.project}/{experiment.id}"
    artifact = f"{experiment.entity}/{experiment.project}/{tracking.collection(experiment.id)}"
    logger.close({"finished": 0, "stopped": 143}.get(record.status, 1), preempted=record.status == "stopped")
    there = {version.metadata.get("sha256"): version.version for version in tracking.versions(artifact)}
    return Synced(name, num_rows, [(saved, there.get(saved.sha256, "")) for saved in kept])
