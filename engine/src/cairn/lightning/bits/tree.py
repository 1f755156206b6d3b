"""A sum in one order, whichever process holds the addends.

Addition of floats is not associative: its result depends on the order. Here it is a binary tree over the virtual ranks,
whose shape depends on their number alone. Nodes are pairs (level, place); one without a right child is its left child.

    level 3                  0                    6 virtual ranks on 2 processes, which have 0-2 and 3-5
    level 2         0                 1
    level 1     0       1         2               process 0 adds up (1, 0), and has (0, 2) left
    level 0   0   1   2   3     4   5             process 1 adds up (1, 2), and has (0, 3) left

What is left of a process are its `roots`; all processes together add these up to the rest of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cairn.data.windows import virtual_ranks

Node = tuple[int, int]
"""Level, from the leaves up, and place in it."""
T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """Which virtual ranks each process plays.

    Args:
        num_virtual: Number of virtual ranks, at least that of processes.
        rank: Number of this process.
        world_size: Number of processes.
        in_turn: Whether processes play them in turn, rather than each of them those that follow each other.
    """

    num_virtual: int
    rank: int = 0
    world_size: int = 1
    in_turn: bool = False

    @property
    def per_window(self) -> int:
        """Batches of each process in a global batch; the last one may be a repetition, which does not count."""
        return -(-self.num_virtual // self.world_size)

    @property
    def own(self) -> range:
        """The virtual ranks of this process."""
        return self.of(self.rank)

    def of(self, rank: int) -> range:
        """Return the virtual ranks of a process."""
        return virtual_ranks(self.num_virtual, rank, self.world_size, self.in_turn)

    def roots(self, rank: int) -> list[Node]:
        """Return the nodes that remain when a process has added up what it has, in the order of their places."""
        return list(reduced({(0, one): None for one in self.of(rank)}, self.num_virtual, lambda left, right: None))


def reduced(values: Mapping[Node, T], num_leaves: int, add: Callable[[T, T], T]) -> dict[Node, T]:
    """Return the nodes of a tree that remain when all that can be added up is.

    Args:
        values: Values of nodes, none of which lies above another.
        num_leaves: Number of leaves of the tree.
        add: Adds the value of a right child to that of the left one.
    """
    found, level = dict(values), 0
    while num_leaves > 1 << level:
        for place in sorted(place for height, place in found if height == level):
            if (level, place) not in found or place % 2:
                continue
            if (level, place + 1) in found:
                left, right = found.pop((level, place)), found.pop((level, place + 1))
                found[level + 1, place // 2] = add(left, right)
            elif (place + 1) << level >= num_leaves:
                found[level + 1, place // 2] = found.pop((level, place))
        level += 1
    return dict(sorted(found.items(), key=lambda item: item[0][1] << item[0][0]))


def total(leaves: Sequence[T], add: Callable[[T, T], T]) -> T:
    """Return the sum of all leaves in the order of the tree."""
    (found,) = reduced({(0, place): leaf for place, leaf in enumerate(leaves)}, len(leaves), add).values()
    return found


class Counter(Generic[T]):
    """Adds up leaves as they come, and keeps one sum for each level at most: a binary counter.

    Args:
        num_leaves: Number of leaves of the tree.
        add: Adds the value of a right child to that of the left one.
    """

    def __init__(self, num_leaves: int, add: Callable[[T, T], T]) -> None:
        self._num_leaves, self._add = num_leaves, add
        self.nodes: dict[Node, T] = {}

    def push(self, place: int, leaf: T) -> None:
        """Add a leaf."""
        self.nodes = reduced({**self.nodes, (0, place): leaf}, self._num_leaves, self._add)

    def take(self) -> dict[Node, T]:
        """Return the roots, and begin again without any."""
        found, self.nodes = self.nodes, {}
        return found
