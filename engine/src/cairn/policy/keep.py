"""Which checkpoints to keep: rules over what is saved. A checkpoint stays if any rule keeps it.

A rule decides from the values that it is given and does no I/O, so that it can be tested as a table.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from numbers import Integral
from typing import Any, Protocol

from cairn.errors import ConfigError
from cairn.policy import given
from cairn.policy.shelf import NOT_LASTING, Shelf, unmarked
from cairn.types import AnyDraft, Draft, Mode, Position, ranked
from cairn.units import parse_size


class Rule(Protocol):
    """A keep rule."""

    makes_room: bool
    """True to delete before the next checkpoint is written, so that a limit holds at any moment."""

    def keep(self, saved: Sequence[Draft], mode: Mode) -> Iterable[Draft]:
        """Choose what stays.

        Args:
            saved: The checkpoints of the run, oldest first, including those that are still being written.
            mode: Whether a lower or a higher score is better.

        Returns:
            Those of `saved` that this rule keeps.
        """
        ...


class _Placed:
    """A rule that finds places on a shelf, and so reads columns instead of thousands of checkpoints."""

    makes_room = False

    def places(self, shelf: Shelf[AnyDraft]) -> slice | list[int]:
        """Return the places of what this rule keeps."""
        raise NotImplementedError

    def keep(self, saved: Sequence[Draft], mode: Mode) -> Iterable[Draft]:
        places = self.places(shelf := Shelf(saved, mode))
        return shelf[places] if isinstance(places, slice) else [shelf[place] for place in places]


class Latest(_Placed):
    """Keep the newest `count`; -1: all."""

    def __init__(self, count: int) -> None:
        self.count = check_count(count)

    def places(self, shelf: Shelf[AnyDraft]) -> slice | list[int]:
        return slice(None) if self.count < 0 else slice(max(0, len(shelf) - self.count), None)


class Best(_Placed):
    """Keep the best `count` by score; -1: all that have a score."""

    def __init__(self, count: int = 1) -> None:
        self.count = check_count(count)

    def places(self, shelf: Shelf[AnyDraft]) -> slice | list[int]:
        return shelf.best_few(self.count)


class EveryNth(_Placed):
    """Keep each `n`-th save of the run, permanently."""

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
            raise ConfigError(f"n={n!r} must be an integer from 1: every n-th checkpoint is kept.", parameter="n")
        self.n: int = n

    def places(self, shelf: Shelf[AnyDraft]) -> slice | list[int]:
        return [place for place, number in enumerate(shelf.numbers) if number >= 0 and (number + 1) % self.n == 0]


class WithinBytes(_Placed):
    """Keep as many of the newest as fit into `num_bytes` together.

    A checkpoint that exists only because the run stopped does not count.

    Args:
        num_bytes: A number of bytes, or a size such as '500MB' or '20GiB'.
    """

    makes_room = True

    def __init__(self, num_bytes: int | str) -> None:
        try:
            self.num_bytes = parse_size(num_bytes)
        except ValueError as error:
            raise ConfigError(f"num_bytes: {error}", parameter="num_bytes") from error

    def places(self, shelf: Shelf[AnyDraft]) -> slice | list[int]:
        first = len(shelf) - bisect_right(list(accumulate(reversed(shelf.sizes))), self.num_bytes)
        if shelf.numbers.count(NOT_LASTING):
            return [place for place in range(first, len(shelf)) if shelf.numbers[place] != NOT_LASTING]
        return slice(first, None)


_PLACED = (Latest, Best, EveryNth, WithinBytes)


def best_of(saved: Sequence[AnyDraft], mode: Mode) -> AnyDraft | None:
    """The checkpoint with the best score; one that is not lasting only if no other has a score."""
    shelf = saved if isinstance(saved, Shelf) and saved.mode == mode else Shelf(saved, mode)
    if (place := shelf.best()) is not None:
        return shelf[place]
    best = ranked([item for item in shelf if not item.lasting], mode, 1) if shelf.num_passing else []
    return best[0] if best else None


def survivors(rules: Iterable[Rule], saved: Sequence[AnyDraft], mode: Mode | None) -> list[AnyDraft]:
    """Apply retention: keep what any rule keeps, and always the newest and the best.

    Args:
        rules: The keep rules.
        saved: The checkpoints, oldest first.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.

    Returns:
        What stays, oldest first.
    """
    shelf = Shelf(saved, mode or "min")
    return shelf.only(marks(rules, shelf, mode)).items


def marks(rules: Iterable[Rule], shelf: Shelf[AnyDraft], mode: Mode | None) -> bytearray:
    """Do as `survivors`, with checkpoints on a shelf: with thousands of them, a save has no time to look at each.

    Args:
        rules: The keep rules.
        shelf: The checkpoints.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.

    Returns:
        1 in the place of each checkpoint that stays, and 0 in those of the others.
    """
    # One that is not lasting stays only while it is the newest: a run that was stopped and resumed then keeps what an
    # undisturbed run keeps.
    if shelf.num_passing > (bool(shelf) and shelf.numbers[-1] == NOT_LASTING):
        pool = bytearray(number != NOT_LASTING for number in shelf.numbers)
        pool[-1] = 1
        found = iter(marks(rules, shelf.only(pool), mode))
        return bytearray(next(found) if mark else 0 for mark in pool)
    stays = bytearray(len(shelf))
    stays[-1:] = b"\1" * bool(shelf)
    if mode and (best := shelf.best()) is not None:
        stays[best] = 1
    for rule in rules:
        if type(rule) in _PLACED:  # a class that is derived from one of them may keep something else
            places = rule.places(shelf)  # type: ignore[attr-defined]
        else:
            names = _names(rule, rule.keep(list(shelf), mode or "min"))
            places = [place for place, item in enumerate(shelf) if item.name in names]
        if isinstance(places, slice):
            first, _, _ = places.indices(len(shelf))
            stays[first:] = b"\1" * (len(shelf) - first)
        else:
            for place in places:
                stays[place] = 1
    return stays


def _names(rule: Rule, kept: Any) -> set[str]:
    try:
        return {item.name for item in kept}
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"{type(rule).__name__}.keep returned {kept!r}: it must return the given checkpoints that it keeps."
        ) from error


def to_make_room(rules: Sequence[Rule], saved: Sequence[AnyDraft], coming: Draft, mode: Mode | None) -> list[AnyDraft]:
    """Choose what to delete before `coming` is written: what only a budget keeps now and would not keep then.

    Never the newest or the best: no good checkpoint is deleted before its successor is committed.

    Args:
        rules: The keep rules.
        saved: The checkpoints, oldest first.
        coming: The checkpoint to write.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.

    Returns:
        What to delete, oldest first.
    """
    plain = [rule for rule in rules if not rule.makes_room]
    if len(plain) == len(rules):
        return []
    shelf = saved if isinstance(saved, Shelf) else Shelf(saved, mode or "min")
    losing = [*unmarked(marks(rules, shelf.plus(coming), mode))]
    if not losing:
        return []
    now, others = marks(rules, shelf, mode), marks(plain, shelf, mode)
    return [shelf[place] for place in losing if now[place] and not others[place]]


def peak_bytes(
    rules: Sequence[Rule], saved: Sequence[Draft], mode: Mode | None, num_bytes: int, count: int
) -> list[int]:
    """Estimate the space that the next saves need while each of them is written.

    Args:
        rules: The keep rules.
        saved: The checkpoints, oldest first.
        mode: Whether a lower or a higher score is better; None: checkpoints are not ranked.
        num_bytes: Size of each of the next checkpoints.
        count: How many saves to look ahead.

    Returns:
        For each save, the bytes needed beyond what `saved` takes now.
    """
    now = sum(item.num_bytes for item in saved)
    held, peaks = list(saved), []
    for number in range(count):
        coming = _like(held[-1] if held else None, number, num_bytes)
        deleted = {item.name for item in to_make_room(rules, held, coming, mode)}
        held = [*(item for item in held if item.name not in deleted), coming]
        peaks.append(sum(item.num_bytes for item in held) - now)
        held = survivors(rules, held, mode)
    return peaks


def check_rules(rules: Any) -> dict[str, Rule]:
    """Check that `rules` maps names to keep rules, before the first of them is applied.

    Args:
        rules: What a user gave.

    Returns:
        The same rules.

    Raises:
        ConfigError: It is not a mapping, or one of its values is not a keep rule.
    """
    checked = given.named("rules", rules, "{'a_name': cairn.Latest(3)}")
    for name, rule in checked.items():
        if isinstance(rule, int):
            raise ConfigError(
                f"rules[{name!r}] is {rule!r}, not a keep rule: write keep_last={rule!r}, or "
                f"rules={{{name!r}: cairn.Latest({rule!r})}}."
            )
        if not given.has_method(rule, "keep", ("makes_room",)):
            raise ConfigError(
                f"rules[{name!r}] is {rule!r}, not a keep rule: it needs a method keep(saved, mode) and the attribute "
                f"makes_room."
            )
    return checked


def check_count(count: int) -> int:
    """Return `count` if it is a number of checkpoints, or -1 for all.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(count, bool) or not isinstance(count, Integral) or count < -1:
        raise ConfigError(f"count={count!r} must be an integer from 0, or -1 for all.", parameter="count")
    return count


def _like(newest: Draft | None, number: int, num_bytes: int) -> Draft:
    """A checkpoint that may come after `newest`."""
    first = Draft(f"first {number}", Position(0, 0), 0, (), None, num_bytes=num_bytes)
    if newest is None:
        return first
    later = replace(newest.position, epoch=newest.position.epoch + 1)
    return replace(first, name=f"next {number}", position=later, number=newest.number + newest.lasting)
