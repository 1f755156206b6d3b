"""Generators that an object owns: where they are found, and that seeding them makes their draws repeatable."""

import functools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from cairn.data.generators import Generators, drawing

MODULE_RNG = np.random.default_rng(3)


class Plain:
    """Has what it is given."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("rng",)

    def __init__(self, rng):
        self.rng = rng


class OfTheClass:
    rng = random.Random(1)


class NamesAGlobal:
    def __call__(self):
        return MODULE_RNG.random()


class Numbers(Dataset):
    def __init__(self, rng):
        self.rng = rng

    def __len__(self):
        return 4


def _closure(rng):
    return lambda: rng.random()


MAKERS = {
    "torch": lambda: torch.Generator(),
    "numpy": lambda: np.random.default_rng(0),
    "numpy, another algorithm": lambda: np.random.Generator(np.random.MT19937(0)),
    "numpy, legacy": lambda: np.random.RandomState(0),
    "Python": lambda: random.Random(0),
}
PLACES = {
    "attribute": lambda rng: Plain(rng=rng),
    "nested": lambda rng: Plain(transform=Plain(steps=[Plain(), {"a": (Slotted(rng),)}])),
    "subset and concatenation": lambda rng: ConcatDataset([Subset(Numbers(rng), [0, 1])]),
    "partial": lambda rng: Plain(transform=functools.partial(max, key=rng)),
    "closure": lambda rng: Plain(transform=_closure(rng)),
    "bound method": lambda rng: Plain(draw=rng.random),
}


def _draw(rng):
    if isinstance(rng, torch.Generator):
        return torch.rand((), generator=rng).item()
    return float(rng.random() if hasattr(rng, "random") else rng.rand())


@pytest.mark.parametrize("kind", MAKERS)
def test_a_seeded_generator_draws_the_same_again_and_other_numbers_with_another_seed(kind):
    rng = MAKERS[kind]()
    generators = Generators(dataset=Plain(rng=rng))
    drawn = []
    for seed in (1 << 63, 5, 1 << 63):
        generators.seed(seed)
        drawn.append(_draw(rng))
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize("place", [name for name in PLACES if name != "bound method"])
def test_a_generator_is_found_wherever_it_is(place):
    assert len(Generators(dataset=PLACES[place](random.Random(0)))) == 1


def test_a_generator_is_found_in_a_class_and_in_a_module():
    assert Generators(dataset=OfTheClass()).paths == ["dataset.<OfTheClass>.rng"]
    assert Generators(transform=NamesAGlobal()).paths == ["transform.<NamesAGlobal>.__call__.<global MODULE_RNG>"]


def test_two_generators_draw_different_numbers():
    one, other = random.Random(), random.Random()
    Generators(dataset=Plain(a=one, b=other)).seed(1)
    assert one.random() != other.random()


def test_an_attribute_that_appears_later_does_not_change_the_draws_of_others():
    rng = random.Random()
    Generators(dataset=Plain(b=rng)).seed(1)
    before = rng.random()
    Generators(dataset=Plain(a=random.Random(), b=rng)).seed(1)
    assert rng.random() == before


def test_the_global_generators_and_those_without_a_state_are_left_out():
    mine = Plain(a=torch.default_generator, b=np.random.mtrand._rand, c=random._inst, d=random.SystemRandom())
    assert not Generators(dataset=mine)


def test_a_generator_of_the_training_is_left_out():
    from lightning.pytorch import LightningModule

    module = LightningModule()
    module.rng = random.Random()
    assert not Generators(dataset=Plain(module=module))


def test_a_circle_and_a_large_dataset_end_the_search():
    item = Plain(many=[Plain() for _ in range(100_000)], table=np.zeros((1000, 10)))
    item.itself = item
    assert not Generators(dataset=item)


def _noisy(item):
    return item + np.random.randn()


def _still(item):
    return np.abs(item)


class Transforms:
    def __init__(self, *functions):
        self.functions = functions

    def __getitem__(self, index):
        return index


def test_a_function_that_draws_is_found_by_the_names_that_it_uses():
    assert drawing(dataset=Transforms(_still, _noisy)) == "dataset.functions[1]"
    assert drawing(dataset=Transforms(_still), collate_fn=torch.stack) == ""
