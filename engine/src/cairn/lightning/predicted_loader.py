"""Predictions of one loader on this process: outputs are collected, and written as soon as they complete a part."""

from __future__ import annotations

import time
from typing import Any

from cairn.errors import CheckpointError
from cairn.lightning.predicted_data import Share
from cairn.predictions.parts import Parts
from cairn.predictions.plan import Entry, Plan
from cairn.predictions.values import Columns, encode

_PATIENCE_S = 10.0
"""How long a shared file system may take to show the files of other machines, in seconds."""
_POLL_S = 0.5


class LoaderPredictions:
    """Predictions of one loader on this process.

    Args:
        parts: The files.
        plan: What they hold in the end.
        share: The batches of this process.
    """

    def __init__(self, parts: Parts, plan: Plan, share: Share) -> None:
        self.parts, self.plan, self.share = parts, plan, share
        self._columns: list[Columns] = []
        self._number = 0
        """Batches of this process that are predicted."""

    def entry(self) -> Entry:
        """Return what the current batch is."""
        if self.share.batches is None:
            batch = self.share.skip + self._number
            return Entry(batch, batch // self.plan.batches_per_part)
        return self.share.entries[self._number]

    def add(self, output: Any) -> None:
        """Take the output for the current batch, and write the part that it completes.

        Raises:
            ModelError: It does not have one value per sample.
            SaveError: The disk refuses the part.
        """
        entry = self.entry()
        self._number += 1
        if entry.part is None:
            return
        batches = self._samples()
        self._columns.append(encode(output, None if batches is None else len(batches[entry.batch])))
        if entry.batch == self.plan.batches(entry.part)[-1]:
            self._write(entry.part)

    def end(self) -> None:
        """Write the last part of a loader whose length was not known."""
        if self.share.batches is None:
            last = self.share.skip + self._number
            if self._columns:
                self._write((last - 1) // self.plan.batches_per_part)
            self.parts.end(self.plan, -(-last // self.plan.batches_per_part))

    def check(self) -> None:
        """Check that all parts are there, once all processes have written theirs.

        Raises:
            CheckpointError: Some are missing.
        """
        until = time.monotonic() + _PATIENCE_S
        while (missing := self._num_missing()) and time.monotonic() < until:
            time.sleep(_POLL_S)
        if missing:
            raise CheckpointError(
                f"The predictions in {self.parts.directory} lack {missing} of their parts: a process has died, or sees "
                f"another directory. Repeat the command."
            )

    def _num_missing(self) -> int:
        plan = self.parts.plan()
        return 1 if plan is None else (plan.num_parts or 0) - len(self.parts.there())

    def _samples(self) -> Any:
        """Return the indices of the samples of each batch; None: they have none, or items of the data are batches."""
        has_samples = getattr(self.share.loader, "batch_sampler", None) is not None
        return self.share.batches if has_samples else None

    def _write(self, part: int) -> None:
        batches, own = self._samples(), self.plan.batches(part)
        indices = None if batches is None else [index for at in own for index in batches[at]]
        self.parts.write(part, own[0], self._columns, indices)
        self._columns = []
