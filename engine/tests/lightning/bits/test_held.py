"""Generators that belong to the training are found, and those of the samples are left alone."""

import random

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from cairn.lightning.bits import held
from cairn.lightning.bits.drawing import Drawing

OWN = random.Random(0)


class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.transforms = [{"rng": np.random.default_rng(0)}]


class Samples(Dataset):
    def __init__(self):
        self.rng = np.random.default_rng(0)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.noise, self.rng, self.samples = Noise(), torch.Generator(), Samples()

    def training_step(self, batch):
        return OWN.random()


class Draws(Callback):
    def __init__(self):
        self.rng = np.random.RandomState(0)


def drawn(net, callback):
    own = float(torch.rand((), generator=net.rng)), net.noise.transforms[0]["rng"].random(), OWN.random()
    return [*own, callback.rng.rand()]


def test_generators_of_module_and_callbacks_are_a_function_of_the_virtual_rank():
    net, callback = Net(), Draws()
    trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(net)
    drawing, before = Drawing(3), net.samples.rng.bit_generator.state
    drawing.find(trainer)
    drawing.batch(0, 0)
    first = drawn(net, callback)
    drawing.batch(0, 1)
    second = drawn(net, callback)
    with drawing.evaluation(0, 0, 0):
        assert drawn(net, callback) not in (first, second)
    after = drawn(net, callback)
    drawing.batch(0, 1)
    assert drawn(net, callback) == second
    assert drawn(net, callback) == after, "a validation leaves no trace"
    drawing.batch(0, 0)
    assert drawn(net, callback) == first
    assert not set(first) & set(second), "each of them is seeded"
    assert net.samples.rng.bit_generator.state == before


def test_one_in_the_last_part_of_a_large_model_is_found():
    net = Net()
    net.noise = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.ReLU()) for _ in range(300)), Noise())
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(net)
    assert any("noise.300.transforms" in path for path in held.generators(trainer).paths)


class Data(LightningDataModule):
    """With a generator for a hook of its own, and another one for a loader."""

    def __init__(self):
        super().__init__()
        self.rng, self.order = torch.Generator(), torch.Generator()

    def train_dataloader(self):
        return DataLoader(range(4), shuffle=True, generator=self.order)


class Trains(Net):
    def training_step(self, batch):
        return self.layer(torch.ones(1)).sum()

    def configure_optimizers(self):
        self.layer = nn.Linear(1, 1)
        return torch.optim.SGD(self.layer.parameters(), lr=0.1)


class Finds(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.paths = held.generators(trainer).paths


def test_those_of_a_datamodule_are_found_unless_a_loader_has_them():
    finds = Finds()
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu", callbacks=[finds])
    trainer.fit(Trains(), Data())
    assert [path for path in finds.paths if path.startswith("data.")] == ["data.rng"]
