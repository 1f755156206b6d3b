"""One save: collect the state on all ranks, copy it, and hand it to the writers."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cairn.errors import SaveError
from cairn.lightning import capture
from cairn.lightning.agreement import TIME_LIMIT, first_error, together
from cairn.lightning.decision import Verdict
from cairn.lightning.loops import boundary
from cairn.lightning.saved import pruning, unsaved
from cairn.store import names
from cairn.store.shard import ShardPlan
from cairn.types import Draft

if TYPE_CHECKING:
    from cairn.lightning.engine import Engine

log = logging.getLogger(__name__)


def save(engine: Engine, place: boundary.Place, verdict: Verdict) -> None:
    """Save at a boundary; every rank calls this.

    Args:
        engine: The engine of the fit.
        place: Which of the two kinds of boundary this is.
        verdict: What all ranks have decided.

    Raises:
        SaveError: Too many saves failed.
    """
    moment, saves = verdict.moment, engine.saves
    give_up, final = "", moment.ends or moment.stop is not None
    engine.telemetry.save_begun(moment.elapsed_s)
    compared = engine.sharding.check_equal(engine.restart.differences)
    with saves.stall() as stall:
        try:
            if engine.sharding.is_on:
                _submit_shard(engine, place, verdict, stall)
            else:
                contents = _contents(engine, place, verdict)
                if engine.agreement.leads:
                    num_bytes = saves.copy(engine.encoder.encode(contents), engine.trainer.optimizers)
                    _submit(engine, verdict, stall, num_bytes)
            if final or not saves.in_background:
                give_up = saves.settle(final)
        except SaveError as error:
            give_up = saves.failures.add(str(error), final)
    if not compared:
        engine.restart.differences.compare()
    engine.restart.report_together()
    if give_up := engine.agreement.share(give_up):
        if moment.stop in (None, TIME_LIMIT):
            raise SaveError(give_up)
        log.error(give_up)  # the signal is why the run stops


def _contents(engine: Engine, place: boundary.Place, verdict: Verdict) -> dict[str, Any]:
    trainer, where, restart = engine.trainer, verdict.moment.position, engine.restart
    clock = engine.telemetry.state_dict(verdict.moment.elapsed_s)
    begun, audit, is_sharded = restart.epoch_start, restart.at_save, engine.sharding.is_on
    contents = capture.capture(trainer, place, where, engine.origin, clock, begun, audit, engine.agreement, is_sharded)
    contents[unsaved.KEY] |= {
        "accumulation_configured": engine.accumulation,
        "finders": engine.finders.state(),
        "growth": engine.growth.state(trainer),
        "settings": engine.settings.state(),
    }
    weights, module = contents["state_dict"], trainer.lightning_module
    contents["state_dict"] = pruning.as_first_built(weights, module, engine.pruned_at_start)
    return contents


def _submit_shard(engine: Engine, place: boundary.Place, verdict: Verdict, stall: tuple[float, float]) -> None:
    """Copy and submit the shard of this rank, if all ranks can: otherwise nothing is written.

    Raises:
        SaveError: On rank 0, a rank has no memory for its buffer, or a logger could not write.
        ConfigError: A rank holds a value that cannot be saved.
    """
    sharding, where, why, num_bytes, layout = engine.sharding, verdict.moment.position, "", 0, ""
    with together(engine.agreement, "The state could not be saved"):
        try:
            contents = _contents(engine, place, verdict)
            shard = sharding.encode(contents, engine.origin.run, where, verdict.attempt)
            num_bytes, layout = engine.saves.copy(shard.encoded, engine.trainer.optimizers), shard.layout
        except SaveError as error:
            why = str(error)
    if why := first_error(engine.agreement, why):
        if engine.agreement.leads:
            raise SaveError(why)
        return
    plan = sharding.plan(names.checkpoint_name(where), verdict.attempt, layout)
    _submit(engine, verdict, stall, num_bytes, plan)


def _submit(
    engine: Engine, verdict: Verdict, stall: tuple[float, float], num_bytes: int, shard: ShardPlan | None = None
) -> None:
    trainer, moment, decision = engine.trainer, verdict.moment, engine.decision
    provenance = {"world_size": trainer.world_size, **engine.origin.provenance}
    if engine.agreement.leads:
        lasting, choice = decision.is_lasting(verdict.reasons), decision.choice
        draft = engine.moments.draft(moment, verdict.reasons, lasting, engine.origin.run, choice, engine.policy.monitor)
    else:  # rank 0 writes the manifest
        draft = Draft(names.checkpoint_name(moment.position), moment.position, 0, verdict.reasons, None)
    # What hooks at an epoch's end do to weights is theirs: the copy is finished before them.
    engine.saves.submit(replace(draft, num_bytes=num_bytes), provenance, stall, trainer.is_last_batch, shard)
