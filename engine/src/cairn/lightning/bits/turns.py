"""What each virtual rank has collected in an epoch: states of torchmetrics, and sums of `self.log`.

A process plays its virtual ranks in turn. Before a batch, each metric gets the state of its virtual rank, and after it
the one that it had before the epoch, at `rest`:

    epoch            rest                              virtual rank 0 goes on from there, the others begin with nothing
    batch of v       state of v  -->  new state of v
    end of epoch     rest = states of all v, combined in their order, on all processes

So a process knows the whole value at the end of an epoch, and does not combine it with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

State = dict[str, Any]
"""States of a metric by name, its number of updates and its latest value."""
Turn = tuple[int, int]
"""Number of a loader, and of a virtual rank."""
EXTRA = -1
"""In the place of a virtual rank: a batch that does not count."""
_COUNT, _COMPUTED = "_update_count", "_computed"


class Turns:
    """States of metrics by name and turn.

    Args:
        find: Returns the metrics by name.
    """

    def __init__(self, find: Callable[[], Mapping[str, Metric]]) -> None:
        self._find = find
        self.states: dict[str, dict[Turn, State]] = {}
        self._turn: Turn | None = None
        self._rest: dict[str, State] = {}
        self._given: dict[str, State] = {}

    def begin(self, turn: Turn) -> None:
        """Give each metric the state of a virtual rank."""
        found = self._find()
        self._turn, self._rest = turn, {name: state_of(metric) for name, metric in found.items()}
        for name, metric in found.items():
            known = self.states.get(name, {}).get(turn)
            if known is not None or turn[1] != 0:
                put(metric, empty(metric) if known is None else known)
        self._given = {name: state_of(metric) for name, metric in found.items()}

    def end(self) -> None:
        """Keep what the virtual rank has collected, and put back what each metric had before."""
        assert self._turn is not None
        for name, metric in self._find().items():
            now = state_of(metric)
            if self._turn[1] != EXTRA and _changed(now, self._given.get(name) or empty(metric)) and now[_COUNT]:
                self.states.setdefault(name, {})[self._turn] = now
            put(metric, self._rest.get(name) or empty(metric))
        self._turn, self._rest, self._given = None, {}, {}

    def combine(self, of_processes: Iterable[Mapping[str, Mapping[Turn, State]]], device: torch.device) -> None:
        """Give each metric the states of all virtual ranks, and begin again without any.

        Args:
            of_processes: `states` of each process.
            device: Where the states go.
        """
        states: dict[str, dict[Turn, State]] = {}
        for of_process in of_processes:
            for name, turns in of_process.items():
                states.setdefault(name, {}).update(turns)
        for name, metric in self._find().items():
            if name not in states:
                continue
            given = states[name]
            rest = [] if any(virtual == 0 for _, virtual in given) else [state_of(metric)]
            put(metric, _combined(metric, placed([*rest, *(given[turn] for turn in sorted(given))], device)))
        self.states = {}


def state_of(metric: Metric) -> State:
    """Return the state of a metric, as references."""
    return {name: getattr(metric, name) for name in (*metric._defaults, _COUNT, _COMPUTED)}


def put(metric: Metric, state: Mapping[str, Any]) -> None:
    """Set the state of a metric."""
    for name, value in state.items():
        setattr(metric, name, value)


def empty(metric: Metric) -> State:
    """Return the state of a metric that has collected nothing."""
    found: State = {
        name: default.detach().clone().to(metric.device) if isinstance(default, Tensor) else []
        for name, default in metric._defaults.items()
    }
    return {**found, _COUNT: 0, _COMPUTED: None}


def _changed(now: State, before: State) -> bool:
    # A list is the same object, and has more in it.
    return now[_COUNT] != before[_COUNT] or any(now[name] is not before[name] for name in now if name != _COMPUTED)


def _combined(metric: Metric, states: list[State]) -> State:
    found: State = {_COUNT: max(state[_COUNT] for state in states), _COMPUTED: None}
    for name in metric._defaults:
        values = [state[name] for state in states]
        if any(isinstance(value, list) for value in values):
            found[name] = [item for value in values for item in (value if isinstance(value, list) else [value])]
        else:
            found[name] = reduction(metric, name)(values)
    return found


def reduction(metric: Metric, name: str) -> Callable[[list[Tensor]], Tensor]:
    """Return how a state of a metric is combined over virtual ranks.

    Raises:
        KeyError: In a way of its own.
    """
    meta = getattr(metric, "meta", None)  # of a value that `self.log` has collected
    if meta is not None and name == "value":
        return OF_LOGGED[meta.reduce_fx.__name__]
    return _REDUCTIONS[metric._reductions[name]]


def _folded(by: Callable[[Tensor, Tensor], Tensor]) -> Callable[[list[Tensor]], Tensor]:
    def fold(values: list[Tensor]) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = by(total, value)
        return total

    return fold


def _cat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) if not value.ndim else value for value in values])


OF_LOGGED: Mapping[str, Callable[[list[Tensor]], Tensor]] = {
    "mean": _folded(torch.add),
    "sum": _folded(torch.add),
    "max": _folded(torch.maximum),
    "min": _folded(torch.minimum),
}
_REDUCTIONS: Mapping[Any, Callable[[list[Tensor]], Tensor]] = {
    dim_zero_sum: _folded(torch.add),
    dim_zero_max: _folded(torch.maximum),
    dim_zero_min: _folded(torch.minimum),
    dim_zero_cat: _cat,
    torch.sum: _folded(torch.add),
}


def placed(value: Any, device: torch.device) -> Any:
    """Return states whose tensors lie on a device: each process has its own."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, dict):
        return {key: placed(item, device) for key, item in value.items()}
    return [placed(item, device) for item in value] if isinstance(value, list) else value
