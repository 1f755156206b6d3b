"""What a copy of a run into a mirror, or out of one, has done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cairn.types import Saved


@dataclass(frozen=True)
class Copied:
    """What was copied, and what was not."""

    done: Sequence[Saved]
    present: Sequence[Saved]
    """Checkpoints that were there already."""
    skipped: Sequence[tuple[str, str]]
    """Names of damaged checkpoints, and why they were not copied."""
