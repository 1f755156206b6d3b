"""A permutation computed where it is read: a bijection, as if drawn at random, and the same on each platform."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.data import permutation
from cairn.data.permutation import LARGEST_TABLE, Permutation
from cairn.data.seeding import mix_seed

KEYS = st.integers(min_value=0, max_value=2**64 - 1)
NUM_KEYS = 400
"""Permutations per uniformity test. With fixed keys its result is fixed, too."""


def whole(num, key):
    return Permutation(num, key).at(np.arange(num))


def mixed(z):
    """SplitMix64's mixing step in Python's own integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def in_python(num, key, position):
    """The network and its cycle walking in Python's own integers, which do not wrap around."""
    num_bits = max(2, (num - 1).bit_length())
    of_left = num_bits // 2
    of_right = num_bits - of_left
    while True:
        left, right = divmod(position, 2**of_right)
        for number in range(0, 8, 2):
            left ^= mixed((right + mix_seed(key, number)) % 2**64) % 2**of_left
            right ^= mixed((left + mix_seed(key, number + 1)) % 2**64) % 2**of_right
        position = left * 2**of_right + right
        if position < num:
            return position


SMALL = range(1, 201)


def test_a_small_permutation_has_each_number_once():
    assert [num for num in SMALL if sorted(whole(num, num).tolist()) != list(range(num))] == []


def test_the_network_has_each_number_once(monkeypatch):
    monkeypatch.setattr(permutation, "LARGEST_TABLE", 0)
    assert [num for num in SMALL if sorted(whole(num, num).tolist()) != list(range(num))] == []


@settings(max_examples=15, derandomize=True)
@given(st.integers(min_value=LARGEST_TABLE - 2, max_value=20_000), KEYS)
def test_a_large_permutation_has_each_number_once(num, key):
    found = whole(num, key)
    assert (found.min(), found.max()) == (0, num - 1)
    assert np.bincount(found, minlength=num).max() == 1


@settings(max_examples=60, derandomize=True)
@given(st.integers(min_value=LARGEST_TABLE + 1, max_value=2**62), KEYS, st.data())
def test_numpy_computes_what_python_does(num, key, data):
    position = data.draw(st.integers(min_value=0, max_value=num - 1))
    assert Permutation(num, key).at(np.array([position])).tolist() == [in_python(num, key, position)]


@pytest.mark.parametrize("num", [10, LARGEST_TABLE, LARGEST_TABLE + 1, 10_000])
def test_a_position_does_not_depend_on_what_is_read_with_it(num):
    full, places = whole(num, 3), np.array([num - 1, 0, num // 2, 0])
    assert Permutation(num, 3).at(places).tolist() == full[places].tolist()


@pytest.mark.parametrize(
    ("num", "expected"),
    [
        (10, [1, 2, 9, 5, 8]),
        (4096, [1080, 3923, 3421, 1129, 3691]),
        (4097, [1577, 3162, 3221, 254, 2833]),
        (10**6, [164415, 436186, 518330, 363445, 372530]),
        (10**9, [908974989, 594451497, 964856493, 384994349, 915210637]),
        (2**40, [8120623923, 988632891554, 560633343180, 285537051427, 923376915893]),
        (
            2**62,
            [1938410024340883343, 3539926662285651777, 1757128152036509007, 4024363349443380496, 958567342510719345],
        ),
    ],
)
def test_the_order_of_existing_runs_stays(num, expected):
    assert Permutation(num, 2026).at(np.array([0, 1, 2, num // 2, num - 1])).tolist() == expected


def assert_as_expected(counts, expected):
    """Chi-square: the mean is the number of degrees of freedom, the variance twice that."""
    freedom = counts.size - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom), f"{chi_square:.0f} with {freedom} degrees"


@pytest.mark.parametrize("num", [2, 3, 7, 16])
def test_each_number_is_equally_likely_at_each_position(num):
    counts = np.zeros((num, num))
    for key in range(10 * NUM_KEYS):
        counts[np.arange(num), whole(num, key)] += 1
    for row in counts:
        assert_as_expected(row, 10 * NUM_KEYS / num)


def test_each_permutation_of_four_is_equally_likely():
    weights = 4 ** np.arange(4)
    found = np.bincount([int(whole(4, key) @ weights) for key in range(10 * NUM_KEYS)])
    assert_as_expected(found[found > 0], 10 * NUM_KEYS / 24)
    assert np.count_nonzero(found) == 24


@pytest.mark.parametrize("num", [4097, 6000, 8192])
def test_a_large_permutation_has_no_structure(num):
    num_bits = (num - 1).bit_length()
    bins, half = 16, 1 << (num_bits - num_bits // 2)
    places = np.arange(num) * bins // num
    joint = {step: np.zeros(bins * bins) for step in (0, 1, half)}
    fixed, descents = [], []
    for key in range(NUM_KEYS):
        found = whole(num, mix_seed(key, num))
        values = found * bins // num
        joint[0] += np.bincount(places * bins + values, minlength=bins**2)
        for step in (1, half):  # numbers next to each other, and those with the same right half
            joint[step] += np.bincount(values[:-step] * bins + values[step:], minlength=bins**2)
        fixed.append(np.count_nonzero(found == np.arange(num)))
        descents.append(np.count_nonzero(np.diff(found) < 0))
    sizes = np.bincount(places)
    for step, counts in joint.items():
        assert_as_expected(counts, np.outer(sizes, sizes).ravel() / num**2 * (num - step) * NUM_KEYS)
    # One fixed point on average, and (n - 1) / 2 descents, with variances 1 and (n + 1) / 12.
    assert abs(np.mean(fixed) - 1) < 4 / math.sqrt(NUM_KEYS)
    assert abs(np.mean(descents) - (num - 1) / 2) < 4 * math.sqrt((num + 1) / 12 / NUM_KEYS)


@pytest.mark.parametrize("num", [1000, 5000, 8192])
def test_two_keys_have_nothing_in_common(num):
    equal = [np.count_nonzero(whole(num, key) == whole(num, key + 1)) for key in range(100)]
    assert abs(np.mean(equal) - 1) < 0.4
