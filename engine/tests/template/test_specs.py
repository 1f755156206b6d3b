"""What of a module's arguments goes into a checkpoint."""

import functools

import pytest
from omegaconf import OmegaConf
from torch import nn

from project.models.specs import live_names, plain


def test_plain_takes_omegaconf_apart():
    made = plain(OmegaConf.create({"a": [1, {"b": None}], "c": "d"}))
    assert made == {"a": [1, {"b": None}], "c": "d"}
    assert type(made) is dict
    assert type(made["a"]) is list


def test_plain_leaves_objects_alone():
    net = nn.Linear(1, 1)
    assert plain(net) is net


@pytest.mark.parametrize(
    ("value", "is_live"),
    [
        (None, False),
        ({"_target_": "x", "sizes": [1, 2.0, True]}, False),
        (nn.ReLU(), True),
        (functools.partial(dict), True),
        ({"scheduler": functools.partial(dict), "interval": "step"}, True),
    ],
)
def test_live_names(value, is_live):
    assert live_names(value=value) == (["value"] if is_live else [])
