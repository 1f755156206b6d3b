"""Hyperparameters in a checkpoint are plain values; others are left out, and a warning names them."""

import collections
import enum
import functools
import pathlib
import types
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from omegaconf import OmegaConf
from torch import nn

from cairn.lightning.saved import hyperparameters
from cairn.lightning.saved.hyperparameters import plain_hyperparameters


class Color(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Name(str):
    pass


Pair = collections.namedtuple("Pair", "left right")


@pytest.fixture(autouse=True)
def _warn_again():
    hyperparameters._warn.cache_clear()


def plain(value):
    return plain_hyperparameters({"hyper_parameters": {"value": value}})["hyper_parameters"]["value"]


def is_same(found, expected):
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected) and found.dtype == expected.dtype
    if isinstance(expected, (list, tuple)):
        return type(found) is type(expected) and all(map(is_same, found, expected)) and len(found) == len(expected)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (0.5, 0.5),
        (b"bytes", b"bytes"),
        (1j, 1j),
        ([1, {"a": (2,)}], [1, {"a": (2,)}]),
        (OmegaConf.create({"a": [1, "${b}"], "b": 2}), {"a": [1, 2], "b": 2}),
        (OmegaConf.create([1, [2]]), [1, [2]]),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (pathlib.Path("a/b"), "a/b"),
        (Color.RED, "red"),
        (Size.SMALL, 1),
        ({Color.RED: 1}, {"red": 1}),
        (Name("n"), "n"),
        ({2, 1}, [1, 2]),
        (frozenset({2, 1}), [1, 2]),
        (Pair(1, [2]), (1, [2])),
        (range(3), [0, 1, 2]),
        (collections.deque([1]), [1]),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([1.5, 2.5]), torch.tensor([1.5, 2.5], dtype=torch.float64)),
        (np.array(["a", "b"]), ["a", "b"]),
        (torch.float16, "torch.float16"),
        (torch.Size([2, 3]), (2, 3)),
        (torch.device("cpu"), "cpu"),
        (torch.arange(2), torch.arange(2)),
    ],
    ids=str,
)
def test_a_value_with_a_plain_form_is_kept(value, expected):
    assert is_same(plain(value), expected)


ENDLESS = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "value",
    [
        nn.Linear(1, 1),
        functools.partial(torch.optim.SGD, lr=0.1),
        print,
        nn.Linear,
        object(),
        torch.empty(1, device="meta"),
        np.datetime64("2026-01-01"),
        [1, {"deep": nn.Linear(1, 1)}],
        {object(): 1},
        ENDLESS,
        OmegaConf.create({"a": "???"}),
        OmegaConf.create({"a": "${nothing}"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_plain_form_is_left_out_and_named(value):
    contents = {"hyper_parameters": {"net": value, "lr": 0.1}, "state_dict": {}}
    with pytest.warns(UserWarning, match=r"leave out the hyperparameters net: .*ignore=\['net'\]\) avoids"):
        found = plain_hyperparameters(contents)
    assert found == {"hyper_parameters": {"lr": 0.1}, "state_dict": {}}
    assert "net" in contents["hyper_parameters"], "the module's own hyperparameters stay"


def test_one_warning_names_all_of_module_and_data_and_is_not_repeated():
    contents = {
        "hyper_parameters": {"net": print, "optimizer": print},
        "datamodule_hyper_parameters": {"transform": print, "batch_size": 2},
    }
    with pytest.warns(UserWarning, match="net, optimizer, transform:") as warned:
        found = [plain_hyperparameters(contents) for _ in range(3)][-1]
    assert len(warned) == 1
    assert found == {"hyper_parameters": {}, "datamodule_hyper_parameters": {"batch_size": 2}}


def test_contents_without_hyperparameters_are_not_changed():
    assert plain_hyperparameters({"state_dict": {"w": 1}}) == {"state_dict": {"w": 1}}


class Configured(LightningModule):
    def __init__(self, cfg):
        super().__init__()
        self.save_hyperparameters(cfg)
        self.weight = nn.Parameter(torch.zeros(1))


class Data(LightningDataModule):
    def __init__(self, root):
        super().__init__()
        self.save_hyperparameters()


def test_a_module_that_saves_a_whole_configuration_loads_from_the_file(tmp_path):
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", default_root_dir=tmp_path)
    model, data = Configured(OmegaConf.create({"lr": 0.1, "sizes": [1, 2]})), Data(tmp_path)
    trainer.strategy.connect(model)
    trainer._data_connector.attach_datamodule(model, datamodule=data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contents = plain_hyperparameters(trainer._checkpoint_connector.dump_checkpoint(weights_only=True))
    torch.save(contents, tmp_path / "a.ckpt")
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert loaded["hyper_parameters"] == {"lr": 0.1, "sizes": [1, 2]}
    assert loaded["datamodule_hyper_parameters"] == {"root": str(tmp_path)}
    model = Configured.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert model.hparams["lr"] == 0.1
