"""WHETHER to save at a boundary: a moment goes in, reasons come out. The ranks agree by functions that are injected."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cairn.errors import ConfigError
from cairn.lightning.agreement import TIME_LIMIT, Agreement, Alone
from cairn.policy import auto, when
from cairn.store import names
from cairn.types import Draft, Moment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What all ranks do at a boundary."""

    moment: Moment
    """With the stop that all ranks have agreed on."""
    reasons: tuple[str, ...]
    """Names of the triggers that ask for a checkpoint here; empty: none is saved."""
    give_up: str
    """The sentence to end the run with, after too many failed saves; empty: the run goes on."""
    attempt: str = ""
    """Id of the save, which rank 0 has chosen for the shards of all ranks."""
    is_skipped: bool = False
    """Whether a save is dropped because a rank had no buffer for its shard."""


class Decision:
    """Asks the triggers at each boundary.

    Args:
        triggers: When to save, by name.
        may_skip: Whether a save that will soon be due again is dropped while all buffers are busy.
    """

    def __init__(self, triggers: Mapping[str, when.Trigger], may_skip: bool) -> None:
        self.triggers, self.may_skip = triggers, may_skip
        self.choice: auto.Choice | None = None
        """The interval that `save_interval=auto` has chosen."""
        self._usual = {name: item for name, item in triggers.items() if type(item) not in when.OF_EVENTS}
        self._tuning = when.tuning(triggers)

    def take(
        self,
        moment: Moment,
        kept: Sequence[Draft],
        give_up: str,
        reserve: Callable[[bool], bool],
        agreement: Agreement,
        each_saves: bool = False,
    ) -> Verdict:
        """Decide for all ranks; each of them calls this at each boundary.

        Args:
            moment: Where this rank is.
            kept: What is kept when all saves under way are committed, oldest first.
            give_up: Why the run must end after failed saves; empty if it need not.
            reserve: Reserves a buffer; the argument says whether to wait for one. False: there is none.
            agreement: How the ranks agree.
            each_saves: Each rank writes a shard, and needs a buffer for it.
        """
        due = self._with_buffer(self.due(moment, kept), reserve) if agreement.leads else ()
        if isinstance(agreement, Alone):
            return Verdict(moment, self._without_stop(due, moment, kept), give_up)
        stop, special = agreement.meet(moment.stop, bool(due or give_up))
        if stop != moment.stop:
            moment = replace(moment, stop=stop)
            if agreement.leads:
                also = self.due(moment, kept)  # a trigger with a memory says yes only once, so that both answers count
                due = self._with_buffer(tuple(name for name in self.triggers if name in {*due, *also}), reserve)
        due = self._without_stop(due, moment, kept)
        if not stop and not special:
            return Verdict(moment, due, give_up)
        due, give_up, attempt = agreement.share((due, give_up, names.new_attempt() if each_saves else ""))
        if not due or not each_saves:
            return Verdict(moment, due, give_up)
        has_buffer = agreement.leads or bool(self._with_buffer(due, reserve))
        if any(agreement.largest(not has_buffer)):  # one busy rank skips for all
            return Verdict(moment, (), give_up, is_skipped=True)
        return Verdict(moment, due, give_up, attempt)

    def due(self, moment: Moment, kept: Sequence[Draft]) -> tuple[str, ...]:
        """The triggers that ask for a checkpoint at this moment.

        Raises:
            ConfigError: A trigger cannot answer for this run.
        """
        is_event = moment.ends or moment.stop is not None or moment.score is not None
        try:
            reasons = when.reasons(self.triggers if is_event else self._usual, moment, kept)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self._tuning and (choice := when.choice(self._tuning)) != self.choice:
            self.choice = choice
            log.info("%s", choice)
        return reasons

    def _without_stop(self, due: tuple[str, ...], moment: Moment, kept: Sequence[Draft]) -> tuple[str, ...]:
        """Leave out the reasons that only a stop has, if there are others: an undisturbed run saves here without it."""
        if moment.stop in (None, TIME_LIMIT) or len(due) < 2:  # a limit that was set is not a disturbance
            return due
        goes_on = replace(moment, stop=None)
        # A trigger with a memory must not be asked twice; those that last do not depend on a stop.
        rest = [name for name in due if self.triggers[name].lasting or self.triggers[name].due(goes_on, kept)]
        return tuple(rest) or due

    def is_lasting(self, reasons: Sequence[str]) -> bool:
        """Whether an undisturbed run would have saved there as well."""
        return any(self.triggers[name].lasting for name in reasons)

    def _with_buffer(self, due: tuple[str, ...], reserve: Callable[[bool], bool]) -> tuple[str, ...]:
        if not due:
            return ()
        skippable = self.may_skip and all(self.triggers[name].recurs for name in due)
        return due if reserve(not skippable) else ()
