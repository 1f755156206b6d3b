"""A run whose bits do not depend on the number of processes: what its loops call around each batch.

global batch k      batches v = 0 ... V - 1, one for each virtual rank; a process has those that follow each other
batch v             generators are seeded by (seed, k, v); metrics and `self.log` collect for v; buffers begin as in
                    all others of k; gradients go into the tree
step                gradients of all processes are added up; buffers follow v = 0; one seed for all processes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from cairn.data.loader import DataLoader, use_virtual_ranks
from cairn.lightning.bits import refused
from cairn.lightning.bits.buffers import Buffers
from cairn.lightning.bits.collected import Collected
from cairn.lightning.bits.evaluation import Evaluation
from cairn.lightning.bits.gradients import Gradients
from cairn.lightning.bits.kept import Kept
from cairn.lightning.bits.tree import Layout
from cairn.lightning.loops.dealing import Dealt


class VirtualRanks:
    """The virtual ranks of a trainer.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.kept = Kept(trainer)
        """What the run keeps."""
        self._layout = Layout(1)
        self._virtual = self._step = self._number = 0
        self._counts, self._is_last = True, False
        self.batch_idx = 0
        """Number of the batch in the epoch, as one process would count it."""
        self._collected: Collected | None = None
        self._gradients: Gradients
        self._buffers: Buffers

    @property
    def is_inside(self) -> bool:
        """Whether a batch is worked on that has others before it in its global batch, and has not logged all yet."""
        return self._number > 0 and self._collected is not None and self._collected.results.virtual is not None

    def adopt(self, loader: Any) -> None:
        """Let a loader deal out the same batches on any number of processes."""
        if isinstance(loader, DataLoader):
            use_virtual_ranks(loader)

    def deal(self, dealt: Dealt) -> None:
        """Begin with the training loaders.

        Raises:
            ConfigError: Something would depend on the number of processes.
            ResumeError: The run has another number of virtual ranks.
        """
        trainer = self.trainer
        layout = Layout(dealt.num_virtual_ranks, trainer.global_rank, trainer.world_size)
        self.kept.begin(layout.num_virtual, dealt.loader.global_batch_size or 0)
        refused.check(trainer, layout.num_virtual)
        self._layout, self._gradients = layout, Gradients(layout)
        self._buffers = Buffers(trainer.lightning_module, layout)
        if self._collected is None:
            self.kept.drawing.begin()
            self._collected = Collected(trainer, trainer.fit_loop.epoch_loop._results)
        model: Any = trainer.strategy.model
        if hasattr(model, "require_backward_grad_sync"):
            model.require_backward_grad_sync = False  # DDP would add up the gradients in an order of its own

    def evaluation(self, results: Any, loaders: Sequence[Any]) -> Evaluation:
        """Begin with the loaders of a validation or a test.

        Args:
            results: What `self.log` collects there.
            loaders: The loaders.

        Raises:
            ConfigError: They divide their samples in another way on each number of processes.
        """
        return Evaluation(self.trainer, results, loaders, self.kept)

    @contextmanager
    def batch(self, number: int, window: int) -> Iterator[None]:
        """Context in which a batch of the training is worked on.

        Args:
            number: Its number among the batches of this process in their global batch.
            window: Number of the global batch in its epoch.
        """
        own, collected = self._layout.own, self._collected
        assert collected is not None
        self._virtual, self._counts = own[min(number, len(own) - 1)], number < len(own)
        self._number = number
        self.batch_idx = window * self._layout.num_virtual + self._virtual
        self._is_last = number == self._layout.per_window - 1
        if number == 0:
            self._step = self.trainer.global_step
            self._gradients.begin(self.trainer.lightning_module)
            self._buffers.begin()
        self.kept.drawing.batch(self._step, self._virtual)
        with collected.batch((0, self._virtual), self._counts):
            yield
        if self._is_last:
            self.kept.drawing.after(self._step)

    def backward(self, backward: Callable[[Tensor], None], loss: Tensor) -> None:
        """Run the backward pass of a batch; after the last one of a global batch, set the gradients of all of them.

        Args:
            backward: Runs it.
            loss: Mean over the samples of the batch, weighted by their number.
        """
        self._gradients.before_backward()
        backward(loss)
        if self._counts:
            self._gradients.after_backward(self._virtual)
            self._buffers.batch_ends(self._virtual)
        if self._is_last:
            self._gradients.finish()
            self._buffers.finish()
            self.kept.drawing.optimizer_step(self._step)

    def batch_logged(self) -> None:
        """Take what a batch has logged; after the last one of a global batch, show the values of all of them."""
        collected = self._collected
        if collected is None or collected.results.virtual is None:  # of a validation
            return
        collected.take_latest(self._virtual, self._counts)
        if self._is_last:
            collected.show_latest()

    def epoch_ends(self) -> None:
        """Combine what all virtual ranks have collected, before the hooks at the end of an epoch."""
        if self._collected is not None:
            self._collected.combine()

    def epoch_ended(self) -> None:
        """Compare what these hooks have logged."""
        if self._collected is not None:
            self._collected.results.compare()

    def state(self) -> dict[str, Any]:
        """Return what the virtual ranks of this process have collected in this epoch."""
        return {} if self._collected is None else self._collected.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` has returned on any number of processes."""
        assert self._collected is not None
        self._collected.load_state(state, self._layout.own)
