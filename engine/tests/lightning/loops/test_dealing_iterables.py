"""Global batches of an iterable, whose number is not known, in Lightning's loops."""

import math
from types import SimpleNamespace

import pytest
from torch.utils.data import IterableDataset

from cairn.data.loader import DataLoader
from cairn.errors import ConfigError
from cairn.lightning.loops import dealing


class Stream(IterableDataset):
    shard = state_dict = load_state_dict = __iter__ = lambda self, *_: self


def loader(size=12):
    return DataLoader(Stream(), 3, global_batch_size=size)


@pytest.mark.parametrize(("limit", "found", "expected"), [(1.0, math.inf, math.inf), (2, 2, 8), (0, 0, 0)])
def test_limits_are_numbers_of_global_batches(limit, found, expected):
    assert dealing.limits([loader()], limit, [found]) == [expected]


def test_a_validation_takes_its_batches_as_they_are():
    assert dealing.counted([loader()]) == [None]
    assert dealing.limits([None], 2, [2]) == [2]


@pytest.mark.parametrize(("every", "expected"), [(1.0, math.inf), (3, 12)])
def test_a_validation_is_due_after_global_batches(every, expected):
    facts = {"val_check_batch": math.inf, "check_val_every_n_epoch": 1, "limit_val_batches": 1.0}
    trainer = SimpleNamespace(val_check_interval=every, **facts)
    assert dealing.val_check_batch(trainer, dealing.dealt([loader()]), math.inf) == expected


def test_each_global_batch_is_complete():
    dealt = dealing.dealt([loader()])
    assert [dealt.num_samples(batches) for batches in (3, 4, 400)] == [0, 12, 12]
    assert dealt.weight(5) == 1


def test_several_loaders_divide_alike():
    with pytest.raises(ConfigError, match="12 samples: 4 batches of 3; 6 samples: 2 batches of 3"):
        dealing.dealt([loader(), loader(6)])
