"""Loaders that deal out the same batches on any number of processes."""

from __future__ import annotations

from dataclasses import replace

from cairn.data.divided_position import DividedPosition
from cairn.data.loader import DataLoader


def use_virtual_ranks(loader: DataLoader, is_on: bool = True, in_turn: bool = False) -> None:
    """Deal out the same batches on any number of processes, or no longer; see `Dealing`.

    Args:
        loader: The loader.
        is_on: Whether the batches do not depend on the number of processes.
        in_turn: Whether processes then have them in turn, rather than each of them those that follow each other.
    """
    order = loader._position.order
    if order.dealing is not None:
        order.dealing = replace(order.dealing, has_virtual_ranks=is_on, in_turn=is_on and in_turn)
    if isinstance(loader._position, DividedPosition):
        loader._position.has_virtual_ranks = is_on and not in_turn  # batches of an iterable are the same in any case
