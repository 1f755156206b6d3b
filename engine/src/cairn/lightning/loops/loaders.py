"""Loaders of a fit that have a state, and which state belongs to the last batch that was trained on."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cairn.data import loader as data
from cairn.data.divided_position import number_of
from cairn.data.loader import DataLoader
from cairn.errors import ResumeError

log = logging.getLogger(__name__)

_SLOW_COPY_S = 0.001
_reported: set[type] = set()
"""Classes of loaders whose state takes longer to copy, which was logged."""


def is_stateful(loader: Any) -> bool:
    """Whether Lightning saves and loads the state of a loader."""
    return all(callable(getattr(loader, name, None)) for name in ("state_dict", "load_state_dict"))


def all_in_main_process(loaders: Iterable[Any]) -> bool:
    """Whether all loaders are Cairn's, and none has workers."""
    return all(isinstance(loader, DataLoader) and loader.num_workers == 0 for loader in loaders)


def defer(loaders: Iterable[Any], is_deferred: bool) -> None:
    """Let the next iterators of Cairn's loaders be empty, until this is called with False.

    Workers that live as long as their loader start with its first iterator in any run, and are not deferred.

    Args:
        loaders: The training loaders.
        is_deferred: Whether to begin or to end this.
    """
    for loader in loaders:
        if isinstance(loader, DataLoader):
            loader.is_deferred = is_deferred and not loader.persistent_workers


def rewind(loaders: Iterable[Any]) -> None:
    """Let the next iterators of Cairn's loaders be those of the first epoch."""
    for loader in loaders:
        if isinstance(loader, DataLoader):
            data.rewind(loader)


def num_substreams(loaders: Iterable[Any], states: Iterable[Any]) -> list[int | None]:
    """Return the number of substreams of each loader, which a run keeps.

    Args:
        loaders: The training loaders so far.
        states: States of loaders in a checkpoint that is resumed; they count.
    """
    saved = [number_of(state) if isinstance(state, Mapping) else None for state in states]
    return saved or [data.num_substreams(one) if isinstance(one, DataLoader) else None for one in loaders]


def keep_substreams(loaders: Iterable[Any], numbers: Iterable[int | None]) -> None:
    """Let new loaders of a run read as many substreams as those before them."""
    for loader, number in zip(loaders, numbers, strict=False):
        if isinstance(loader, DataLoader):
            data.keep_substreams(loader, number)


def foreign(loaders: Iterable[Any]) -> list[Any]:
    """Return the loaders that have a state and are not Cairn's."""
    return [loader for loader in loaders if is_stateful(loader) and not isinstance(loader, DataLoader)]


def states_of_foreign(loaders: Iterable[Any]) -> list[Any]:
    """Return copies of the states of the foreign loaders; log once if this takes long."""
    return [_copied_state(loader) for loader in foreign(loaders)]


def _copied_state(loader: Any) -> Any:
    start = time.perf_counter()
    state = copy.deepcopy(loader.state_dict())
    taken_s, kind = time.perf_counter() - start, type(loader)
    if taken_s > _SLOW_COPY_S and kind not in _reported:
        _reported.add(kind)
        log.info(
            "%s has no length, so its state is copied for each batch, which takes %.1f ms.",
            kind.__name__,
            1000 * taken_s,
        )
    return state


def states(loaders: Iterable[Any], before_fetch: list[Any] | None) -> list[Any]:
    """Return the state of each loader that has one, after the last batch that was trained on.

    Args:
        loaders: The training loaders.
        before_fetch: States of the foreign loaders before the latest batch was fetched ahead; None: none is ahead.
    """
    earlier: Iterator[Any] | None = None if before_fetch is None else iter(before_fetch)
    found = []
    for loader in filter(is_stateful, loaders):
        ours = isinstance(loader, DataLoader) or earlier is None
        found.append(loader.state_dict() if ours else next(earlier))  # type: ignore[arg-type]
    return found


def with_states(loaders: Iterable[Any], states: list[Any], is_saved_by_us: bool) -> list[tuple[Any, Any]]:
    """Return the loaders that have a state, each with its own in a checkpoint.

    Args:
        loaders: The training loaders.
        states: Those of the checkpoint.
        is_saved_by_us: Whether a `Checkpointer` has saved it: then counters of batches are converted.

    Raises:
        ResumeError: There are not as many loaders that take a state, or counters of batches mean something else.
    """
    stateful = [loader for loader in loaders if is_stateful(loader)]
    if (now := len(stateful)) != (before := len(states)):
        raise ResumeError(
            f"The checkpoint has the positions of {before} training loaders, but {now} loaders can take one: a "
            f"resumed run needs the same loaders. Use cairn.DataLoader where it was used before."
        )
    found = list(zip(stateful, states, strict=True))
    for loader, state in found:
        if isinstance(loader, DataLoader) and not is_saved_by_us and (text := data.other_counters(loader, state)):
            raise ResumeError(text)
    return found
