"""The strategy that shards a model: parameters, gradients and optimizer states are divided among all processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies.parallel import ParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from cairn.errors import ConfigError
from cairn.lightning import clipping
from cairn.lightning.fsdp import blocks, meshes, norm, refused, shard, synced
from cairn.lightning.fsdp.steps import GatheringSteps
from cairn.lightning.io import MappedCheckpointIO
from cairn.lightning.saved import block, placed
from cairn.writing.sharded.rows import Rows


class FSDP2Strategy(GatheringSteps):
    """Shards any model by blocks with torch's `fully_shard` (FSDP2), on all processes.

        trainer = Trainer(accelerator="gpu", devices=8, strategy=cairn.FSDP2Strategy())

    The model is an ordinary `LightningModule`, which does not shard itself. All processes begin with the weights of
    rank 0, and its buffers are shared before each optimizer step, as with DDP. A checkpoint holds whole tensors: any
    number of processes, with this strategy or with DDP, continues from it; with tensor parallelism, only the
    same two sizes do.

    Args:
        blocks: Classes of the modules that are sharded on their own, so that one of them is gathered at a time; `auto`:
            the outermost modules that repeat in a list and have layers of their own.
        activation_checkpointing: Repeat the forward pass of each block in the backward pass, rather than keep what lies
            between its layers. Needs less memory and more time; the numbers are the same.
        meta_init: Whether `python train.py` builds the model with data on rank 0 only. The other processes build it on
            the meta device, and rank 0 sends each of them its rows: the weights are those of the model's own code.
        gather_in_bf16: With `precision="bf16-mixed"`, gather parameters in bfloat16, which halves what is sent; what
            autocast computes in float32 then begins with rounded weights. By default the numbers are those of DDP.
        process_group_backend: As for DDP.
        timeout: As for DDP.
        data_parallel_size: Number of groups of processes that have batches of their own; `auto`: as many as there are.
        tensor_parallel_size: Number of processes in such a group, which compute a batch together. The model calls
            `parallelize_module(..., self.device_mesh["tensor_parallel"], ...)` in `configure_model`, and the strategy
            shards what it gets among the groups. `auto`: the processes of a node.
    """

    def __init__(
        self,
        blocks: str | Sequence[str] = blocks.AUTO,
        activation_checkpointing: bool = False,
        meta_init: bool = False,
        gather_in_bf16: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
        data_parallel_size: meshes.Size = "auto",
        tensor_parallel_size: meshes.Size = 1,
    ) -> None:
        super().__init__(data_parallel_size, tensor_parallel_size, process_group_backend, timeout)
        self.blocks, self.activation_checkpointing = blocks, activation_checkpointing
        self.meta_init, self.gather_in_bf16 = meta_init, gather_in_bf16
        self._in_shards = False
        self.rows: list[Rows] = []
        """Rows of the last state that was dumped within `in_shards`."""
        self._divided: list[DTensor] = []
        """The tensors themselves, in the same order."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False  # before, as with DDP: hooks and optimizers see what was loaded

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup(self, trainer: Trainer) -> None:
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        refused.check(trainer)
        fits, module = trainer.state.fn == TrainerFn.FITTING, self.sharded_module
        if not placed.is_sharded(module):
            self._shard(module)
        else:
            module.to(self.root_device)
            meshes.share_replicas(module, self.device_mesh)
        meshes.check_uses(module, self.device_mesh)
        meshes.check(module, self.device_mesh)
        self.watch_steps()
        if fits:
            meshes.share_generators(self.device_mesh)
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        if norm.is_needed(module):
            clipping.install(self.precision_plugin, norm.norm)
        self.buffers_are_due = True

    def _shard(self, module: LightningModule) -> None:
        if self._layer_sync is not None:
            self.model = self._layer_sync.apply(module)  # SyncBatchNorm
        self.precision_plugin.convert_module(module)
        forms = synced.forms(module)
        if not self.reduce_boolean_decision(forms == self.broadcast(forms)):
            raise ConfigError(
                "The processes have built different models: their parameters differ in name, type or shape. Build the"
                " same model on each rank."
            )
        units = blocks.find(module, self.blocks)
        if self.activation_checkpointing:
            blocks.recompute(units)
        meshes.share_replicas(module, self.device_mesh)
        policy = shard.policy(self.precision_plugin.precision, self.gather_in_bf16)
        shard.shard(module, units, self.device_mesh["data_parallel"], self.root_device, policy)

    # Checkpoints: whole tensors, on rank 0 or in parts

    @contextmanager
    def in_shards(self) -> Iterator[None]:
        """Context in which a state holds tensors without data, and `rows` what this rank has of them."""
        self._in_shards, self.rows, self._divided = True, [], []
        try:
            yield
        finally:
            self._in_shards = False

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return placed.weights(self.sharded_module, self._converted)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state = Strategy.optimizer_state(self, optimizer)
        found: dict[str, Any] = placed.converted(state, self._converted)
        return found

    def _converted(self, value: DTensor) -> Tensor:
        if not block.is_divided(value):
            return value.to_local()  # a number of an optimizer, which all ranks have
        if not self._in_shards:
            return placed.whole(self.is_global_zero)(value)
        self.rows.append(placed.rows(value))
        self._divided.append(value)
        return self.rows[-1].whole

    def collected(self) -> dict[int, Tensor]:
        """Collect what was dumped within `in_shards` on rank 0. Every rank must call this, with tensors of equal forms.

        Returns:
            The whole tensors on rank 0, without data on the others, by the storages of those that stand for them.
        """
        collect, pairs = placed.whole(self.is_global_zero), zip(self.rows, self._divided, strict=True)
        found = {item.whole.untyped_storage()._cdata: collect(value) for item, value in pairs}
        self._divided = []
        return found

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        if isinstance(io := self.checkpoint_io, MappedCheckpointIO):
            io.mapped, io.reads_rows = ("state_dict", "optimizer_states"), True  # only rows of this rank are copied
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        self.sharded_module.load_state_dict(
            placed.weights_for(self.sharded_module, checkpoint["state_dict"]), strict=strict
        )

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        parted = getattr(self.checkpoint_io, "parted", None)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            optimizer.load_state_dict(placed.optimizer_state_for(optimizer, state, parted))


def divided(trainer: Trainer) -> FSDP2Strategy | None:
    """Return the strategy if it divides the model among several processes; None: each process has all of it."""
    strategy = trainer.strategy
    return strategy if isinstance(strategy, FSDP2Strategy) and trainer.world_size > 1 else None
