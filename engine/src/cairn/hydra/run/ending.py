"""End a run: record its outcome, print it, end the run in W&B, and exit."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cairn.account import progress
from cairn.errors import CairnError, first_line
from cairn.hydra import command_line
from cairn.hydra.parse import mirror_settings, wandb_settings
from cairn.hydra.parse.objects import target_of
from cairn.hydra.run import hanging
from cairn.hydra.run.build import Built
from cairn.hydra.run.outcome import Outcome, describe, is_for_users
from cairn.hydra.run.start import Start
from cairn.jobs.signals import Interruption
from cairn.lightning.agreement import TIME_LIMIT
from cairn.remote.mirror import Mirror
from cairn.run import attempts, goodput, status, summary, terminal
from cairn.run.directory import RunDirectory
from cairn.run.goodput import TimeSpent
from cairn.store.catalog import Catalog
from cairn.store.listener import Listeners
from cairn.types import Saved
from cairn.wandb import run as wandb_run

log = logging.getLogger(__name__)


def record(start: Start, built: Built | None, outcome: Outcome) -> None:
    """Write the outcome to the run directory, and print a summary unless the run has failed.

    A resume that fails before its first batch was refused, and leaves the run directory as it was.

    Args:
        start: The start that has ended.
        built: The trainer of the run; None if the run ended before it was built.
        outcome: The outcome.
    """
    if start.claim is not None:
        start.claim.withdraw() if _is_refused(built, outcome) else start.claim.release()
    if not start.is_main or outcome.status == "left":
        return
    if start.directory.before is not None and _is_refused(built, outcome):
        start.directory.before.put_back()
        command_line.put_back()
        return
    result = outcome.result
    start.directory.end(outcome.status, outcome.why, float(result) if isinstance(result, int | float) else None)
    if built is not None and built.trainer.is_global_zero and outcome.status != "failed":
        summary.show_report(_summary(start, built, outcome), terminal.console())


def _is_refused(built: Built | None, outcome: Outcome) -> bool:
    """Whether a start has failed before its first batch."""
    return outcome.status == "failed" and (built is None or not built.checkpoints.has_trained)


def close_uploads(start: Start, built: Built | None, outcome: Outcome) -> None:
    """Upload the rest of the run to its mirror and to W&B, and end the run there."""
    if built is None:
        return
    ends = outcome.status
    status = wandb_run.ExitStatus(outcome.exit_code, outcome.interrupted_by, ends == "finished", ends == "paused")
    listeners = Listeners(built.checkpoints.listeners)
    config = start.settings.config
    mirror_s, grace_s = mirror_settings.limits_s(config)
    wait_s = max(wandb_settings.wait_s(config), mirror_s)
    with hanging.uploads_limited(start, wait_s, outcome.exit_code):
        wandb_run.end(listeners, built.trainer.loggers, status, wait_s, stop_s=max(wandb_run.STOP_S, grace_s))


def leave(outcome: Outcome, directory: RunDirectory, is_alone: bool) -> Any:
    """Return the result of the run, raise its error, or exit with a one-line message for a user-facing error.

    Args:
        outcome: How the run ended.
        directory: Run directory.
        is_alone: False for a job of a sweep: it raises every error, so that its launcher can continue with the others.

    Returns:
        The value that train.py has returned.

    Raises:
        Interruption: The run was stopped and is saved.
        SystemExit: Code 1 for a user-facing error.
    """
    error = outcome.error
    if error is None:
        return outcome.result
    if outcome.status == "stopped":
        if isinstance(error, Exception):
            log.warning("After %s: %s: %s", outcome.why, type(error).__name__, first_line(error), exc_info=error)
        raise Interruption(outcome.why) from error
    if outcome.status == "left":
        raise error
    if is_for_users(error):
        log.error("%s", describe(error))
    elif not is_alone:  # in the log of the job; the launcher prints one line
        log.error("%s: %s", type(error).__name__, first_line(error), exc_info=error)
    if directory.started:
        with suppress(CairnError):  # the run directory may be gone: that is what the message above is about
            if saved := Catalog(directory.checkpoints()).newest():
                log.error("Newest checkpoint: %s. Resume with: %s", saved.name, summary.command(directory.path))
    if isinstance(error, CairnError):  # a launcher prints it in the line of its job
        error.args, error.parameter = (describe(error),), ""
    if not is_for_users(error) or not is_alone or os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    raise SystemExit(1) from error


def leave_another(error: BaseException) -> NoReturn:
    """Raise the error of another process than the main one; the main one may have none, or the same.

    Args:
        error: The error.

    Raises:
        SystemExit: Code 1 for a user-facing error, which is logged.
    """
    is_in_sweep = HydraConfig.initialized() and HydraConfig.get().mode != RunMode.RUN
    if not is_for_users(error) or is_in_sweep or os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    log.error("Rank %s: %s", getattr(rank_zero_only, "rank", "?"), describe(error))
    raise SystemExit(1) from error


def _summary(start: Start, built: Built, outcome: Outcome) -> summary.RunReport:
    checkpoints, best = built.checkpoints, built.checkpoints.best
    words = {"stopped": f"stopped by {outcome.why}", "paused": f"paused at {outcome.why}"}
    return summary.RunReport(
        run=start.directory.path,
        checkpoints=checkpoints.policy.directory,
        status=words.get(outcome.status, outcome.status),
        saved=checkpoints.saved,
        best=best.name if best else "",
        monitor=checkpoints.policy.monitor,
        test=outcome.test,
        spent=_spent(start, outcome, checkpoints.newest),
        **(asdict(checkpoints.cost) if checkpoints.cost else {}),
        mirror=next((str(item.address) for item in checkpoints.listeners if isinstance(item, Mirror)), ""),
        more=_override_to_extend(start, built, outcome),
    )


def _spent(start: Start, outcome: Outcome, saved: Saved | None) -> TimeSpent | None:
    """Return what the time of the run was spent on so far; None if its attempts cannot be read."""
    directory = start.directory
    try:
        tried = attempts.read(directory)
    except OSError:
        return None
    reached = progress.read(directory.progress_file)
    return goodput.spent(tried, status.last_of(directory, directory.record(), outcome.status, reached, saved))


def _override_to_extend(start: Start, built: Built, outcome: Outcome) -> str:
    """Return an override that doubles the limit that ended the run; empty if no limit ended it."""
    trainer = built.trainer
    if outcome.why == TIME_LIMIT:
        return f"trainer.max_time={2 * (start.settings.trainer.max_time_s or 0):g}s"
    if outcome.why:
        return ""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return f"trainer.max_steps={2 * trainer.max_steps}"
    if (trainer.max_epochs or -1) < 0:  # no limit: a callback has stopped the run
        return _override_for_patience(start, trainer)
    return f"trainer.max_epochs={2 * (trainer.max_epochs or 0)}"


def _override_for_patience(start: Start, trainer: Trainer) -> str:
    """Return an override that doubles the patience of the callback that stopped the run; empty if it is not clear."""
    nodes = {name: node for name, node in start.settings.callbacks.items() if "patience" in node}
    if len(trainer.early_stopping_callbacks) != 1:
        return ""
    (callback,) = trainer.early_stopping_callbacks
    names = [name for name, node in nodes.items() if isinstance(callback, target_of(f"callbacks.{name}", node))]
    return f"callbacks.{names[0]}.patience={max(1, 2 * callback.patience)}" if len(names) == 1 else ""
