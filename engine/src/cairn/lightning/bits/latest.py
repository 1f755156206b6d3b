"""The latest values of `self.log`, of all virtual ranks, in one exchange of numbers.

    1                          whether this process has something that the form has no place for
    for each of its batches    1  number of the virtual rank, or -1
                               K  whether there is a value of each name
                               K  the values

The form lists the names logged so far and their types, and is the same on all processes. A value with a new name or
type, as in the first batch, is sent as an object instead: that takes several times as long, and extends the form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from cairn.lightning.bits.exchange import all_gather
from cairn.lightning.bits.tree import Layout

Values: TypeAlias = Mapping[int, Mapping[str, Tensor]]
"""Values by name, by virtual rank."""
_NONE = -1


class LatestValues:
    """Exchanges the latest values of each virtual rank.

    Args:
        processes: The processes.
        device: On which they exchange.
    """

    def __init__(self, processes: Layout, device: torch.device) -> None:
        self._processes, self._device = processes, device
        self._types: dict[str, torch.dtype] = {}
        self._most = 0
        self._live: set[str] | None = None

    def exchange(self, own: Values, live: Sequence[str]) -> Values | None:
        """Return the values of all virtual ranks; None if a process has one that has no place in the form.

        Args:
            own: Values of this process.
            live: What it has logged in this epoch, besides.
        """
        if self._processes.world_size == 1:
            return own
        if self._live is None:
            return None
        sent = self._packed(own, set(live))
        found = all_gather(sent, self._processes.world_size)
        numbers: list[list[float]] = found.tolist()
        if any(of_process[0] for of_process in numbers):
            return None
        return self._unpacked(found, numbers)

    def extend(self, of_processes: Sequence[Values], live: Sequence[str]) -> None:
        """Make a form of what was exchanged as objects.

        Args:
            of_processes: Values of each process.
            live: What was logged in this epoch on any of them.
        """
        self._live = set(live)
        self._most = max(self._most, *map(len, of_processes))
        for values in of_processes:
            for of_virtual in values.values():
                for name, value in of_virtual.items():
                    self._types.setdefault(name, value.dtype)

    def _packed(self, own: Values, live: set[str]) -> Tensor:
        names = sorted(self._types)
        fits = live == self._live and len(own) <= self._most and all(map(self._has_place, own.values()))
        sent: list[float] = [float(not fits)]
        for virtual, values in own.items() if fits else ():
            flags = [float(name in values) for name in names]
            sent += [virtual, *flags, *(values[name].item() if name in values else 0.0 for name in names)]
        size = 1 + self._most * (1 + 2 * len(names))
        return torch.tensor([*sent, *[_NONE] * (size - len(sent))], dtype=torch.float64).to(self._device)

    def _has_place(self, values: Mapping[str, Tensor]) -> bool:
        return all(
            value.ndim == 0 and value.is_floating_point() and self._types.get(name) == value.dtype
            for name, value in values.items()
        )

    def _unpacked(self, found: Tensor, numbers: Sequence[Sequence[float]]) -> Values:
        names, values = sorted(self._types), dict[int, dict[str, Tensor]]()
        width = 1 + 2 * len(names)
        for process, of_process in enumerate(numbers):
            for place in range(1, len(of_process), width):
                if (virtual := int(of_process[place])) == _NONE:
                    continue
                flags, first = of_process[place + 1 : place + 1 + len(names)], place + 1 + len(names)
                values[virtual] = {
                    name: found[process, first + number].to(self._types[name])
                    for number, (name, flag) in enumerate(zip(names, flags, strict=True))
                    if flag
                }
        return values
