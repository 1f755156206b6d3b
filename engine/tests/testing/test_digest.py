"""Equal values have equal digests, and of what decides the training all is read."""

import numpy as np
import pytest
import torch

from cairn.testing.digest import digest, flat, is_sampled, shown

LARGE = 3_000_001


@pytest.mark.parametrize("at", [1, LARGE - 1])
@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_one_value_of_a_large_tensor_counts(make, at):
    one, other = make(LARGE), make(LARGE)
    other[at] = 1
    assert digest(one) == digest(make(LARGE))
    assert digest(one) != digest(other)
    assert dict(flat({"state": [one]})) != dict(flat({"state": [other]}))


def test_one_item_of_a_long_list_counts():
    one, other = [0] * 20_000, [0] * 20_000
    other[7] = 1
    assert digest(one) != digest(other)


@pytest.mark.parametrize("value", [torch.zeros(LARGE), np.zeros(LARGE), [0] * 20_000, {"a": [torch.zeros(LARGE)]}])
def test_what_is_read_in_samples_is_known(value):
    assert is_sampled(value)
    assert shown(value, whole=False) == shown(value, whole=False)
    assert not is_sampled([1, 2, torch.zeros(3)])
