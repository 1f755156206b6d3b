"""What the trainer gets in addition to the configuration."""

import pytest
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from omegaconf import OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.run.build import check_launcher, with_slurm

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


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_that_could_not_be_stopped_are_refused(strategy):
    with pytest.raises(
        ConfigError, match=r"^trainer\.strategy starts its processes by (spawn|fork): .* trainer\.strategy=ddp\.$"
    ):
        check_launcher(Trainer(strategy=strategy, accelerator="cpu", devices=2, logger=False))


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_other_strategies_are_not_refused(strategy):
    check_launcher(Trainer(strategy=strategy, accelerator="cpu", devices=1, logger=False))
