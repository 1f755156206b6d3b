"""The number of nodes, and of processes on each, follows from what srun or torchrun has started."""

import pytest

from cairn.errors import ConfigError
from cairn.jobs.layout import Layout, layout

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, None),  # a batch script, and no srun
        ({**SRUN, "SLURM_NTASKS": "1", "SLURM_NNODES": "1"}, None),
        ({**SRUN, "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, Layout(2, 2)),
        ({**SRUN, "SLURM_NTASKS": "4", "SLURM_NNODES": "4", "SLURM_STEP_NUM_NODES": "1"}, Layout(1, 4)),
        ({**TORCHRUN, "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}, Layout(2, 2)),
        ({**TORCHRUN, "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1", "RANK": "0"}, Layout(1, 2)),  # a node was lost
    ],
)
def test_the_launcher_knows(environ, expected):
    assert layout(environ) == expected


def test_nodes_with_different_numbers_of_processes_are_refused():
    with pytest.raises(ConfigError, match=r"5 processes were started on 2 nodes.*as many on each node"):
        layout({**SRUN, "SLURM_NTASKS": "5", "SLURM_NNODES": "2"})
