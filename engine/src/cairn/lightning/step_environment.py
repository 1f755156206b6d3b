"""SLURM's environment for a Trainer: requeues are Cairn's, and what srun has started is what counts."""

from __future__ import annotations

from lightning.pytorch.plugins.environments import SLURMEnvironment

from cairn.jobs.layout import Layout, layout


class StepEnvironment(SLURMEnvironment):
    """Lightning's environment, but a job is requeued by Cairn only, and may have its tasks on fewer nodes."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)  # a job must be requeued exactly once

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Accept what srun has started, although a requeued job still has the SLURM_NTASKS_PER_NODE of its first nodes.

        Args:
            num_devices: Processes on each node.
            num_nodes: Nodes.

        Raises:
            ValueError: The settings of the Trainer are others.
        """
        if layout() != Layout(num_nodes, num_devices):
            super().validate_settings(num_devices, num_nodes)
