"""What the audit of attributes has found, and how it is reported: once for each attribute, as a warning or an error."""

from __future__ import annotations

from collections.abc import Callable, Collection

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cairn.lightning.state import values
from cairn.lightning.state.attributes import Attributes
from cairn.types import AuditMode

_MAYBE = "This resume may not be exact: "
_CURE = (
    "If training reads it before it sets it again, make it a buffer (self.register_buffer), or save and load it: "
    "on_save_checkpoint and on_load_checkpoint of a module, state_dict and load_state_dict of a callback, a datamodule "
    "or a sampler. audit='off' (checkpoint.audit=off) turns this check off."
)


class Findings:
    """Reports attributes that no checkpoint holds.

    Args:
        mode: `error` keeps the first text for an error, instead of a warning.
    """

    def __init__(self, mode: AuditMode) -> None:
        self.mode = mode
        self.error = ""
        """The first text, in the mode `error`: all ranks have to raise it together."""
        self.reported: set[str] = set()
        """Names of the attributes that are reported, or pending."""
        self._pending: dict[str, str] = {}
        """What to report of an attribute if training reads it before it sets it, which has not happened yet."""

    def changed(self, names: list[str], harmless: Collection[str], advice: Callable[[list[str]], str]) -> None:
        """Report attributes that training changes.

        Args:
            names: Of the attributes, which no checkpoint holds.
            harmless: Names of attributes that training sets before it reads them, as far as it has come.
            advice: Returns a sentence to add about some of them, or nothing.
        """
        self.reported |= set(names)
        self._pending |= {name: _changed([name], advice([name])) for name in names if name in harmless}
        if certain := [name for name in names if name not in harmless]:
            self._report(_changed(certain, advice(certain)))

    def lost(self, before: Attributes, now: Attributes) -> None:
        """Report attributes that have another value than at the save of the loaded checkpoint."""
        names = values.lost(before, now)
        self.reported |= set(names)
        # What is still empty may be a cache, which training fills again: the run does not end for it.
        for report, found in (
            (rank_zero_warn, [name for name in names if values.is_unset(now.get(name))]),
            (self._report, [name for name in names if not values.is_unset(now.get(name))]),
        ):
            if found:
                changes = [values.change(name, before, now) for name in found]
                report(f"{_MAYBE}{values.listed(changes, '; ')}. {_CURE}")

    def lost_if_read(self, before: Attributes, now: Attributes) -> None:
        """Take such attributes that the run before has set before it read them: report those that this one reads."""
        names = values.lost(before, now)
        self.reported |= set(names)
        self._pending |= {name: f"{_MAYBE}{values.change(name, before, now)}. {_CURE}" for name in names}

    def recheck(self, is_read: Callable[[str], bool]) -> None:
        """Report the pending attributes that training has read before it set them."""
        for name in list(filter(is_read, self._pending)):
            self._report(self._pending.pop(name))

    def _report(self, text: str) -> None:
        if self.mode == "error":
            self.error = self.error or text
        else:
            rank_zero_warn(text)


def _changed(names: list[str], advice: str) -> str:
    pronoun = "it" if len(names) == 1 else "them"
    return (
        f"Training changes {values.listed(names)}, and no checkpoint holds {pronoun}: a resumed run starts with the "
        f"initial value. {advice}{_CURE}"
    )
