"""Where a fit begins: rank 0 looks at the directory of the checkpoints, and all ranks go by what it finds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lightning.pytorch import Trainer

from cairn.errors import CairnError, ConfigError
from cairn.lightning.engine import Engine
from cairn.store import claim, links
from cairn.store.beginning import Beginning, beginning
from cairn.store.resume import ResumePoint

_PREVIOUS_ATTEMPT_S = 120.0
"""Maximum time that a job waits for its previous attempt: the locks of a lost node are released late."""


def begin(engine: Engine, trainer: Trainer, point: ResumePoint | None, run: str | None) -> Beginning:
    """Decide where a fit begins, and take over what the run has committed before.

    Args:
        engine: Engine of the fit.
        trainer: The trainer; its `ckpt_path` is the checkpoint that Lightning loads.
        point: The resume point, if it is found and verified already.
        run: Id of the run; None: the directory knows it, or it is a new run.

    Raises:
        CairnError: The directory belongs to another run or is in use, a resume was forgotten, or the checkpoint is not
            intact.
    """
    found: Beginning | CairnError | None = None
    if engine.agreement.leads:
        try:
            found = _take_over(engine, trainer, point, run)
        except CairnError as error:
            found = error
    owner = engine.saves.claim.permit.attempt if engine.saves.claim is not None else ""
    found, owner = engine.agreement.share((found, owner))
    if isinstance(found, CairnError):
        raise found
    assert found is not None
    engine.sharding.owner = owner
    return found


def _take_over(engine: Engine, trainer: Trainer, point: ResumePoint | None, run: str | None) -> Beginning:
    directory, newest = engine.policy.directory, engine.history.newest
    loaded = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    if trainer.fast_dev_run:  # touches nothing
        return Beginning(run or "fast_dev_run", ResumePoint(loaded))
    if loaded is None and not engine.may_fit_again:
        raise ConfigError(
            "The last fit of this Trainer ended inside an epoch, which another fit would begin again: make a new "
            "Trainer and Checkpointer, and continue with fit(..., ckpt_path=checkpointer.resume())."
        )
    if loaded is None and newest is not None:  # the same trainer fits again, and continues from where it is
        found = Beginning(engine.origin.run, ResumePoint(directory / newest.name, newest))
    else:
        found = beginning(directory, loaded, point, run, engine.saves.listeners.run_elsewhere)
    if engine.policy.triggers and engine.saves.claim is None:
        script = os.path.abspath(sys.argv[0]) if os.path.isfile(sys.argv[0]) else ""
        patience_s = _PREVIOUS_ATTEMPT_S if "SLURM_JOB_ID" in os.environ else None
        engine.saves.claim = claim.take(directory, found.run, script, patience_s)
    if engine.policy.triggers and found.point.saved is None and (file := links.taken(directory)):
        raise ConfigError(
            f"{file} is not a checkpoint of this run, and the first save would replace it: move it away, or give this "
            f"run another directory. To start from it, pass it as ckpt_path."
        )
    if engine.policy.triggers:
        engine.saves.listeners.begin(directory, found.run, found.point.saved is not None)
    engine.take_over(found.run, found.point)
    return found
