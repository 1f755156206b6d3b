"""What the audits of the ranks find, reported by rank 0: once for all ranks that find the same."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.types import AuditMode

Finding = tuple[list[str], str, bool]
"""Names of attributes, what to report about them, and whether it ends the run."""


class Findings:
    """Findings of one rank that are not yet reported, and what was reported before.

    Args:
        mode: Whether a finding is a warning or an error.
    """

    def __init__(self, mode: AuditMode) -> None:
        self.mode = mode
        self._new: list[Finding] = []
        self._reported: set[str] = set()

    def add(self, names: list[str], text: str, may_end: bool = True) -> None:
        """Add a finding of this rank.

        Args:
            names: Attributes that it is about.
            text: What to report.
            may_end: Whether it ends the run in the mode `error`.
        """
        self._new.append((names, text, may_end and self.mode == "error"))

    def take(self) -> list[Finding]:
        """Return the findings of this rank since the last call, to be gathered on rank 0."""
        found, self._new = self._new, []
        return found

    def report(self, of_ranks: Sequence[list[Finding]]) -> str:
        """Warn about the findings of all ranks.

        Returns:
            The error to end the run with, in the mode `error`; empty: there is none.
        """
        error = ""
        for rank, found in enumerate(of_ranks):
            for names, text, ends in found:
                if rank > 0 and self._reported >= set(names):
                    continue
                self._reported |= set(names)
                shown = f"On rank {rank}: {text}" if rank > 0 else text
                if ends:
                    error = error or shown
                else:
                    rank_zero_warn(shown)
        return error
