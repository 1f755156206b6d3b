"""From a file alone to a model, and the sentences of what goes wrong."""

import pickle

import pytest
import torch
from tests.template.helpers import CLASSIFIER, LANGUAGE_MODEL

from cairn.lightning.load_model import load_model
from cairn.targets import build


@pytest.fixture
def checkpoint(tmp_path):
    def write(spec=CLASSIFIER, weights=None):
        path = tmp_path / "some.ckpt"
        state = build(spec).state_dict() if weights is None else weights
        torch.save({"cairn": {"config": {"model": spec}}, "state_dict": state}, path)
        return path

    return write


@pytest.mark.parametrize("spec", [CLASSIFIER, LANGUAGE_MODEL])
def test_the_model_comes_back(checkpoint, spec):
    torch.manual_seed(0)
    weights = build(spec).state_dict()
    model = load_model(checkpoint(spec, weights))
    assert not model.training
    assert model.hparams["net"] == spec["net"]
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value)


def test_also_a_spec_whose_parts_are_built_first(checkpoint):
    model = load_model(checkpoint(CLASSIFIER | {"_recursive_": True}))
    assert "net" not in model.hparams


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        load_model(tmp_path / "none.ckpt")


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1], {"cairn": None}])
def test_another_checkpoint(tmp_path, content):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match="is no Cairn checkpoint"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"nothing", pickle.dumps(print)])
def test_no_checkpoint_at_all(tmp_path, content):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no checkpoint that can be read safely"):
        load_model(path)


def test_a_pickled_class_is_not_loaded(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"cairn": pytest.raises}, path)
    with pytest.raises(ValueError, match="no checkpoint that can be read safely"):
        load_model(path)


def test_weights_that_do_not_fit(checkpoint):
    weights = build(CLASSIFIER).state_dict()
    weights["net.extra"] = weights.pop("net.layers.1.bias")
    weights["net.layers.4.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_model(checkpoint(weights=weights))
    for difference in ("layers.1.bias is missing", "net.extra is unknown", "has shape (2, 2), not (3, 5)"):
        assert difference in str(caught.value)


@pytest.mark.parametrize("target", ["os.system", "torch.nn.Linear"])
def test_a_file_cannot_have_anything_else_built(checkpoint, target):
    with pytest.raises(TypeError, match=r"is refused|cannot be built here"):
        load_model(checkpoint({"_target_": target}, weights={}))


def test_nor_inside_of_its_model(checkpoint):
    spec = CLASSIFIER | {"net": {"_target_": "os.system", "command": "true"}}
    with pytest.raises(TypeError, match=r"os\.system is refused"):
        load_model(checkpoint(spec, weights={}))
