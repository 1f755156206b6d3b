"""One save on all ranks: collect the state, copy it, and hand it to the writers.

    rank 0 alone        all ranks collect | rank 0 copies           | did it?            | rank 0 submits
    each rank a shard   all ranks collect | each copies its part    | did all of them?   | each submits its part

Either all ranks submit their shards or none does, so that no writer waits for one that will not come. None does if the
ranks do not hold the same state any more, because the shards would be a mix: rank 0 then saves alone, from this save
on. A rank that raises an error ends all of them at the same place: none waits for another one in a different call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import Trainer

from cairn.errors import SaveError
from cairn.lightning.agreement import PLANNED, Agreement, first_error, together
from cairn.lightning.common_state import difference
from cairn.lightning.decision import Verdict
from cairn.lightning.restart import Restart
from cairn.lightning.saves import Saves
from cairn.lightning.sharding import EncodedShard, Sharding
from cairn.store import names
from cairn.store.shard import ShardPlan
from cairn.types import Draft
from cairn.writing.form_encoder import FormEncoder

log = logging.getLogger(__name__)

Contents = Callable[[], dict[str, Any]]
"""Makes the contents of a checkpoint of what the ranks have collected."""


class Saving:
    """Saves what all ranks have decided to save.

    Args:
        trainer: The trainer.
        saves: The saves of this rank.
        sharding: Whether each rank writes a shard.
        restart: Compares the ranks, and reports what no checkpoint holds.
        agreement: Between the ranks.
    """

    def __init__(
        self, trainer: Trainer, saves: Saves, sharding: Sharding, restart: Restart, agreement: Agreement
    ) -> None:
        self._trainer, self._saves, self._sharding = trainer, saves, sharding
        self._restart, self._agreement, self._encoder = restart, agreement, FormEncoder()

    def save(
        self,
        verdict: Verdict,
        collect: Callable[[], Contents],
        draft: Callable[[], Draft],
        provenance: Mapping[str, Any],
    ) -> None:
        """Save at a boundary; every rank calls this.

        Args:
            verdict: What all ranks have decided.
            collect: Collects the state of all ranks; raises an error on all of them or on none.
            draft: Makes what its manifest will say, on this rank.
            provenance: What else it will say.

        Raises:
            SaveError: Too many saves failed.
            ConfigError: Another rank holds a value that cannot be saved.
        """
        moment, saves = verdict.moment, self._saves
        give_up, final = "", moment.ends or moment.stop is not None
        compared = self._sharding.check_equal(self._restart.differences)
        with saves.stall() as stall:
            contents = collect()
            try:
                differs = self._copy_and_submit(verdict, contents, draft, provenance, stall)
                if differs and self._is_left_to_rank_0(differs, verdict):
                    self._copy_and_submit(verdict, collect(), draft, provenance, stall)
                if final or not saves.in_background:
                    give_up = saves.settle(final)
            except SaveError as error:
                give_up = saves.failures.add(str(error), final)
        if not compared:
            self._restart.differences.compare()
        self._restart.report_together()
        if give_up := self._agreement.share(give_up):
            if moment.stop is None or moment.stop in PLANNED:
                raise SaveError(give_up)
            log.error(give_up)  # the signal is why the run stops

    def _is_left_to_rank_0(self, why: str, verdict: Verdict) -> bool:
        if self._sharding.leave_to_rank_0(why):
            return True
        if not self._agreement.leads:
            return False
        raise SaveError(
            f"The checkpoint {names.checkpoint_name(verdict.moment.position)} was not written: {why}, so its shards "
            f"would be a mix of several states. Keep them equal on all ranks."
        )

    def _copy_and_submit(
        self,
        verdict: Verdict,
        contents: Contents,
        draft: Callable[[], Draft],
        provenance: Mapping[str, Any],
        stall: tuple[float, float],
    ) -> str:
        """Copy and submit; return what differs between the ranks if nothing was submitted for that reason."""
        why, num_bytes, shard, leads = "", 0, None, self._agreement.leads
        said = [0, 0, 0, 0]  # whether it has failed, what a shard of another rank needs, and twice what the state is
        with together(self._agreement, "The state", "saved", said):
            try:
                num_bytes, shard = self._copied(verdict, contents())
            except SaveError as error:  # no memory for a buffer, or a logger that could not write
                why = str(error)
            state = 0 if shard is None else shard.sample.number
            said[:] = bool(why), 0 if leads else num_bytes, state, -state
        any_failed, of_others, largest, smallest = said
        if any_failed:
            why = first_error(self._agreement, why)
            if leads:
                raise SaveError(why)
            return ""
        if shard is not None and largest != -smallest:
            return difference(self._agreement, shard.sample)
        if shard is not None:
            coming, num_bytes = draft(), num_bytes + (self._trainer.world_size - 1) * of_others
            plan = self._sharding.plan(coming.name, verdict.attempt, shard.layout)
            self._submit(coming, num_bytes, provenance, stall, plan)
        elif leads:
            self._submit(draft(), num_bytes, provenance, stall)
        return ""

    def _copied(self, verdict: Verdict, contents: Mapping[str, Any]) -> tuple[int, EncodedShard | None]:
        """Copy what this rank writes; return its size in bytes, and the shard if each rank writes one."""
        saves, optimizers = self._saves, self._trainer.optimizers
        if self._sharding.is_on:
            shard = self._sharding.encode(contents, verdict.moment.position, verdict.attempt)
            return saves.copy(shard.encoded, optimizers), shard
        return (saves.copy(self._encoder.encode(contents), optimizers) if self._agreement.leads else 0), None

    def _submit(
        self,
        draft: Draft,
        num_bytes: int,
        provenance: Mapping[str, Any],
        stall: tuple[float, float],
        shard: ShardPlan | None = None,
    ) -> None:
        # What hooks at an epoch's end do to weights is theirs: the copy is finished before them.
        now = self._trainer.is_last_batch
        self._saves.submit(replace(draft, num_bytes=num_bytes), provenance, stall, now, shard)
