"""What the audit of attributes has found, and how it is reported: once for each attribute, as a warning or an error.

Each rank has findings of its own; rank 0 reports those of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.lightning.audited import values
from cairn.lightning.reading.attributes import Attributes
from cairn.types import AuditMode

Finding = tuple[list[str], str, bool]
"""Names of attributes, what to report about them, and whether it ends the run."""

_MAYBE = "This resume may not be exact: "
_CURE = (
    "If training reads it before it sets it again, make it a buffer (self.register_buffer), or save and load it: "
    "on_save_checkpoint and on_load_checkpoint of a module, state_dict and load_state_dict of a callback, a datamodule "
    "or a sampler. audit='off' (checkpoint.audit=off) turns this check off."
)


class Findings:
    """Attributes of one rank that no checkpoint holds.

    Args:
        mode: Whether a finding is a warning or an error.
    """

    def __init__(self, mode: AuditMode) -> None:
        self.mode = mode
        self.known: set[str] = set()
        """Names of the attributes of this rank that were found, or are pending."""
        self.explained: set[str] = set()
        """Owners that another finding is about, such as `Net.head`: their attributes are not worth one of their own."""
        self._new: list[Finding] = []
        self._pending: dict[str, str] = {}
        """What to report of an attribute if training reads it before it sets it, which has not happened yet."""
        self._reported: set[str] = set()
        """Names of the attributes that were reported for any rank."""

    def changed(self, names: list[str], harmless: Collection[str], advice: Callable[[list[str]], str]) -> None:
        """Add attributes that training changes.

        Args:
            names: Names of the attributes, which no checkpoint holds.
            harmless: Names of attributes that training sets before it reads them, as far as it has come.
            advice: Returns a sentence to add about some of them, or nothing.
        """
        self.known |= set(names)
        self._pending |= {name: _changed([name], advice([name])) for name in names if name in harmless}
        if certain := [name for name in names if name not in harmless]:
            self.add(certain, _changed(certain, advice(certain)))

    def lost(self, before: Attributes, now: Attributes) -> None:
        """Add attributes that have another value than at the save of the loaded checkpoint."""
        names = values.lost(before, now)
        self.known |= set(names)
        # What is still empty may be a cache, which training fills again: the run does not end for it.
        for may_end, found in (
            (False, [name for name in names if values.is_unset(now.get(name))]),
            (True, [name for name in names if not values.is_unset(now.get(name))]),
        ):
            if found:
                changes = [values.change(name, before, now) for name in found]
                self.add(found, f"{_MAYBE}{values.listed(changes, '; ')}. {_CURE}", may_end)

    def lost_if_read(self, before: Attributes, now: Attributes) -> None:
        """Take such attributes that the run before has set before it read them: report those that this one reads."""
        names = values.lost(before, now)
        self.known |= set(names)
        self._pending |= {name: f"{_MAYBE}{values.change(name, before, now)}. {_CURE}" for name in names}

    def recheck(self, is_read: Callable[[str], bool]) -> None:
        """Add the pending attributes that training has read before it set them."""
        for name in list(filter(is_read, self._pending)):
            self.add([name], self._pending.pop(name))

    def add(self, names: list[str], text: str, may_end: bool = True) -> None:
        """Add a finding of this rank.

        Args:
            names: What it is about.
            text: What to report.
            may_end: Whether it ends the run in the mode `error`.
        """
        self._new.append((names, text, may_end and self.mode == "error"))

    @property
    def are_new(self) -> bool:
        """Whether there is something to report."""
        return bool(self._new)

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


def _changed(names: list[str], advice: str) -> str:
    pronoun = "it" if len(names) == 1 else "them"
    return (
        f"Training changes {values.listed(names)}, and no checkpoint holds {pronoun}: a resumed run starts with the "
        f"initial value. {advice}{_CURE}"
    )
