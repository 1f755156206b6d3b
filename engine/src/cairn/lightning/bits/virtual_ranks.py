"""A run whose bits do not depend on the number of processes: what its loops call around each batch.

    global batch k      micro-batches v = 0 ... V - 1, one for each virtual rank; a process has those that follow each other
    batch v             generators are seeded by (seed, k, v); metrics and `self.log` collect for v; buffers begin as in
                        the batch before; gradients go into the tree
    step                gradients of all processes are added up; buffers follow v = 0; generators are seeded by (seed, k)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torchmetrics import Metric

from cairn.data.loader import DataLoader, use_virtual_ranks
from cairn.data.windows import GlobalBatches
from cairn.errors import ConfigError, ResumeError
from cairn.lightning.bits import logged, refused
from cairn.lightning.bits.buffers import Buffers
from cairn.lightning.bits.drawing import Drawing
from cairn.lightning.bits.exchange import gathered
from cairn.lightning.bits.gradients import Gradients
from cairn.lightning.bits.tree import Layout
from cairn.lightning.bits.turns import Turns, empty, placed, put
from cairn.lightning.loops.dealing import Dealt
from cairn.lightning.reading import modules
from cairn.lightning.saved import sums

_CPU = torch.device("cpu")


class VirtualRanks:
    """The virtual ranks of a trainer.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._layout = Layout(1)
        self._seed: int | None = None
        self._saved: dict[str, Any] = {}
        self._virtual = self._step = 0
        self._is_last = False
        self._size, self._is_dealt = 0, False
        self._latest: dict[int, dict[str, Tensor]] = {}
        self._turns = Turns(lambda: self._metrics(self._train_results))
        self._gradients = Gradients(self._layout)
        self._buffers = Buffers(trainer.lightning_module, self._layout)

    # Where it begins

    @property
    def seed(self) -> int:
        """Seed of the random numbers: that of torch's generator in process 0, when it is first asked for."""
        if self._seed is None:
            self._seed = int(gathered(torch.initial_seed(), self._processes())[0])
        return self._seed

    def adopt(self, loaders: Iterator[Any]) -> None:
        """Let loaders deal out the same batches on any number of processes."""
        for loader in loaders:
            if isinstance(loader, DataLoader):
                use_virtual_ranks(loader)

    def deal(self, dealt: Dealt | None) -> None:
        """Begin with the training loaders.

        Raises:
            ConfigError: Something would depend on the number of processes.
        """
        trainer = self._trainer
        if dealt is None:
            raise ConfigError(
                "elastic='bits' needs training data with global batches, which are the same on any number of processes:"
                " use cairn.DataLoader(..., global_batch_size=N), or data.global_batch_size=N.",
                parameter="elastic",
            )
        layout = Layout(dealt.per_window * trainer.world_size, trainer.global_rank, trainer.world_size)
        self._size, self._is_dealt = dealt.loader.global_batch_size, True
        self._check_number(layout.num_virtual)
        refused.check(trainer, layout.num_virtual)
        self._layout, self._gradients = layout, Gradients(layout)
        self._buffers = Buffers(trainer.lightning_module, layout)
        logged.take_over(self._train_results, layout)
        model: Any = trainer.strategy.model
        if hasattr(model, "require_backward_grad_sync"):
            model.require_backward_grad_sync = False  # DDP would add up the gradients in an order of its own

    def deal_evaluation(self, results: Any, loaders: list[Any]) -> None:
        """Begin with the loaders of a validation or a test.

        Raises:
            ConfigError: They divide their samples in another way on each number of processes.
        """
        self.adopt(iter(loaders))
        for loader in loaders:
            batches = loader.global_batches if isinstance(loader, DataLoader) else None
            if not isinstance(batches, GlobalBatches):
                raise ConfigError(
                    f"elastic='bits' needs global batches in validation and test as well, and a {type(loader).__name__}"
                    f" has none: use cairn.DataLoader(..., global_batch_size=N) with a map-style dataset.",
                    parameter="elastic",
                )
        logged.take_over(results, self._processes())

    # The training

    @contextmanager
    def batch(self, number: int) -> Iterator[None]:
        """Context in which a batch of the training is worked on.

        Args:
            number: Its number among the batches of this process in their global batch.
        """
        own = self._layout.own
        self._virtual, self._is_last = own[number], number == len(own) - 1
        if number == 0:
            self._step, self._latest = self._trainer.global_step, {}
            self._gradients.begin(self._trainer.lightning_module)
            self._buffers.begin()
        drawing = Drawing(self.seed)
        drawing.batch(self._step, self._virtual)
        self._turns.begin((0, self._virtual))
        self._train_results.batch_begins(self._virtual)
        yield
        self._turns.end()
        if self._is_last:
            drawing.after(self._step)

    def backward(self, backward: Callable[[Tensor], None], loss: Tensor) -> None:
        """Run the backward pass of a batch; after the last one of a global batch, set the gradients of all of them.

        Args:
            backward: Runs it.
            loss: Mean over the samples of the batch, weighted by their number.
        """
        self._gradients.before_backward()
        backward(loss)
        self._gradients.after_backward(self._virtual)
        self._buffers.batch_ends(self._virtual)
        if self._is_last:
            self._gradients.finish()
            self._buffers.finish()
            Drawing(self.seed).optimizer_step(self._step)

    def batch_logged(self) -> None:
        """Take what a batch has logged; after the last one of a global batch, log the values of all of them."""
        results = self._train_results
        if getattr(results, "virtual", None) is None:  # of a validation
            return
        self._latest[self._virtual] = results.batch_ends()
        if not self._is_last or not any(metric.meta.on_step for metric in results.values()):
            return
        of_processes = gathered((self._portable(self._latest), results.live), self._layout)
        self._know(results, [keys for _, keys in of_processes])
        device = self._trainer.strategy.root_device
        results.set_latest({virtual: placed(found, device) for one, _ in of_processes for virtual, found in one.items()})

    def epoch_ends(self) -> None:
        """Combine what all virtual ranks have collected, before the hooks at the end of an epoch."""
        self._combine(self._turns, self._train_results)

    # Validation and test

    @contextmanager
    def evaluation_batch(self, results: Any, turns: Turns | None, loader: Any, place: tuple[int, int]) -> Iterator[None]:
        """Context in which a batch of a validation or a test is worked on.

        Args:
            results: What is logged there.
            turns: What is collected there.
            loader: The loader of the batch.
            place: Number of the loader, and of the batch of this process.
        """
        number, batch = place
        share = loader.global_batches.share
        window, turn = divmod(batch, share.per_window)
        virtual = share.rank * share.per_window + turn
        assert turns is not None
        turns.begin((number, virtual))
        results.batch_begins(virtual)
        with Drawing(self.seed).evaluation(self._trainer.global_step, number, window * share.num_virtual_ranks + virtual):
            yield
        results.batch_ends()
        turns.end()

    def turns_of(self, results: Any) -> Turns:
        """Return where the batches of a validation or a test collect."""
        return Turns(lambda: self._metrics(results))

    def evaluated(self, turns: Turns, results: Any) -> None:
        """Combine what the batches of a loader have collected."""
        self._combine(turns, results)

    # Checkpoints

    def settings(self) -> dict[str, Any]:
        """Return what a run keeps."""
        return {"level": "bits", "virtual_ranks": self._layout.num_virtual, "seed": self.seed}

    def load_settings(self, saved: Mapping[str, Any]) -> None:
        """Go on with what `settings` has returned.

        Raises:
            ResumeError: The run has another number of virtual ranks.
        """
        self._saved, self._seed = dict(saved), saved["seed"]
        if self._is_dealt:
            self._check_number(self._layout.num_virtual)

    def _check_number(self, now: int) -> None:
        before = self._saved.get("virtual_ranks", now)
        if before != now:
            raise ResumeError(
                f"The run has {before} virtual ranks, with batches of {self._size // before} samples, and now there are"
                f" {now}, of {self._size // now}: elastic='bits' needs the same batches. Set batch_size to"
                f" {self._size // before}."
            )

    def state(self) -> dict[str, Any]:
        """Return what the virtual ranks of this process have collected in this epoch."""
        return {
            name: [[loader, virtual, {**state, "_computed": None}] for (loader, virtual), state in turns.items()]
            for name, turns in self._turns.states.items()
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` has returned, of the virtual ranks that this process has now."""
        own, device = self._layout.own, self._trainer.strategy.root_device
        self._turns.states = {
            name: {(loader, virtual): placed(one, device) for loader, virtual, one in turns if virtual in own}
            for name, turns in state.items()
        }

    def _combine(self, turns: Turns, results: Any) -> None:
        layout, device = self._processes(), self._trainer.strategy.root_device
        of_processes = gathered((self._portable(turns.states), results.live), layout)
        self._know(results, [keys for _, keys in of_processes])
        turns.combine([found for found, _ in of_processes], device)

    def _know(self, results: Any, keys: list[list[str]]) -> None:
        """Let all processes know what only some of them have logged.

        Args:
            results: What was logged.
            keys: Its keys on each process.
        """
        if all(found == keys[0] for found in keys):
            return
        described = {key: entry for key, entry in sums.entries(results).items() if not entry["sync"]["rank_zero_only"]}
        for entries in gathered(self._portable(described), self._processes()):
            for key, entry in entries.items():
                if key not in results:
                    sums.add_entry(results, key, entry, self._trainer)
                    put(results[key], empty(results[key]))
                results[key].has_reset &= entry["has_reset"]

    def _portable(self, value: Any) -> Any:
        """Return a value for other processes, which have other devices."""
        return value if self._trainer.world_size == 1 else placed(value, _CPU)

    def _processes(self) -> Layout:
        trainer = self._trainer
        return Layout(trainer.world_size, trainer.global_rank, trainer.world_size)

    @property
    def _train_results(self) -> Any:
        return self._trainer.fit_loop.epoch_loop._results

    def _metrics(self, results: Any) -> dict[str, Metric]:
        found = {
            f"metric {name}": part for name, part in modules.named(self._trainer.lightning_module) if modules.is_metric(part)
        }
        for metric in found.values():
            metric.sync_on_compute = False  # the state of all processes is put into each of them
            metric._to_sync = False
        return {**found, **{f"logged {key}": metric for key, metric in results.summed().items()}}
