"""A message about weights that do not fit shows the one cause first: a prefix, a part, a shape."""

import pytest
import torch
from torch import nn

from cairn.writing.mismatch import mismatch


def network(num_classes=3):
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, num_classes))


class Model(nn.Module):
    def __init__(self, name, net, head=None):
        super().__init__()
        setattr(self, name, net)
        if head:
            self.head = nn.Linear(2, head)


def found(file, model):
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(file if isinstance(file, dict) else file.state_dict())
    return str(mismatch(caught.value))


def compiled():
    return torch.compile(network(), backend="eager")


ALL = "all names are equal except for a prefix: "


@pytest.mark.parametrize(
    ("file", "model", "expected"),
    [
        (Model("net", network()), network(), ALL + "only those in the file have 'net.'"),
        (network(), Model("net", network()), ALL + "only those in the model have 'net.'"),
        (Model("model", network()), Model("net", network()), ALL + "'model.' in the file is 'net.' in the model"),
        (Model("net", compiled()), Model("net", network()), ALL + "only those in the file have '_orig_mod.'"),
        (Model("net", network()), Model("net", compiled()), ALL + "only those in the model have '_orig_mod.'"),
        (nn.Sequential(nn.BatchNorm1d(1)), nn.BatchNorm1d(1), ALL + "only those in the file have '0.'"),
        (nn.DataParallel(network()), network(), ALL + "only those in the file have 'module.'"),
        (
            Model("model", network(), head=2),
            Model("net", network(), head=3),
            ALL + "'model.' in the file is 'net.' in the model; head.weight is (2, 2) in the file and (3, 2) in the "
            "model; head.bias is (2,) in the file and (3,) in the model",
        ),
        (
            Model("model", network()),
            Model("net", network(), head=3),
            "4 names are equal except for a prefix: 'model.' in the file is 'net.' in the model; "
            "head (weight, bias) is only in the model",
        ),
    ],
    ids=[
        "prefix",
        "no prefix",
        "another",
        "compiled",
        "not compiled",
        "counted",
        "wrapped",
        "and shapes",
        "and a head",
    ],
)
def test_a_prefix_is_named_first(file, model, expected):
    assert found(file, model) == expected


@pytest.mark.parametrize(
    ("file", "model", "expected"),
    [
        (Model("net", network()), Model("net", network(), head=3), "head (weight, bias) is only in the model"),
        (Model("net", network(), head=3), Model("net", network()), "head (weight, bias) is only in the file"),
        (
            network(3),
            network(5),
            "2.weight is (3, 4) in the file and (5, 4) in the model; 2.bias is (3,) in the file and (5,) in the model",
        ),
    ],
    ids=["missing head", "another head", "classes"],
)
def test_a_part_is_named_as_a_whole(file, model, expected):
    assert found(file, model) == expected


def test_many_layers_are_one_part():
    file = Model("encoder", nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)) for _ in range(9))))
    assert found(file, network()) == (
        "0 (weight, bias) is only in the model; 2 (weight, bias) is only in the model; "
        "encoder (63 weights) is only in the file"
    )


def test_the_last_of_many_flat_names_are_shown():
    text = found({name: torch.zeros(1) for name in "abcdefg"}, nn.Module())
    assert text.startswith("d is only in the file; ")
    assert text.endswith("and 3 more are only in the file")


def test_what_else_torch_reports_is_shown():
    assert "but received <class 'str'>" in found({**network().state_dict(), "0.bias": "x"}, network())


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), ValueError("Error(s) in loading state_dict for X")]
)
def test_another_error_is_not_explained(error):
    assert mismatch(error) is None
