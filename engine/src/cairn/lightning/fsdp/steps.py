"""Steps of a sharded module: a call of the module gathers its parameters, and a step of Lightning is not one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, distributed
from torch.optim import Optimizer

from cairn.lightning.fsdp import synced
from cairn.lightning.fsdp.grouped import GroupedProcesses
from cairn.lightning.fsdp.same_blocks import SameBlocks
from cairn.lightning.fsdp.unused import UnusedLayers
from cairn.lightning.saved import placed


class GatheringSteps(GroupedProcesses):
    """Runs each step as a call of the module, and shares buffers as DDP does."""

    unused: UnusedLayers
    same_blocks: SameBlocks
    buffers_are_due = True
    """Whether an optimizer step was taken since the buffers were shared."""

    def watch_steps(self) -> None:
        """Watch which layers and blocks steps use, from here on. Every rank must call this."""
        # Where GPUs compute, CPUs talk: a value on a GPU would have to wait for all kernels before it.
        group = None if self.root_device.type == "cpu" else distributed.new_group(backend="gloo")
        self.unused = UnusedLayers(self.sharded_module, self.world_size, group)
        self.same_blocks = SameBlocks(self.sharded_module, self.world_size, group)

    def _step(self, name: str, *args: Any, **kwargs: Any) -> Any:
        module = self.sharded_module
        found = self._forward_redirection(module, module, name, *args, **kwargs)
        # Lightning leaves the method of the class as an attribute, which would look like state of the user's code.
        if getattr(vars(module).get("forward"), "__func__", None) is type(module).forward:
            vars(module).pop("forward")
        return found

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.check_batch(args[0] if args else None)
        self._share_buffers()
        with self.precision_plugin.train_step_context(), self.same_blocks.training_step():
            return self._step("training_step", *args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.precision_plugin.val_step_context():
            return self._step("validation_step", *args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.precision_plugin.test_step_context():
            return self._step("test_step", *args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.precision_plugin.predict_step_context():
            return self._step("predict_step", *args, **kwargs)

    def post_backward(self, closure_loss: Tensor) -> None:
        super().post_backward(closure_loss)
        self.unused.after_backward()

    def optimizer_step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        self.buffers_are_due = True
        found = super().optimizer_step(optimizer, *args, **kwargs)
        self.unused.step_ended(optimizer)
        return found

    def _share_buffers(self) -> None:
        if self.buffers_are_due and self.world_size > 1:
            synced.share_buffers(self.sharded_module)
        self.buffers_are_due = False

    def on_validation_start(self) -> None:
        self._share_buffers()
        self.buffers_are_due = True

    def _evaluated(self) -> None:
        placed.reshard(self.sharded_module)

    on_validation_end = on_test_end = on_predict_end = _evaluated
