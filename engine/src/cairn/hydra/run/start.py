"""Decide what this start of a run does: its configuration, its directory, and the checkpoint that it resumes from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cairn import targets
from cairn.errors import ConfigError
from cairn.hydra import command_line
from cairn.hydra.command import overrides as given
from cairn.hydra.compose import loader, merge, trusted
from cairn.hydra.compose.loader import Fallback
from cairn.hydra.compose.merge import Merged
from cairn.hydra.compose.stored import StoredRun
from cairn.hydra.parse.settings import Settings, parse
from cairn.hydra.run import allowed, evaluation, origin, pausing, point, provenance, proving
from cairn.hydra.run.mirrored import Mirrors
from cairn.jobs.allocation import Allocation
from cairn.jobs.rendezvous import Rendezvous
from cairn.jobs.signals import Interrupts
from cairn.lightning.io import MappedCheckpointIO
from cairn.lightning.torchrun import Attempt
from cairn.run import attempts, config_file, summary, terminal
from cairn.run.directory import ADDRESS_FILE, RunDirectory, RunRecord, new_id
from cairn.run.files_before import FilesBefore
from cairn.store import claim, resume
from cairn.store.catalog import Catalog
from cairn.store.claim import Claim
from cairn.store.resume import ResumePoint

log = logging.getLogger(__name__)

_PREVIOUS_ATTEMPT_S = 120.0
"""Maximum time to wait for the processes of the previous attempt of a requeued job to exit, in seconds."""


@dataclass(frozen=True)
class JobContext:
    """What surrounds this process: what can interrupt it, and the processes that were started with it."""

    signals: Interrupts = field(default_factory=Interrupts)
    allocation: Allocation = field(default_factory=Allocation)
    attempt: Attempt | None = None
    """The attempt of torchrun."""


@dataclass(frozen=True)
class Start:
    """Decisions of one start of a run. The main process makes them; the other processes of the run receive them."""

    directory: RunDirectory
    settings: Settings
    run_id: str
    plan: ResumePoint
    context: JobContext
    loader: MappedCheckpointIO = field(default_factory=MappedCheckpointIO)
    """Loader that keeps the checkpoint of the plan open."""
    claim: Claim | None = None
    """Claim of the checkpoint directory; None if nothing is saved, and in other processes than the main one."""
    pause_at: str | None = None
    """Point of the full schedule where the run pauses; None: it does not."""
    is_main: bool = True
    """True in the process that writes the run directory and whose exit code is that of the command."""
    mirrors: Mirrors | None = None
    """The mirrors of the run; None in other processes than the main one."""


@dataclass(frozen=True)
class NothingToDo:
    """The run has already reached its end."""

    result: float | None = None
    """Result that the run returned when it ended."""


def begin(
    cfg: DictConfig, directory: RunDirectory, overrides: tuple[str, ...], notice: Rendezvous, context: JobContext
) -> Start | NothingToDo:
    """Decide in the main process what this start does, and record the start.

    Everything that can be checked early is checked before anything is written to the run directory.

    Args:
        cfg: The configuration that Hydra has composed.
        directory: Run directory, which Hydra has created.
        overrides: Overrides from the command line.
        notice: Channel to the processes that were started together with this one.
        context: Signals and the job of this process.

    Returns:
        The start; `NothingToDo` if the run has already reached its end.

    Raises:
        CairnError: The run cannot start with this configuration or directory.
    """
    mirrors = Mirrors(directory)
    own = evaluation.configured(cfg, directory, overrides)
    mirrors.join(own)
    merged, old = _configuration(own, directory, overrides)
    allowed.check(cfg, merged, old, directory, overrides)
    settings = parse(merged.config)
    pause_at = pausing.requested(cfg, settings)
    if old is not None and old.status == "finished" and not merged.changed:
        more = summary.command(directory.path, "trainer.max_epochs=NUMBER")
        log.info("This run is finished: %s. To extend it: %s", summary.relative(directory.path), more)
        return NothingToDo(old.result)
    mirrors.look(settings, old.id if old else "")
    if not settings.train:
        plan = point.test_point(settings, point.resume_point(settings, directory, old, notice.rank, mirrors.bring))
        run = old.id if old else ""
        evaluation.announce(directory, settings.config, run, plan, notice)
        return Start(directory, settings, run or evaluation.TEST, plan, context)
    directory.lock((patience_s := _PREVIOUS_ATTEMPT_S if context.allocation.scheduler else None) or 0.0)
    checkpoints, held = settings.checkpoint, None
    run = old.id if old else mirrors.run or point.id_of_killed_start(settings, directory) or new_id()
    if checkpoints.triggers:
        held = claim.take(checkpoints.directory, run, str(directory.path), patience_s)
    try:
        resume.wait_for_writers(checkpoints.directory)  # without triggers, too: what they commit is the newest
        _check_ranking(merged, checkpoints.directory)
        mirrors.claim(settings.config, run)
        plan = point.resume_point(settings, directory, old, notice.rank, mirrors.bring)
        if point.is_time_used_up(settings, plan, old):
            if settings.predict:
                log.info("Its predictions: %s", summary.command(directory.path, "train=false", "test=false"))
            _withdraw(held)
            return NothingToDo(old.result if old else None)
        start = Start(directory, settings, run, plan, context, claim=held, pause_at=pause_at, mirrors=mirrors)
        if plan.path is not None:
            resume.check_epochs_left(plan.path, start.loader.peek(plan.path), settings.trainer.max_epochs)
        return _record(start, merged, old, pausing.unrecorded(overrides), notice)
    except BaseException:
        _withdraw(held)
        raise


def _withdraw(held: Claim | None) -> None:
    if held is not None:
        held.withdraw()


def _check_ranking(merged: Merged, directory: Path) -> None:
    """Check that the checkpoints of a resumed run are ranked by one metric, before anything is recorded.

    Manifests of earlier versions hold a score without the name of its metric, which `config.yaml` still knows.

    Raises:
        ConfigError: The command changes the metric, and there are checkpoints with a score.
    """
    before, now = merged.changed.get("checkpoint.monitor", (None, None))
    if before and now and any(saved.score is not None for saved in Catalog(directory).committed()):
        raise ConfigError(
            f"checkpoint.monitor={now} would rank the checkpoints of this run, whose scores are values of {before}. "
            f"Leave it as it was, or start a new run with ckpt_path=FILE."
        )


def follow(config: str, run: str, start: str | None, context: JobContext, pause_at: str | None = None) -> Start:
    """Return the start that the main process decided, for use in another process of the run.

    Args:
        config: Path of the file with the configuration of the run.
        run: Id of the run.
        start: Path of the checkpoint to resume from.
        context: Signals and the job of this process.
        pause_at: Where the run pauses.
    """
    cfg = merge.as_config(targets.with_current_names(config_file.read(Path(config))))
    trusted.new_run(cfg)  # the main process has checked it
    plan = ResumePoint(Path(start) if start else None)
    directory = RunDirectory(Path(config).parent)
    return Start(directory, parse(cfg), run, plan, context, pause_at=pause_at, is_main=False)


def _record(
    start: Start, merged: Merged, old: RunRecord | None, overrides: tuple[str, ...], notice: Rendezvous
) -> Start:
    """Record the start of an attempt, inform the other processes, and log the decisions."""
    directory, settings, plan = start.directory, start.settings, start.plan
    if plan.path is None and settings.init_weights:
        # Fetched before the other processes are informed, because each of them would fetch the file.
        origin.local_file(settings.init_weights, directory.path)
    if old is not None:
        own = [directory.config_file, directory.starts_file, directory.record_file, directory.path / ADDRESS_FILE]
        directory.before = FilesBefore(own)
    job = start.context.allocation
    attempts.note(directory, old, plan.saved, job.job_id, job.restarts, provenance.project_commit())
    config = OmegaConf.to_yaml(settings.config, resolve=True)
    record = directory.start(settings.task_name, overrides, config, start.run_id)
    if start.mirrors is not None:
        start.mirrors.keep(settings.config)
    begins = str(plan.path) if plan.path else None
    facts = {"config": str(directory.config_file), "run": record.id, "start": begins, "pause_at": start.pause_at}
    command_line.announce_children(**facts)
    notice.announce(facts)
    summary.show_config(OmegaConf.to_container(settings.config, resolve=True), terminal.console())  # type: ignore[arg-type]
    _log_start(start, merged, resumes=old is not None)
    return replace(start, run_id=record.id)


def _configuration(
    cfg: DictConfig, directory: RunDirectory, overrides: tuple[str, ...]
) -> tuple[Merged, RunRecord | None]:
    """Return the configuration to resume with and the record of the run; the composed one and None for a new run."""
    record = directory.record()
    if record is None:
        return Merged(_resolved(cfg), {}, {}, {}), None
    fresh = [command_line.key(override) for override in overrides if override not in record.overrides]
    own = merge.as_config(targets.with_current_names(directory.config()))
    reason = loader.fallback(overrides)
    if reason is None:
        try:
            repeated = given.recorded(record.overrides, overrides)
            before, now = _resolved(_compose(repeated)), _resolved(cfg)
            unread = [given.key(item) for item in record.overrides if item not in repeated]
            return merge.merge(merge.follow_moved_paths(own, now), before, now, fresh, unread), record
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            reason = Fallback.after(error, record, overrides)
    before, now = map(_resolved, _of_stored(directory, record, overrides))
    log.warning("configs/ does not compose the overrides of this run any more (%s).", reason.why)
    log.warning("The run resumes from its own config.yaml; edits in configs/ are ignored.")
    if reason.without:
        log.warning("Not in this command, but still in effect for the run: %s", " ".join(reason.without))
    return merge.merge(merge.follow_moved_paths(own, now), before, now, fresh), record


def _of_stored(directory: RunDirectory, record: RunRecord, overrides: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
    """Compose the stored configuration before and after the new overrides."""
    hydra: Any = GlobalHydra.instance().config_loader()
    run = StoredRun(hydra, directory, record, HydraConfig.get().job.config_name)
    try:
        pair = run.compose(overrides)
    except HydraException as error:
        raise ConfigError(f"This command cannot be applied to config.yaml of the run: {loader.full(error)}") from error
    if overrides != record.overrides and (keys := run.unlinked()):
        log.warning("These keys keep their stored values, because they call resolvers: %s", ", ".join(keys))
    return _without_hydra(pair[0]), _without_hydra(pair[1])


def _compose(overrides: tuple[str, ...]) -> DictConfig:
    """Compose a configuration from the current files, in this process's Hydra."""
    current: Any = GlobalHydra.instance().config_loader()
    name = HydraConfig.get().job.config_name
    # Hydra's own method: the files of the run must not take the place of the current ones here.
    return _without_hydra(ConfigLoaderImpl.load_configuration(current, name, list(overrides), RunMode.RUN))


def _without_hydra(cfg: DictConfig) -> DictConfig:
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg


def _resolved(cfg: DictConfig) -> DictConfig:
    """Resolve all interpolations, and make the names of files independent of the working directory."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    if pausing.KEY in plain:
        plain[pausing.KEY] = None
    if isinstance(group := plain.get("checkpoint"), dict) and group.get("dirpath"):
        group["dirpath"] = str(Path(group["dirpath"]).absolute())
    for key in ("ckpt_path", "init_weights"):
        named = plain.get(key)
        # `hydra.job.chdir=true` has changed the directory after the file was named.
        if isinstance(named, str) and not Path(named).exists() and (summary.shell_directory() / named).exists():
            plain[key] = str(summary.shell_directory() / named)
    return proving.config(merge.as_config(plain))


def _log_start(start: Start, merged: Merged, resumes: bool) -> None:
    """Log the run directory, the checkpoint to resume from, and which changes apply to the run."""
    plan, allocation = start.plan, start.context.allocation
    log.info("Run directory: %s", summary.relative(start.directory.path))
    if allocation.scheduler:
        log.info("%s", allocation)
    if plan.path and plan.saved and Catalog(plan.path.parent).leftovers():
        log.warning("The last save was interrupted: using the checkpoint before it.")
    for item in plan.rejected:
        log.warning("Skipped %s: %s.", item.path.name, item.why)
    if plan.path is not None:
        log.info("%s from %s", "Resuming" if plan.saved else "Starting", summary.relative(plan.path))
    elif resumes:
        log.warning("This run has no checkpoint yet: it starts from the beginning.")
    if merged.changed:
        log.info("Changed by this command: %s", merge.describe(merged.changed))
    if merged.kept:
        log.info("Not changed, because a resume keeps them: %s", merge.describe(merged.kept))
    if merged.edited:
        log.warning("Edited in configs/ since the run began, ignored by it: %s", merge.describe(merged.edited))
