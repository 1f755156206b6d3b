"""What the trainer gets in addition to the configuration."""

import pytest
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from omegaconf import OmegaConf

from cairn.hydra.build import with_slurm

IO = {"_target_": "lightning.fabric.plugins.io.torch_io.TorchCheckpointIO"}
ENVIRONMENT = {"_target_": "lightning.pytorch.plugins.environments.LightningEnvironment"}


@pytest.mark.parametrize(
    ("plugins", "others"),
    [
        (None, []),
        ([], []),
        (OmegaConf.create(IO), [TorchCheckpointIO]),
        (OmegaConf.create([IO]), [TorchCheckpointIO]),
        ([TorchCheckpointIO()], [TorchCheckpointIO]),
    ],
)
def test_lightning_does_not_requeue_a_slurm_job_whatever_the_plugins(plugins, others):
    *given, environment = with_slurm(plugins)
    assert [type(item) for item in given] == others
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue


@pytest.mark.parametrize("plugins", [OmegaConf.create([ENVIRONMENT]), LightningEnvironment()])
def test_a_cluster_environment_of_the_user_is_kept(plugins):
    assert [type(item) for item in with_slurm(plugins)] == [LightningEnvironment]
