"""`load_model` builds a model from a checkpoint alone; each error is one sentence."""

import pickle

import pytest
import torch
from lightning.pytorch import LightningModule
from tests.support.mirrors import damage, mirror_files, objects_at
from tests.support.paths import ROOT
from tests.support.project import example
from tests.support.values import draft, file_of
from tests.template.helpers import CLASSIFIER, LANGUAGE_MODEL, OLD_CLASSIFIER, PLATEAU
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from cairn.errors import SpecError
from cairn.lightning.load_model import load_model
from cairn.remote import layout
from cairn.store.commit import CommitPlan, write
from cairn.targets import build

example("models.classifier"), example("models.language_model")


@pytest.fixture
def checkpoint(tmp_path):
    def write(spec=CLASSIFIER, weights=None):
        path = tmp_path / "some.ckpt"
        state = build(spec).state_dict() if weights is None else weights
        torch.save({"cairn": {"config": {"model": spec}}, "state_dict": state}, path)
        return path

    return write


@pytest.mark.parametrize("spec", [CLASSIFIER, LANGUAGE_MODEL, CLASSIFIER | {"scheduler": PLATEAU}])
def test_the_model_is_built_with_its_weights(checkpoint, spec):
    torch.manual_seed(0)
    weights = build(spec).state_dict()
    model = load_model(checkpoint(spec, weights))
    assert not model.training
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_model_comes_from_an_object_store(tmp_path):
    store, directory = objects_at("memory", tmp_path), tmp_path / "local"
    weights = build(CLASSIFIER).state_dict()
    contents = {"cairn": {"config": {"model": CLASSIFIER}}, "state_dict": weights}
    directory.mkdir()
    saved = write(CommitPlan(directory, draft(), {}), file_of(contents)).saved
    mirror_files(store, directory, saved, {})
    model = load_model(str(store.address))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    damage(store, layout.stem_of(saved).data)
    with pytest.raises(ValueError, match=f"{store.address} cannot be used"):
        load_model(f"{store.address}/checkpoints/{saved.name}")


def test_the_optimizer_is_a_factory_as_in_a_training(checkpoint):
    model = load_model(checkpoint(CLASSIFIER))
    made = model.configure_optimizers()["optimizer"]
    assert isinstance(made, torch.optim.SGD)
    assert made.defaults["lr"] == 0.1


def test_a_checkpoint_of_version_0_1_is_loaded(checkpoint, monkeypatch):
    """Its targets have moved since, and its model took specs of the network and the optimizer."""
    monkeypatch.setenv("PROJECT_ROOT", str(ROOT))
    weights = build(CLASSIFIER).state_dict()
    model = load_model(checkpoint(OLD_CLASSIFIER, weights))
    assert isinstance(model, type(build(CLASSIFIER)))
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value)
    built = model.configure_optimizers()["lr_scheduler"]
    assert isinstance(built["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau)
    assert built["monitor"] == "val/loss"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        load_model(tmp_path / "none.ckpt")


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1], {"cairn": None}])
def test_a_checkpoint_of_another_program_is_refused(tmp_path, content):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"is not a (Cairn|Lightning) checkpoint"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"nothing", pickle.dumps(print)])
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a checkpoint: torch\.save did not write it"):
        load_model(path)


def test_a_pickled_class_is_not_loaded(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"cairn": pytest.raises}, path)
    with pytest.raises(ValueError, match="only tensors and plain values are loaded"):
        load_model(path)


def test_weights_that_do_not_fit_are_named(checkpoint):
    weights = build(CLASSIFIER).state_dict()
    weights["net.extra"] = weights.pop("net.layers.1.bias")
    weights["net.layers.4.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="weights of another model") as caught:
        load_model(checkpoint(weights=weights))
    for difference in (
        "layers.1.bias is only in the model",
        "net.extra is only in the file",
        "is (2, 2) in the file and (3, 5) in",
    ):
        assert difference in str(caught.value)


@pytest.mark.parametrize("target", ["os.system", "torch.nn.Linear"])
def test_a_file_cannot_name_another_class_to_build(checkpoint, target):
    with pytest.raises(SpecError, match=target):
        load_model(checkpoint({"_target_": target}, weights={}))


def test_a_file_cannot_name_another_function_inside_its_model(checkpoint):
    spec = CLASSIFIER | {"net": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(SpecError, match=r"os\.system"):
        load_model(checkpoint(spec, weights={}))


class BuiltInSetup(LightningModule):
    def __init__(self, width=2):
        super().__init__()
        self.width = width

    def setup(self, stage):
        self.net = nn.Linear(self.width, 1)


class NeedsData(BuiltInSetup):
    def setup(self, stage):
        self.net = nn.Linear(self.trainer.datamodule.width, 1)


class BuiltInConfigureModel(BuiltInSetup):
    setup = LightningModule.setup

    def configure_model(self):
        BuiltInSetup.setup(self, "fit")


class Counting(BuiltInConfigureModel):
    count = 0

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        self.count = state["count"]


class Lenient(BuiltInConfigureModel):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(1, 1)
        self.strict_loading = False


class Renamed(BuiltInConfigureModel):
    def on_load_checkpoint(self, checkpoint):
        checkpoint["state_dict"] = {"net.weight": torch.ones(1, 2), "net.bias": torch.zeros(1)}


class Parallel(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)

    def configure_model(self):
        parallelize_module(self.net, self.device_mesh["tensor_parallel"], ColwiseParallel())


class Broken(Parallel):
    def configure_model(self):
        self.missing["tensor_parallel"]


class Lazy(BuiltInConfigureModel):
    def configure_model(self):
        self.net = nn.LazyLinear(1)


WEIGHTS = {"net.weight": torch.ones(1, 2), "net.bias": torch.zeros(1)}


@pytest.fixture
def of_class(checkpoint, monkeypatch):
    """Write a checkpoint of a class of this module."""
    return lambda kind, weights: checkpoint({"_target_": f"{__name__}.{kind.__name__}"}, weights)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        (BuiltInSetup, WEIGHTS),
        (BuiltInConfigureModel, WEIGHTS),
        (BuiltInConfigureModel, {f"net._orig_mod.{name[4:]}": value for name, value in WEIGHTS.items()}),
        (Counting, {"_extra_state": {"count": 5}, **WEIGHTS}),
        (Lenient, WEIGHTS),
        (Renamed, {"old": torch.ones(2)}),
        (Lazy, WEIGHTS),
        (Parallel, WEIGHTS),
    ],
    ids=["setup", "configure_model", "compiled", "extra state", "not strict", "renamed", "lazy", "tensor parallel"],
)
def test_what_lightning_loads_is_loaded(of_class, kind, weights):
    model = load_model(of_class(kind, weights))
    assert model.net.weight.tolist() == [[1, 1]]
    assert getattr(model, "count", 5) == 5


def test_another_error_of_configure_model_is_raised(of_class):
    with pytest.raises(AttributeError, match="missing"):
        load_model(of_class(Broken, WEIGHTS))


def test_layers_that_need_data_are_named(of_class):
    with pytest.raises(
        ValueError, match=r"net \(weight, bias\) is only in the file\. NeedsData\.setup\(\) cannot build"
    ):
        load_model(of_class(NeedsData, WEIGHTS))
