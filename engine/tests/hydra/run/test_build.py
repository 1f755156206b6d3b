"""What the trainer gets in addition to the configuration."""

from types import SimpleNamespace

import pytest
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from omegaconf import OmegaConf

from cairn.errors import ConfigError
from cairn.hydra.run import build
from cairn.hydra.run.build import _environment, check_launcher, with_environment
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.lightning.saved import unsaved
from cairn.lightning.step_environment import StepEnvironment
from cairn.lightning.torchrun import Attempt, TorchrunEnvironment
from cairn.store.resume import ResumePoint
from cairn.wandb.logger import WandbLogger

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
def test_an_environment_is_added_whatever_the_plugins(plugins, others):
    ours = SLURMEnvironment(auto_requeue=False)
    *given, environment = with_environment(plugins, ours)
    assert [type(item) for item in given] == others
    assert environment is ours


@pytest.mark.parametrize("plugins", [OmegaConf.create([ENVIRONMENT]), LightningEnvironment()])
def test_a_cluster_environment_of_the_user_is_kept(plugins):
    assert [type(item) for item in with_environment(plugins, SLURMEnvironment())] == [LightningEnvironment]


SLURM = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, None), (SLURM, StepEnvironment), (TORCHRUN, TorchrunEnvironment), (SLURM | TORCHRUN, TorchrunEnvironment)],
    ids=["alone", "srun", "torchrun", "srun torchrun"],
)
def test_the_environment_is_that_of_the_launcher(environ, expected, monkeypatch):
    for name in (*SLURM, *TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    environment = _environment(Attempt("a", 5))
    assert type(environment) is (expected or type(None))
    assert not getattr(environment, "auto_requeue", False), "a job is requeued once"
    if expected is TorchrunEnvironment:
        assert environment.main_port == 5


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_that_could_not_be_stopped_are_refused(strategy):
    with pytest.raises(
        ConfigError, match=r"^trainer\.strategy starts its processes by (spawn|fork): .* trainer\.strategy=ddp\.$"
    ):
        check_launcher(Trainer(strategy=strategy, accelerator="cpu", devices=2, logger=False))


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_other_strategies_are_not_refused(strategy):
    check_launcher(Trainer(strategy=strategy, accelerator="cpu", devices=1, logger=False))


def test_each_logger_with_a_history_gets_its_position_before_anything_is_logged(tmp_path):
    built = [CSVLogger(tmp_path / "csv"), WandbLogger(tmp_path, id="a"), WandbLogger(tmp_path / "b", id="b"), object()]
    given = []
    for number, logger in enumerate(built[:3]):
        logger.load_state_dict = lambda position, number=number: given.append((number, position))
    states = {"CSVLogger 0": {"rows": 1}, "WandbLogger 1": {"rows": 3}, "object 0": {"rows": 9}}
    loader = SimpleNamespace(peek=lambda path: {unsaved.KEY: {"loggers": states}})
    for saved, expected in ((None, []), (object(), [(0, {"rows": 1}), (2, {"rows": 3})])):
        build._restore_metrics(SimpleNamespace(plan=ResumePoint(tmp_path / "x", saved), loader=loader), built)
        assert given == expected
