"""A global batch: the random numbers, gradients and buffers of its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from cairn.lightning import clipping
from cairn.lightning.bits import exchanging, norm, seen
from cairn.lightning.bits.buffers import Buffers
from cairn.lightning.bits.drawing import Drawing
from cairn.lightning.bits.gradients import Gradients
from cairn.lightning.bits.sharded import ShardedGradients
from cairn.lightning.bits.tree import Layout
from cairn.lightning.bits.unchanged import Unchanged
from cairn.lightning.bits.unread import Unread
from cairn.lightning.bits.watched_shards import WatchedShards
from cairn.lightning.saved import placed


class Window:
    """One global batch after the other.

    Args:
        trainer: The trainer.
        layout: Which virtual ranks each process plays.
        drawing: Random numbers of the run.
    """

    def __init__(self, trainer: Trainer, layout: Layout, drawing: Drawing) -> None:
        self._trainer, self._drawing, self.layout = trainer, drawing, layout
        self._module = module = trainer.lightning_module
        self._gradients = ShardedGradients(module, layout) if layout.in_turn else Gradients(layout)
        self._buffers = Buffers(module, layout)
        self._unchanged = Unchanged(module, trainer.callbacks)
        self._unread = Unread(module) if layout.num_virtual > 1 else None
        self._is_sharded = placed.is_sharded(module)
        self._in_step = ExitStack()
        clipping.install(trainer.precision_plugin, norm.norm)
        self._let_others_add_up(False)
        self.step = self.number = self.virtual = 0
        self._epoch = -1
        self.counts = True
        """Whether the batch is not a repetition."""

    @property
    def is_last(self) -> bool:
        """Whether the batch is the last one of this process in its global batch."""
        return self.number == self.layout.per_window - 1

    def begin(self, number: int, step: int) -> None:
        """Begin a batch.

        Args:
            number: Its number among the batches of this process in their global batch.
            step: Number of steps of the optimizer that were taken.
        """
        own, epoch = self.layout.own, self._trainer.current_epoch
        self.number, self.virtual, self.counts = number, own[min(number, len(own) - 1)], number < len(own)
        if epoch != self._epoch:
            self._drawing.find(self._trainer)  # again in each epoch: a hook may have made generators
            self._epoch = epoch
        if number == 0:
            self.step = step
            self._gradients.begin(self._module)
            self._buffers.begin()
        self._unchanged.check(number)
        self._gradients.begin_batch(number)
        if self._unread is not None:
            self._unread.begin_batch(number)
        self._drawing.batch(self.step, self.virtual)

    @contextmanager
    def training_step(self) -> Iterator[None]:
        """Context of `training_step`: it exchanges nothing with other processes, and does not see how many there are.

        Raises:
            ConfigError: It does something that depends on their number.
        """
        shown = seen.of_batch(self._trainer, self.virtual, self.layout)
        with exchanging.refused(self._trainer), seen.seen(self._trainer, shown), self._reading():
            yield

    def _reading(self) -> AbstractContextManager[None]:
        return nullcontext() if self._unread is None else self._unread.reading()

    def start_of_step(self) -> None:
        """Note that the hooks before the gradients are set to zero are about to run."""
        if self._unread is not None:
            self._unread.put_back()

    def end(self) -> None:
        """End a batch."""
        if self.is_last:
            self._drawing.after(self.step)

    def backward(self, backward: Callable[[Tensor], None], loss: Tensor) -> None:
        """Run the backward pass of a batch; after the last one, set the gradients of all of them.

        Args:
            backward: Runs it.
            loss: Mean over the samples of the batch, weighted by their number.
        """
        self._gradients.before_backward()
        backward(loss)
        if self.counts:
            self._gradients.after_backward(self.virtual)
            self._buffers.batch_ends(self.virtual)
        if self.is_last:
            self._unchanged.check(self.number, is_last=True)
            self._gradients.finish()
            self._buffers.finish()
            self._drawing.optimizer_step(self.step)
            if self._is_sharded:
                self._in_step.enter_context(WatchedShards())

    def step_ended(self) -> None:
        """Note that the step of the optimizer has ended, with its hooks."""
        self._in_step.close()

    def release(self) -> None:
        """Leave the trainer and the module as they were."""
        self._in_step.close()  # an error has ended a step
        clipping.remove(self._trainer.precision_plugin)
        self._let_others_add_up(True)
        self._gradients.remove()

    def _let_others_add_up(self, is_on: bool) -> None:
        strategy: Any = self._trainer.strategy
        if hasattr(strategy.model, "require_backward_grad_sync"):
            strategy.model.require_backward_grad_sync = is_on  # DDP has an order of its own
        if self.layout.in_turn and hasattr(strategy, "unused"):
            strategy.unused.is_on = is_on  # of FSDP2Strategy, which looks after each batch
