"""Groups of processes that compute a batch together, and get the same batches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy

from cairn.data import parallel
from cairn.errors import ConfigError
from cairn.lightning import clipping
from cairn.lightning.fsdp import meshes
from cairn.lightning.saved import ranks


class GroupedProcesses(ModelParallelStrategy):
    """Makes the mesh of processes, by default with groups of one.

    Args:
        data_parallel_size: Number of groups.
        tensor_parallel_size: Number of processes in each.
        process_group_backend: As for DDP.
        timeout: As for DDP.
    """

    def __init__(
        self,
        data_parallel_size: meshes.Size,
        tensor_parallel_size: meshes.Size,
        process_group_backend: str | None,
        timeout: timedelta | None,
    ) -> None:
        meshes.check_sizes(data_parallel_size, tensor_parallel_size)
        super().__init__(process_group_backend=process_group_backend, timeout=timeout)
        self.data_parallel_size, self.tensor_parallel_size = data_parallel_size, tensor_parallel_size
        self._has_checked_batch = False

    @property
    def sharded_module(self) -> LightningModule:
        """The module of the trainer."""
        assert self.lightning_module is not None
        return self.lightning_module

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of groups, and number of processes in each.

        Raises:
            ConfigError: They do not fit the number of processes.
        """
        number = self.num_nodes * self.num_processes
        return meshes.sizes(self.data_parallel_size, self.tensor_parallel_size, number, self.num_processes)

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.sizes
        self._has_checked_batch = False
        super().setup_environment()
        parallel.compute_together(self._tensor_parallel_size)
        is_whole = self._tensor_parallel_size == 1 or meshes.has_values(self.sharded_module)
        if not self.reduce_boolean_decision(is_whole):
            raise ConfigError(meshes.NO_VALUES, parameter="meta_init")

    def check_batch(self, batch: Any) -> None:
        """Check once in a fit that all processes of a group have the same batch. Every rank must call this.

        Args:
            batch: The first batch of this process.

        Raises:
            ConfigError: They have different ones.
        """
        if self._has_checked_batch or self._tensor_parallel_size == 1:
            return
        self._has_checked_batch = True
        if not self.reduce_boolean_decision(meshes.is_same(ranks.of_batch(batch), self.device_mesh)):
            raise ConfigError(
                "The processes of a tensor-parallel group have different batches, and they compute one batch together:"
                " use cairn.DataLoader, or a sampler with rank=self.trainer.distributed_sampler_kwargs['rank'] and the"
                " same num_replicas, and draw random numbers from the same seed."
            )

    def teardown(self) -> None:
        parallel.compute_together(1)
        clipping.remove(self.precision_plugin)
        super().teardown()
