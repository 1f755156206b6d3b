"""Names what differs between ranks although a checkpoint holds that of rank 0 only: parameters and optimizers."""

from __future__ import annotations

from lightning.pytorch import Trainer

from cairn.lightning.agreement import Agreement, Alone
from cairn.lightning.audited.audit import Audit
from cairn.lightning.saved import ranks

_NUM_COMPARED = 2
"""Saves at which the ranks are compared."""


class RankDifferences:
    """Compares the ranks of one training.

    Args:
        trainer: The trainer.
        audit: Takes the findings.
        agreement: Between the ranks.
    """

    def __init__(self, trainer: Trainer, audit: Audit, agreement: Agreement) -> None:
        self.trainer, self.audit, self.agreement = trainer, audit, agreement
        self._num_left = _NUM_COMPARED + 1
        """Comparisons still to come: one before the first batch, the others at saves."""
        self._reported: set[str] = set()
        self.found_any = False
        """Whether something on this rank differs from rank 0."""

    @property
    def is_due(self) -> bool:
        """Whether the ranks are still to be compared."""
        return self._num_left > 0 and not isinstance(self.agreement, Alone)

    def compare(self, needed: bool = False) -> None:
        """Note what differs from rank 0. Every rank must call this.

        Args:
            needed: Compare although nothing is reported: each rank writes a part of what should be equal.
        """
        if not self.is_due or (self.audit.mode == "off" and not needed):
            return
        self._num_left -= 1
        module = self.trainer.lightning_module
        # On all ranks at the same time, before any of them waits.
        mine = [ranks.weights(module), ranks.optimizers(self.trainer)]
        weights, optimizers = self.agreement.share(mine if self.agreement.leads else [{}, {}])
        self._note(
            ranks.differing(mine[0], weights),
            f"{type(module).__name__}.",
            "parameters",
            "Update it equally on all ranks, or make it a buffer (self.register_buffer), which is saved for each rank.",
        )
        self._note(
            ranks.differing(mine[1], optimizers),
            "",
            "optimizer state",
            "Let each rank take the same optimizer steps with the same options: reduce gradients, and what decides "
            "about them, over all ranks.",
        )

    def _note(self, names: list[str], owner: str, what: str, cure: str) -> None:
        self.found_any = self.found_any or bool(names)
        if self.audit.mode == "off":
            return
        if names := [name for name in names if f"{owner}{name}" not in self._reported]:
            self._reported |= {f"{owner}{name}" for name in names}
            one = len(names) == 1
            shown = f"{owner}{names[0]} differs" if one else f"{owner}{names[0]} and {len(names) - 1} more differ"
            self.audit.findings.add(
                names,
                f"{shown} from rank 0, and a checkpoint holds the {what} of rank 0 only: a resume gives all ranks the "
                f"same. {cure}",
            )
