"""Decide which checkpoint a start of a run begins with, or tests."""

from __future__ import annotations

import logging
from pathlib import Path

from cairn.errors import CheckpointError, ConfigError, ResumeError
from cairn.hydra.parse.settings import Settings
from cairn.hydra.run import origin
from cairn.jobs.rendezvous import Rank
from cairn.lightning.agreement import TIME_LIMIT
from cairn.run.directory import RunDirectory, RunRecord
from cairn.store import claim, links, names, resume
from cairn.store.joint_check import JointCheck
from cairn.store.resume import Bring, ResumePoint
from cairn.writing import load

log = logging.getLogger(__name__)


def joint_check(directory: RunDirectory, rank: Rank) -> JointCheck:
    """Return the part of a process in the verification of a checkpoint.

    Args:
        directory: Run directory.
        rank: The process, among those that were started together.
    """
    return JointCheck(directory.path, rank.number, rank.world_size, rank.start)


def resume_point(
    settings: Settings, directory: RunDirectory, old: RunRecord | None, rank: Rank, bring: Bring
) -> ResumePoint:
    """Return what to resume from: the newest checkpoint of the run, or else the file that `ckpt_path` names.

    Args:
        settings: Settings of the run.
        directory: The run directory.
        old: Record of the run; None: it is new.
        rank: This process, among those that were started together and help to verify.
        bring: Brings a newer checkpoint from a mirror, see `resume.find_resume_point`.

    Raises:
        CairnError: What is there cannot be used.
    """
    checkpoints = settings.checkpoint.directory
    own = resume.find_resume_point(checkpoints, joint_check(directory, rank).verify, bring)
    if own.saved is not None and old is None:
        raise ResumeError(
            f"{checkpoints} holds checkpoints, but {directory.path} has no run.json, so their run is "
            f"unknown: choose another directory, or start a new run from one of them with ckpt_path=."
        )
    if own.saved is not None and old is not None and own.saved.run != old.id:
        raise ConfigError(
            f"directory={checkpoints} holds checkpoints of another run ({own.saved.run}): give each run a directory of "
            f"its own.",
            parameter="directory",
        )
    if own.path is not None or settings.ckpt_path is None:
        return own
    path = origin.local_file(settings.ckpt_path, directory.path)
    try:
        load.load(path)
    except CheckpointError as error:
        if load.RUNS_CODE not in str(error):
            raise
        weights = "Its weights alone can be taken: init_weights=FILE in place of ckpt_path=FILE."
        raise CheckpointError(f"{error} {weights}") from error
    return ResumePoint(links.target(path), None, own.rejected)


def test_point(settings: Settings, plan: ResumePoint) -> ResumePoint:
    """Return what to test with `train=false`: the best checkpoint of the run, or else that of the plan."""
    best = settings.checkpoint.directory / names.BEST
    path = plan.path
    if plan.saved is not None and best.exists():
        path = first_intact(links.target(best)) or path
    if path is None and not settings.init_weights:
        raise ConfigError("train=false has no weights to test: set ckpt_path=, init_weights= or resume=.")
    return ResumePoint(path, plan.saved)


def first_intact(*paths: Path) -> Path | None:
    """Return the first intact checkpoint; log each one that is skipped."""
    for path in paths:
        try:
            load.load(path)
            return path
        except CheckpointError as error:
            log.warning("Not tested: %s", error)
    return None


def is_time_used_up(settings: Settings, plan: ResumePoint, old: RunRecord | None) -> bool:
    """Return whether the run has ended because it has trained for all of `trainer.max_time`.

    One that was killed after that, before its test, has not: it trains nothing, and is tested.
    """
    limit_s = settings.trainer.max_time_s
    if old is None or (old.status, old.why) != ("stopped", TIME_LIMIT):
        return False
    if limit_s is None or plan.saved is None or plan.saved.elapsed_s < limit_s:
        return False
    log.info(
        "The run has used up trainer.max_time=%s. To resume it, set a longer time.", settings.trainer.node.max_time
    )
    return True


def id_of_killed_start(settings: Settings, directory: RunDirectory) -> str:
    """Return the id of a run that was killed after it had claimed its checkpoints, before its record; empty: none."""
    found = claim.read(settings.checkpoint.directory) if settings.checkpoint.triggers else None
    return found.run if found is not None and found.name == str(directory.path) else ""
