"""Trainings with and without a mirror, and with a store that is slow or silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

import cairn
import cairn.remote
from benchmarks.ranks.ways import Due, DueTrigger, Make

WAIT_S = 2.0
"""How long the end of a training waits for a silent store: nothing of that is measured."""


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        label: Name in tables.
        has_mirror: Whether checkpoints are mirrored.
        saves: Whether there are checkpoints.
        fault: Arguments of the proxy's fault, given the slow bandwidth in bytes per second; None: no proxy.
    """

    label: str
    has_mirror: bool = True
    saves: bool = True
    fault: Callable[[float], dict[str, Any]] | None = None


WAYS = {
    "none": Way("no checkpoints", has_mirror=False, saves=False),
    "off": Way("no mirror", has_mirror=False),
    "on": Way("mirror"),
    "slow": Way("mirror, slow store", fault=lambda bytes_per_s: {"bytes_per_s": bytes_per_s}),
    "hanging": Way(
        "mirror, store hangs in the first upload",
        fault=lambda bytes_per_s: {"methods": {"PUT", "POST"}, "path": "/checkpoints/", "black_hole": True},
    ),
}


def make(way: Way, address: str, wait_s: float) -> Make:
    """Return what gives a training its callbacks.

    Args:
        way: How it trains.
        address: Of its mirror.
        wait_s: How long its end waits for uploads, in seconds.
    """

    def callbacks(directory: Path, due: Due) -> Sequence[Callback]:
        if not way.saves:
            return []
        writing = cairn.Writing("process", when_busy="wait")
        listeners = [cairn.remote.Mirror(address, wait_s=wait_s)] if way.has_mirror else []
        return [
            cairn.Checkpointer(
                directory,
                keep_last=1,
                triggers={"due": DueTrigger(due), "end": None},
                writing=writing,
                listeners=listeners,
            )
        ]

    return callbacks
