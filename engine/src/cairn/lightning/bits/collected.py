"""What the batches of one loop collect, for each virtual rank: metrics, and what `self.log` gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric

from cairn.lightning.bits import logged
from cairn.lightning.bits.exchange import gathered
from cairn.lightning.bits.latest import LatestValues
from cairn.lightning.bits.tree import Layout
from cairn.lightning.bits.turns import EXTRA, Turn, Turns, empty, placed, put
from cairn.lightning.reading import modules
from cairn.lightning.saved import sums

_CPU = torch.device("cpu")


class Collected:
    """What the batches of a loop collect.

    Args:
        trainer: The trainer.
        results: What `self.log` has collected in the loop.
    """

    def __init__(self, trainer: Trainer, results: Any) -> None:
        self._trainer = trainer
        self._processes = Layout(trainer.world_size, trainer.global_rank, trainer.world_size)
        self.results = logged.take_over(results, self._processes)
        self._turns, self._named = Turns(self._metrics), dict[str, Metric]()
        self._exchange = LatestValues(self._processes, trainer.strategy.root_device)
        self._turn: Turn | None = None
        self._num_registered = -1
        self._latest: dict[int, dict[str, Tensor]] = {}

    @contextmanager
    def batch(self, turn: Turn, counts: bool) -> Iterator[None]:
        """Context in which a batch is worked on.

        Args:
            turn: Numbers of its loader and of its virtual rank.
            counts: Whether it is the first time.
        """
        self._find()
        self.results.in_step = self.results.is_out = False
        self._turn = turn if counts else (turn[0], EXTRA)
        self._turns.begin(self._turn)
        self.results.batch_begins(turn[1])
        yield
        self.step_ends()
        if self.results.virtual is not None:
            self.results.batch_ends()
        self._turns.end()
        self._turn = None

    def step_begins(self, counts: bool) -> None:
        """Let what hooks of the step collect in a batch count once.

        Args:
            counts: Whether it counts in this batch; else another process collects the same.
        """
        self.results.in_step = True
        self._leave_out(not counts)

    def step_ends(self) -> None:
        """Let what follows in a batch count for its virtual rank again."""
        self.results.in_step = False
        self._leave_out(False)

    def _leave_out(self, is_out: bool) -> None:
        if is_out == self.results.is_out or self._turn is None:
            return
        self.results.is_out = is_out
        self._turns.end()
        self._turns.begin((self._turn[0], EXTRA) if is_out else self._turn)

    def take_latest(self, virtual: int, counts: bool) -> None:
        """Take the latest values, when a batch has logged all that it logs."""
        found = self.results.batch_ends()
        if counts:
            self._latest[virtual] = found

    def show_latest(self) -> None:
        """Let the latest values be those of all virtual ranks since the last time."""
        latest, self._latest = self._latest, {}
        found = self._exchange.exchange(latest, self.results.live)
        if found is None:
            of_processes = gathered((self._portable(latest), self.results.live), self._processes)
            self._know([keys for _, keys in of_processes])
            self._exchange.extend([values for values, _ in of_processes], self.results.live)
            merged = {virtual: values for one, _ in of_processes for virtual, values in one.items()}
            found = placed(merged, self._trainer.strategy.root_device)
        self.results.set_latest(found)

    def combine(self) -> None:
        """Combine what all virtual ranks have collected, before the hooks at the end of an epoch."""
        of_processes = gathered((self._portable(self._turns.states), self.results.live), self._processes)
        self._know([keys for _, keys in of_processes])
        self._num_registered = -1
        self._find()
        self._turns.combine([found for found, _ in of_processes], self._trainer.strategy.root_device)

    def state(self) -> dict[str, Any]:
        """Return what the virtual ranks of this process have collected in this epoch."""
        return {
            name: [[loader, virtual, {**state, "_computed": None}] for (loader, virtual), state in turns.items()]
            for name, turns in self._turns.states.items()
        }

    def load_state(self, state: Mapping[str, Any], own: Sequence[int]) -> None:
        """Restore what `state` has returned on any number of processes.

        Args:
            state: What they have returned together.
            own: The virtual ranks of this process.
        """
        device = self._trainer.strategy.root_device
        self._turns.states = {
            name: {(loader, virtual): placed(one, device) for loader, virtual, one in turns if virtual in own}
            for name, turns in state.items()
        }

    def _know(self, keys: list[list[str]]) -> None:
        """Let all processes know what only some of them have logged.

        Args:
            keys: What each process has logged.
        """
        if all(found == keys[0] for found in keys):
            return
        described = {
            key: entry for key, entry in sums.entries(self.results).items() if not entry["sync"]["rank_zero_only"]
        }
        for entries in gathered(self._portable(described), self._processes):
            for key, entry in entries.items():
                if key not in self.results:
                    sums.add_entry(self.results, key, entry, self._trainer)
                    put(self.results[key], empty(self.results[key]))
                self.results[key].has_reset &= entry["has_reset"]

    def _portable(self, value: Any) -> Any:
        """Return a value for other processes, which have other devices."""
        return value if self._processes.world_size == 1 else placed(value, _CPU)

    def _find(self) -> None:
        """Find the metrics of the module, again if a part was added to a module: a hook may create one."""
        if (number := modules.num_registered()) == self._num_registered:
            return
        self._num_registered = number
        named = modules.named(self._trainer.lightning_module)
        self._named = {f"metric {name}": part for name, part in named if modules.is_metric(part)}
        for metric in self._named.values():
            metric.sync_on_compute = metric._to_sync = False  # it gets what all processes have collected

    def _metrics(self) -> dict[str, Metric]:
        return {**self._named, **{f"logged {key}": metric for key, metric in self.results.summed().items()}}
