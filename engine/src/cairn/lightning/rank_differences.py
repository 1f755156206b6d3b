"""Names what differs between ranks although a checkpoint holds that of rank 0 only: parameters and optimizers."""

from __future__ import annotations

from collections.abc import Mapping

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

        self._note_replicas(ranks.repeated(module))

    def _note_replicas(self, mine: Mapping[str, str]) -> None:
        """Note parts of parameters that several ranks have, and that are not equal on them."""
        if not mine:  # on all ranks then: each of them has a part of each parameter
            return
        known, names = dict[str, str](), list[str]()
        for part, digest in (item for one in self.agreement.gather(mine) or () for item in one.items()):
            if known.setdefault(part, digest) != digest:
                names.append(part.partition(" ")[0])
        names = [name for name in dict.fromkeys(self.agreement.share(names)) if name not in self._reported]
        if names and self.audit.mode != "off":
            self._reported |= {*names}
            self.audit.findings.add(
                names,
                f"{names[0]} differs between ranks that have the same part of it, and a checkpoint holds that of the "
                f"first one: with tensor parallelism, let each of them compute the same gradient of it (a layer whose "
                f"input is divided must be in the plan of parallelize_module).",
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
