"""A growth curve: one cost, measured at three sizes. A module of this folder that has `CURVES` takes part by itself."""

from __future__ import annotations

import importlib
import math
import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmarks.growth

Measure = Callable[[Path, int], float]
"""Prepares a case of this size in an empty folder, and returns by `clock` how long the measured part takes."""

clock = time.process_time
"""Processor time of this process, in seconds. What else runs on the machine changes it least, and shapes of curves are
what matters here; waiting for a disk is not in it."""


@dataclass(frozen=True)
class Curve:
    """One cost that may grow."""

    name: str
    """Short and unique; `--only` selects by it."""
    what: str
    """What is measured."""
    unit: str
    """What the sizes count."""
    sizes: tuple[int, int, int]
    measure: Measure
    goal_s: float | None = None
    """Most that the largest size may take; None: the curve is for comparison only."""


@dataclass(frozen=True)
class Measured:
    """What a curve has shown. Sizes that failed are missing."""

    name: str
    what: str
    unit: str
    goal_s: float | None
    sizes: Sequence[int]
    seconds: Sequence[float]
    """Best of the repetitions at each size: what else runs on the machine only ever adds."""
    peak_bytes: Sequence[int]
    """Peak memory of the process at each size, with the interpreter and what it imports."""
    error: str = ""

    @property
    def per_doubling(self) -> float | None:
        """Factor of the time for twice the size: 1 is constant, 2 linear, 4 quadratic. None with fewer than two sizes.

        It is that of the last two sizes, where constant parts weigh least.
        """
        if len(self.sizes) < 2 or not all(self.seconds[-2:]):
            return None
        doublings = math.log2(self.sizes[-1] / self.sizes[-2])
        return (self.seconds[-1] / self.seconds[-2]) ** (1 / doublings)

    @property
    def verdict(self) -> str:
        """`met` or `missed`; empty without a goal."""
        if self.error:
            return "failed"
        if self.goal_s is None:
            return ""
        return "met" if self.seconds[-1] <= self.goal_s else "missed"


def measured(raw: Mapping[str, Any]) -> Measured:
    """Return what was stored as JSON."""
    return Measured(**raw)


def modules() -> list[str]:
    """Return the names of the modules with curves."""
    found = [item.name for item in pkgutil.iter_modules(benchmarks.growth.__path__, "benchmarks.growth.")]
    return [name for name in found if hasattr(importlib.import_module(name), "CURVES")]


def curves(module: str) -> tuple[Curve, ...]:
    """Return the curves of a module."""
    return importlib.import_module(module).CURVES
