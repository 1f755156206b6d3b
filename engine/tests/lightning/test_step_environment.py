"""What srun has started counts, and not what a job has asked for before it lost a node."""

import pytest

from cairn.lightning.step_environment import StepEnvironment

STEP = {
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"},
    **{"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "2"},
}


@pytest.mark.parametrize(
    ("environ", "num_nodes", "num_devices", "accepted"),
    [
        ({}, 2, 2, True),
        ({}, 1, 4, False),
        ({"SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1"}, 1, 4, True),
        ({"SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1"}, 2, 4, False),
        ({"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1"}, 1, 2, True),
    ],
    ids=["as asked", "devices are wrong", "all tasks on one node", "nodes are wrong", "one node of two"],
)
def test_the_trainer_has_to_fit_the_tasks(environ, num_nodes, num_devices, accepted, monkeypatch):
    for name, value in {**STEP, **environ}.items():
        monkeypatch.setenv(name, value)
    environment = StepEnvironment()
    assert not environment.auto_requeue
    if accepted:
        environment.validate_settings(num_devices, num_nodes)
    else:
        with pytest.raises(ValueError, match="does not match"):
            environment.validate_settings(num_devices, num_nodes)
