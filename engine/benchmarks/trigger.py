"""A trigger by which Cairn saves in blocks, as the peers do."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.job import read
from cairn.types import Moment, Saved


class InBlocks:
    """A trigger like those of `cairn.policy.when`.

    Args:
        job: Path of the job.
    """

    lasting = recurs = True

    def __init__(self, job: str) -> None:
        self.job = read(job)

    def due(self, moment: Moment, saved: Sequence[Saved]) -> bool:
        """See `cairn.policy.when.Trigger`."""
        now = moment.position.total_batches
        return now > moment.previous.total_batches and self.job.is_due(now)
