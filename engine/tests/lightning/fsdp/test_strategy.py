"""What the strategy makes of a model, in one process, and what it refuses."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelPruning
from lightning.pytorch.strategies import ModelParallelStrategy
from tests.support.elastic_fit import Points
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import prune

import cairn
from cairn.errors import ConfigError
from cairn.lightning.fsdp import refused, shard, synced
from cairn.lightning.fsdp.strategy import FSDP2Strategy
from cairn.lightning.saved import placed


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.leave = nn.Linear(4, 4), nn.Linear(4, 1)

    def training_step(self, batch):
        return self.leave(self.layer(batch[0])).square().mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def group():
    """A group of this process alone, which the strategy then uses."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def fit(net=None, strategy=None, **options):
    seed_everything(0)
    options = {"max_steps": 2, "enable_progress_bar": False, "enable_model_summary": False, **options}
    options = {"enable_checkpointing": False, "logger": False, "accelerator": "cpu", "devices": 1, **options}
    net = net or Net()
    trainer = Trainer(strategy=strategy or FSDP2Strategy(), **options)
    trainer.fit(net, cairn.DataLoader(Points(8), 4))
    return trainer, net


def test_all_parameters_are_sharded_and_a_file_holds_them_whole(tmp_path):
    trainer, net = fit()
    assert all(isinstance(parameter, DTensor) for parameter in net.parameters())
    assert "forward" not in vars(net), "a resume would miss it"
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    contents = torch.load(tmp_path / "one.ckpt", weights_only=True)
    again = Net()
    again.load_state_dict(contents["state_dict"])
    assert torch.equal(again.layer.weight, net.layer.weight.full_tensor())
    assert type(contents["optimizer_states"][0]["state"][0]["exp_avg"]) is torch.Tensor


def test_tied_weights_stay_tied_also_without_data():
    with torch.device("meta"):
        net = Net()
        net.leave = nn.Linear(4, 4)
        net.leave.weight = net.layer.weight
    mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
    assert len(synced.owners(net)) == 3
    shard.shard(net, [], mesh, torch.device("cpu"), shard.policy("32-true", False))
    assert net.leave.weight is net.layer.weight
    assert len(list(net.parameters())) == 3
    assert not net.layer.weight.is_meta
    found = placed.weights(net, placed.whole(keep=True))
    assert found["leave.weight"] is found["layer.weight"], "a file holds it once"


class ShardsAPart(Net):
    def configure_model(self):
        fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])


class HasTwoDimensions(Net):
    def configure_model(self):
        fully_shard(self, mesh=self.device_mesh)


class IsLazy(Net):
    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(4)


class IsPruned(Net):
    def __init__(self):
        super().__init__()
        prune.random_unstructured(self.layer, "weight", 0.5)


class HooksGradients(Net):
    def __init__(self):
        super().__init__()
        self.layer.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))


class CountsGradients(Net):
    def __init__(self):
        super().__init__()
        self.layer.weight.register_post_accumulate_grad_hook(lambda parameter: None)


class HasANumber(Net):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


class KeepsRows(torch.optim.SGD):
    """It keeps one number for each row."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["row"] = parameter.new_zeros(len(parameter) + 1)
        return super().step(closure)


class KeepsOther(Net):
    def configure_optimizers(self):
        return KeepsRows(self.parameters(), lr=0.1)


def test_a_model_that_shards_itself_on_two_dimensions_is_saved_whole(tmp_path):
    trainer, net = fit(HasTwoDimensions())
    assert {parameter.device_mesh.ndim for parameter in net.parameters()} == {2}
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    weights = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(weights["layer.weight"], net.layer.weight.full_tensor())


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "all"])
def test_a_size_that_is_not_a_number_of_processes_is_refused(value):
    with pytest.raises(ConfigError, match=f"tensor_parallel_size={value!r} must be an integer of at least 1"):
        FSDP2Strategy(tensor_parallel_size=value)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (ShardsAPart, {}, "leave.weight lies outside of fully_shard"),
        (Net, {"strategy": FSDP2Strategy(tensor_parallel_size=2)}, "do not fit 1 process: their product"),
        (Net, {"strategy": FSDP2Strategy(data_parallel_size=3)}, "data_parallel_size=3 .* do not fit 1 process"),
        (IsLazy, {}, "layer.weight gets its shape with the first batch"),
        (IsPruned, {}, "layer.weight is pruned"),
        (HooksGradients, {}, r"A hook on the gradient of layer.weight \(register_hook\) would be lost"),
        (CountsGradients, {}, "A hook on the gradient of layer.weight"),
        (HasANumber, {}, r"scale has no dimension .* give it the shape \(1,\)"),
        (Net, {"callbacks": [EMAWeightAveraging()]}, "EMAWeightAveraging copies the model"),
        (Net, {"callbacks": [ModelPruning("l1_unstructured", amount=0.5)]}, "ModelPruning replaces parameters"),
        (Net, {"strategy": FSDP2Strategy(gather_in_bf16=True)}, "gather_in_bf16=True needs precision='bf16-mixed'"),
        (Net, {"strategy": FSDP2Strategy(activation_checkpointing=True)}, "no block is found in this model"),
        (Net, {"strategy": FSDP2Strategy(blocks=["Other"])}, "blocks=Other: Net has no module of this class"),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_training(net, options, message):
    with pytest.raises(ConfigError, match=message):
        fit(net(), **options)


@pytest.mark.parametrize(
    ("net", "strategy", "message"),
    [
        (KeepsOther, FSDP2Strategy, "KeepsRows keeps 'row' in another shape"),
        (
            Net,
            ModelParallelStrategy,
            r"ModelParallelStrategy is not supported.*cairn.FSDP2Strategy\(\).*tensor_parallel",
        ),
    ],
)
def test_what_cannot_be_saved_is_refused_before_training(tmp_path, net, strategy, message):
    callbacks = [cairn.Checkpointer(tmp_path / "checkpoints", every=1)]
    with pytest.raises(ConfigError, match=message):
        fit(net(), strategy(), callbacks=callbacks, enable_checkpointing=True)


def test_mixed_precision_with_a_scaler_is_refused():
    with pytest.raises(ValueError, match=r"does not support.*16-mixed"):
        Trainer(strategy=FSDP2Strategy(), accelerator="cpu", precision="16-mixed")


@pytest.mark.parametrize("options", [{}, {"strategy": FSDP2Strategy(gather_in_bf16=True)}])
def test_bfloat16_computes_and_keeps_float32(options):
    _, net = fit(precision="bf16-mixed", **options)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert all(torch.isfinite(parameter.full_tensor()).all() for parameter in net.parameters())


def frozen(kind):
    return kind(2).eval()


@pytest.mark.parametrize(
    ("layer", "converts", "is_refused"),
    [
        (nn.SyncBatchNorm(2), False, True),
        (nn.BatchNorm1d(2), True, True),
        (nn.BatchNorm1d(2), False, False),
        (nn.LayerNorm(2), True, False),
        (frozen(nn.SyncBatchNorm), False, False),
    ],
)
def test_statistics_that_cpus_would_synchronize_are_refused(layer, converts, is_refused):
    strategy = SimpleNamespace(root_device=torch.device("cpu"), _layer_sync=object() if converts else None)
    trainer = SimpleNamespace(world_size=2, strategy=strategy, lightning_module=nn.Sequential(layer))
    with pytest.raises(ConfigError, match=r"^0 would synchronize .* on GPUs only") if is_refused else nullcontext():
        refused.check_batchnorm(trainer)
    trainer.world_size = 1
    refused.check_batchnorm(trainer)
