"""A pseudorandom permutation of 0, 1, ..., n - 1 that is computed where it is read: no list of n numbers exists.

A Feistel network permutes the numbers of b bits, where 2 ** b is the first power of two that is not less than n:

    left  | right          left and right: b // 2 and b - b // 2 bits
      ^ <---- F1           each round mixes one half into the other, which `^` undoes:
           F2 ---> ^       so the network is a bijection, whatever the functions F are
      ^ <---- F3
          ...

A result that is not less than n is put in again ("cycle walking"), which leads back to a number below n, on average in
less than two passes. J. Black and P. Rogaway (2002), "Ciphers with arbitrary finite domains", CT-RSA.

On a few bits, a Feistel network reaches only some of all permutations. So a small n is shuffled as a whole: its numbers
are sorted by random keys.

Everything is arithmetic on unsigned 64-bit integers, modulo 2 ** 64: the result is the same on each platform and with
each version of numpy. A test pins it, because changing a number in this module changes the order of existing runs.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cairn.data.seeding import mix_seed

Numbers: TypeAlias = npt.NDArray[Any]

LARGEST_TABLE = 1 << 12
"""The largest n that is shuffled as a whole."""
_NUM_ROUNDS = 8
_GAMMA, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
"""Constants of SplitMix64, see `mix_seed`."""


class Permutation:
    """A permutation of range(n) that is a function of n and a key.

    Args:
        num: The number n.
        key: Any integer.
    """

    def __init__(self, num: int, key: int) -> None:
        self._num = num
        self._table = _table(num, key) if num <= LARGEST_TABLE else None
        num_bits = max(2, (num - 1).bit_length())
        self._shift = np.uint64(num_bits - num_bits // 2)
        self._right = np.uint64((1 << int(self._shift)) - 1)
        self._left = np.uint64((1 << num_bits // 2) - 1)
        self._keys = [np.uint64(mix_seed(key, number)) for number in range(_NUM_ROUNDS)]

    def at(self, positions: Numbers) -> Numbers:
        """Return the numbers at these positions.

        Args:
            positions: Integers in [0, n).
        """
        if self._table is not None:
            return self._table[positions]
        found = self._pass(positions.astype(np.uint64))
        outside = np.flatnonzero(found >= self._num)
        while outside.size:
            again = self._pass(found[outside])
            found[outside] = again
            outside = outside[again >= self._num]
        return found.astype(np.int64)

    def _pass(self, numbers: Numbers) -> Numbers:
        """Return what the network makes of numbers of b bits."""
        left, right = numbers >> self._shift, numbers & self._right
        for even, odd in zip(self._keys[::2], self._keys[1::2], strict=True):
            left ^= _mixed(right + even) & self._left
            right ^= _mixed(left + odd) & self._right
        return left << self._shift | right


def _mixed(z: Numbers) -> Numbers:
    """Return the mixing step of SplitMix64, see `mix_seed`; this changes the argument."""
    z ^= z >> np.uint64(30)
    z *= _FIRST
    z ^= z >> np.uint64(27)
    z *= _SECOND
    z ^= z >> np.uint64(31)
    return z


def _table(num: int, key: int) -> Numbers:
    """Return a permutation that was drawn as a whole."""
    counters = np.arange(1, num + 1, dtype=np.uint64)
    # Stable: two equal keys, which are as good as impossible, do not depend on how numpy sorts.
    return np.argsort(_mixed(counters * _GAMMA + np.uint64(mix_seed(key))), kind="stable").astype(np.int64)
