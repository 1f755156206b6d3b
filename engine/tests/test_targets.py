"""What a spec may become, and what it may not."""

import functools

import pytest
import torch
from lightning.pytorch import LightningModule
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cairn.errors import SpecError
from cairn.targets import build
from project.models.mlp import MLP

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}


def test_a_module():
    assert build(LINEAR, nn.Module).weight.shape == (3, 2)


def test_hydra_keys_are_not_arguments():
    assert isinstance(build(LINEAR | {"_convert_": "all", "_recursive_": True}), nn.Linear)


def test_a_partial_optimizer_and_scheduler():
    make = build({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}, Optimizer)
    assert isinstance(make, functools.partial)
    optimizer = make([torch.zeros(1, requires_grad=True)])
    spec = {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 2}
    assert build(spec, LRScheduler)(optimizer).step_size == 2


def test_what_is_no_mapping_is_returned():
    net = nn.Linear(1, 1)
    assert build(net, nn.Module) is net
    assert build(None) is None


class Holder(LightningModule):
    def __init__(self, net, nets=()):
        super().__init__()
        self.net, self.nets = net, nets


def holder(**spec):
    return {"_target_": f"{__name__}.Holder", **spec}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    # Test files are not importable by their name: give this one the name that the specs above use.
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(Holder=Holder))


def test_nested_specs_are_built():
    made = build(holder(net=LINEAR, nets=[LINEAR, {"deeper": LINEAR}]), LightningModule)
    assert isinstance(made.net, nn.Linear)
    assert isinstance(made.nets[0], nn.Linear)
    assert isinstance(made.nets[1]["deeper"], nn.Linear)


def test_or_handed_on_if_the_spec_says_so():
    assert build(holder(net=LINEAR, _recursive_=False)).net == LINEAR


def test_a_config_of_omegaconf_will_do():
    spec = OmegaConf.create(
        {"_target_": "project.models.mlp.MLP", "input_size": 4, "hidden_sizes": [3], "num_classes": 2}
    )
    assert isinstance(build(spec), MLP)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "pathlib.Path",
        "torch.load",
        "torch.Tensor",
        "torch.nn",
    ],
)
@pytest.mark.parametrize("extra", [{}, {"_partial_": True}])
def test_nothing_else_is_built(target, extra):
    with pytest.raises(TypeError, match=f"{target} may not be built here") as caught:
        build({"_target_": target, **extra}, nn.Module)
    assert "\n" not in str(caught.value)


def test_nor_inside_of_something_that_may_be():
    with pytest.raises(TypeError, match=r"os\.system may not be built"):
        build(holder(net=[{"_target_": "os.system", "command": "true"}]))


def test_another_kind_is_refused():
    with pytest.raises(TypeError, match="has to be a subclass of Optimizer"):
        build(LINEAR, Optimizer)


@pytest.mark.parametrize("target", ["torch.nn.Lineal", "no_such_module.Net", "not a name", ""])
def test_a_target_that_does_not_exist(target):
    with pytest.raises(SpecError, match="There is no _target_="):
        build({"_target_": target})


@pytest.mark.parametrize("spec", [{}, {"lr": 1}, {"_target_": None}])
def test_a_mapping_without_a_target(spec):
    with pytest.raises(TypeError, match="_target_"):
        build(spec)
