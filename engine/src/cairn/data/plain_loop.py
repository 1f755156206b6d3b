"""A warning about loops that iterate over global batches and do not know of them, such as Lightning's own."""

from __future__ import annotations

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.data.global_batches import GlobalBatches
from cairn.data.substreams import StreamedBatches


def warn(found: GlobalBatches | StreamedBatches | None, is_training: bool) -> None:
    """Warn about a loop that does not know of global batches.

    Args:
        found: The global batches that it iterates over.
        is_training: Whether it trains on them.
    """
    if found is None:
        return
    if not is_training and isinstance(found, GlobalBatches) and found.share.world_size > 1 and not found.is_even:
        rank_zero_warn(
            "The processes have different numbers of samples, which Lightning rounds when it averages what"
            " self.log(..., sync_dist=True) has logged: add a cairn.Checkpointer to the Trainer, or use a metric of"
            " torchmetrics."
        )
    if is_training and found.per_window > 1:
        rank_zero_warn(
            f"Each global batch of {found.size} samples is {found}, and nothing accumulates the gradients of"
            f" {found.per_window} batches: add a cairn.Checkpointer to the Trainer, or step the optimizer after"
            f" loader.global_batches.per_window batches in a loop of your own."
        )
