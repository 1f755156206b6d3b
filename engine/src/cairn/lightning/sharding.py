"""Whether each rank of a fit writes a shard of a checkpoint, and what this rank's shard is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from cairn.errors import ConfigError
from cairn.known_directory import KnownDirectory
from cairn.lightning import common_state
from cairn.lightning import shared as shared_on_ranks
from cairn.lightning.agreement import Agreement, together
from cairn.lightning.fsdp import strategy as fsdp
from cairn.lightning.rank_differences import RankDifferences
from cairn.lightning.saved import unsaved
from cairn.store import shared
from cairn.store.claim import Permit
from cairn.store.shard import ShardPlan
from cairn.types import Position
from cairn.writing.encode import Encoded
from cairn.writing.options import Writing
from cairn.writing.pipeline import WHOLE, Division
from cairn.writing.sharded import rows
from cairn.writing.sharded.deal import Dealer, replicated
from cairn.writing.sharded.sample import Sample
from cairn.writing.sharded.shard import ShardEncoder, ShardId

log = logging.getLogger(__name__)

LARGE_BYTES = 2**28
"""Checkpoints from this size on are sharded with `auto`; a smaller one is written before its parts would be found."""
_VISIBLE_S = 5.0
"""How long a rank looks for what rank 0 has written, where a single file is as good."""
_RANKS_DIFFER = (
    "%s, so shards would be a mix of several states: from now on, rank 0 writes each checkpoint as a single file, with "
    "its own state. Keep parameters and optimizers equal on all ranks."
)


@dataclass(frozen=True)
class EncodedShard:
    """A shard, ready to be copied."""

    encoded: Encoded
    layout: str
    """Digest of how the state is cut."""
    sample: Sample
    """Values that all ranks should have in common, as this one has them."""


class Sharding:
    """Whether each rank writes a shard, which all ranks decide together, and the shards of this one.

    Args:
        trainer: The trainer.
        writing: How checkpoints are written.
        directory: Where the checkpoints are.
        agreement: Between the ranks.

    Attributes:
        is_on: Whether each rank writes a shard.
        owner: Attempt by which rank 0 has claimed the directory, on all ranks; empty: it has not.
    """

    def __init__(self, trainer: Trainer, writing: Writing, directory: Path, agreement: Agreement) -> None:
        self._trainer, self._option, self._directory, self._agreement = trainer, writing.sharded, directory, agreement
        self.is_on = False
        self.owner = ""
        self._permit: Permit | None = None
        self._dealer: Dealer | None = None
        self._encoder = ShardEncoder()

    def decide(self, num_bytes: int, differences: RankDifferences) -> None:
        """Decide for all ranks, before the first batch, and compare them; every rank calls this.

        Args:
            num_bytes: Expected size of a checkpoint.
            differences: Compares the ranks.

        Raises:
            ConfigError: Shards are asked for, and the ranks do not see the same directory.
        """
        self._choose(num_bytes)
        if not self.check_equal(differences):
            differences.compare()

    def _choose(self, num_bytes: int) -> None:
        option, is_divided = self._option, fsdp.divided(self._trainer) is not None
        if self._trainer.world_size == 1 or not self.owner:
            self.is_on = False
            return
        # A state in parts is collected on rank 0 for a single file, which takes longer than anything else in a save.
        is_due = num_bytes >= LARGE_BYTES or is_divided
        self.is_on = bool(self._agreement.share(option is True or (option == "auto" and is_due)))
        if not self.is_on:
            return
        patience_s = shared.PATIENCE_S if option is True or is_divided else _VISIBLE_S
        try:
            shared_on_ranks.check(
                self._agreement, self._trainer.global_rank, self._directory, "Or set sharded=false.", patience_s
            )
        except ConfigError as error:
            if option is True:
                raise
            level = logging.WARNING if is_divided else logging.INFO  # rank 0 would need memory for all of the state
            log.log(level, "Rank 0 writes the checkpoints alone. %s", error)
            self.is_on = False
            return
        self._permit = Permit(KnownDirectory.at_or_above(self._directory), self.owner)

    def check_equal(self, differences: RankDifferences) -> bool:
        """Compare the ranks if each writes a shard, and let rank 0 write everything from now on if they differ.

        Args:
            differences: Compares the ranks, at a few saves.

        Returns:
            Whether they were compared.
        """
        if not self.is_on or not differences.is_due:
            return False
        differences.compare(needed=True)
        if any(self._agreement.largest(differences.found_any)):
            self.leave_to_rank_0("Parameters or optimizer states differ between the ranks")
        return True

    def leave_to_rank_0(self, why: str) -> bool:
        """Let rank 0 write everything from now on, on all ranks, because they differ.

        Args:
            why: What differs, as the beginning of a sentence.

        Returns:
            Whether it can: with sharded parameters, no rank has the whole.
        """
        if fsdp.divided(self._trainer) is not None:
            return False
        if self._agreement.leads:
            log.warning(_RANKS_DIFFER, why)
        self.is_on = False
        return True

    def together(self) -> AbstractContextManager[None]:
        """Context in which all ranks fail if one does, if each of them writes a shard."""
        return together(self._agreement, "A save", "prepared") if self.is_on else nullcontext()

    @property
    def division(self) -> Division:
        """How many ranks share a checkpoint."""
        return Division(self._trainer.world_size, self._trainer.num_devices) if self.is_on else WHOLE

    def encode(self, contents: Mapping[str, Any], position: Position, attempt: str) -> EncodedShard:
        """Encode this rank's shard of a checkpoint; its tensors are referred to, not copied.

        Args:
            contents: The contents of the checkpoint on this rank, with the state of this rank alone in `ranks`.
            position: Position of the run.
            attempt: Id of the save.
        """
        trainer = self._trainer
        rank, world_size = trainer.global_rank, trainer.world_size
        common = self._equal_tensors(contents)
        state = {} if self._is_collected else contents
        if (strategy := fsdp.divided(trainer)) is not None:
            deal = rows.deal(contents, strategy.rows)
        else:
            self._dealer = self._dealer or Dealer(rank, world_size)
            deal = self._dealer.deal(common)
        run = str(contents[unsaved.KEY]["run"])
        # Each rank counts samples of its own: batches may differ in their sizes.
        where = {name: value for name, value in vars(position).items() if name != "samples"}
        shard = ShardId(rank, world_size, run, attempt, where)
        mine = contents if rank == 0 else contents[unsaved.KEY]["ranks"][0]
        sample = common_state.sample(state, common, deal.layout, attempt)
        return EncodedShard(self._encoder.encode(mine, deal, shard), deal.layout, sample)

    def plan(self, name: str, attempt: str, layout: str) -> ShardPlan:
        """Return what this rank's writer does.

        Args:
            name: Name of the checkpoint.
            attempt: Id of the save.
            layout: Digest of how the state is cut.
        """
        places = self._trainer.global_rank, self._trainer.world_size
        return ShardPlan(self._directory, name, attempt, *places, layout, permit=self._permit)

    def _equal_tensors(self, contents: Mapping[str, Any]) -> dict[str, Tensor]:
        """Tensors that are the same on all ranks: parameters that DDP keeps equal, and the states of optimizers."""
        if fsdp.divided(self._trainer) is not None:  # those that are not divided, such as numbers of steps
            return replicated(contents, [])
        module, ignored = self._trainer.lightning_module, _ignored(self._trainer)
        parts = [part for name, part in module.named_parameters() if part.requires_grad and name not in ignored]
        return replicated({"state_dict": contents["state_dict"]} if self._is_collected else contents, parts)

    @property
    def _is_collected(self) -> bool:
        """Whether each rank has a part of the states of the optimizers, and a save collects them on rank 0."""
        return any(hasattr(item, "consolidate_state_dict") for item in self._trainer.optimizers)


def _ignored(trainer: Trainer) -> set[str]:
    return set(getattr(trainer.lightning_module, "_ddp_params_and_buffers_to_ignore", ()))
