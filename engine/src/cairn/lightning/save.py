"""One save on all ranks: collect the state, copy it, and hand it to the writers.

    rank 0 alone        all ranks collect | rank 0 copies and submits
    each rank a shard   all ranks collect, copy their part | did all of them? | each submits its part

Either all ranks submit their shards or none does, so that no writer waits for one that will not come. None does if the
ranks do not hold the same state any more: the shards would be a mix.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch import Trainer

from cairn.errors import ConfigError, SaveError
from cairn.lightning.agreement import TIME_LIMIT, Agreement, first_error
from cairn.lightning.common_state import difference
from cairn.lightning.decision import Verdict
from cairn.lightning.restart import Restart
from cairn.lightning.saves import Saves
from cairn.lightning.sharding import Sharding
from cairn.store import names
from cairn.store.shard import ShardPlan
from cairn.types import Draft
from cairn.writing.form_encoder import FormEncoder

log = logging.getLogger(__name__)


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
        contents: Callable[[], dict[str, Any]],
        draft: Callable[[], Draft],
        provenance: Mapping[str, Any],
    ) -> None:
        """Save at a boundary; every rank calls this.

        Args:
            verdict: What all ranks have decided.
            contents: Collects the contents of the checkpoint, on all ranks.
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
            try:
                if self._sharding.is_on:
                    self._submit_shard(verdict, contents, draft, provenance, stall)
                else:
                    found = contents()
                    if self._agreement.leads:
                        num_bytes = saves.copy(self._encoder.encode(found), self._trainer.optimizers)
                        self._submit(draft(), num_bytes, provenance, stall)
                if final or not saves.in_background:
                    give_up = saves.settle(final)
            except SaveError as error:
                give_up = saves.failures.add(str(error), final)
        if not compared:
            self._restart.differences.compare()
        self._restart.report_together()
        if give_up := self._agreement.share(give_up):
            if moment.stop in (None, TIME_LIMIT):
                raise SaveError(give_up)
            log.error(give_up)  # the signal is why the run stops

    def _submit_shard(
        self,
        verdict: Verdict,
        contents: Callable[[], dict[str, Any]],
        draft: Callable[[], Draft],
        provenance: Mapping[str, Any],
        stall: tuple[float, float],
    ) -> None:
        why, num_bytes, state, raised, leads = "", 0, 0, True, self._agreement.leads
        try:
            found = contents()
            shard = self._sharding.encode(found, verdict.moment.position, verdict.attempt)
            state = shard.sample.number
            num_bytes, raised = self._saves.copy(shard.encoded, self._trainer.optimizers), False
        except SaveError as error:  # no memory for a buffer, or a logger that could not write
            why, raised = str(error), False
        finally:  # in one call, because ranks wait for each other in it
            said = raised, bool(why), 0 if leads else num_bytes, state, -state
            any_raised, any_failed, of_others, largest, smallest = self._agreement.largest(*said)
        if any_raised:
            raise ConfigError("The state of another rank could not be saved; the message of that rank says why.")
        differs = largest != -smallest
        if any_failed or differs:
            name = names.checkpoint_name(verdict.moment.position)
            why = first_error(self._agreement, why) if any_failed else difference(self._agreement, shard.sample, name)
            if leads:
                raise SaveError(why)
            return
        coming, num_bytes = draft(), num_bytes + (self._trainer.world_size - 1) * of_others
        plan = self._sharding.plan(coming.name, verdict.attempt, shard.layout)
        self._submit(coming, num_bytes, provenance, stall, plan)

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
