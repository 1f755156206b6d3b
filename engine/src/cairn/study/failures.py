"""When a training fails: models of the time between two failures. Standard library only.

Each model yields the *uptimes* of consecutive attempts: the seconds from the start of an attempt to the failure that
ends it. `simulate.py` turns them into time lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

SECONDS_PER_DAY = 86400.0


class Failures(Protocol):
    """A model of failures."""

    @property
    def mtbf_s(self) -> float:
        """Mean time between failures, in seconds; infinite if there are none."""

    def uptimes_s(self, random: Random) -> Iterator[float]:
        """Yield uptimes without end, in seconds.

        Args:
            random: Source of the random numbers.
        """


@dataclass(frozen=True)
class Exponential:
    """Failures that come independently of each other and of the age of an attempt: a Poisson process.

    It is the usual model of a large job: the failures of many parts, each with its own distribution, add up to nearly a
    Poisson process.

    Args:
        mtbf_s: Mean time between failures, in seconds; `math.inf`: there are none.

    Raises:
        ValueError: It is not positive.
    """

    mtbf_s: float

    def __post_init__(self) -> None:
        _check_positive("mtbf_s", self.mtbf_s)

    def uptimes_s(self, random: Random) -> Iterator[float]:
        while True:
            yield -self.mtbf_s * math.log(1.0 - random.random())


@dataclass(frozen=True)
class Weibull:
    """Failures that are more frequent soon after a start (`shape` < 1) or later (`shape` > 1); 1 is `Exponential`.

    B. Schroeder and G. A. Gibson (2006), "A large-scale study of failures in high-performance computing systems", DSN,
    fitted shapes of 0.7 to 0.8 to the failures of 22 systems.

    Args:
        mtbf_s: Mean time between failures, in seconds.
        shape: Shape of the distribution.

    Raises:
        ValueError: One of them is not positive.
    """

    mtbf_s: float
    shape: float

    def __post_init__(self) -> None:
        _check_positive("mtbf_s", self.mtbf_s)
        _check_positive("shape", self.shape)

    def uptimes_s(self, random: Random) -> Iterator[float]:
        scale_s = self.mtbf_s / math.gamma(1.0 + 1.0 / self.shape)
        while True:
            yield scale_s * (-math.log(1.0 - random.random())) ** (1.0 / self.shape)


@dataclass(frozen=True)
class Trace:
    """Failures as they were recorded: uptimes are drawn from a list, each with the same probability.

    To replay a record in its own order, give the list itself to `simulate.simulate`.

    Args:
        recorded_s: Uptimes of attempts that failed, in seconds.

    Raises:
        ValueError: The list is empty, or one of the uptimes is not positive.
    """

    recorded_s: Sequence[float]

    def __post_init__(self) -> None:
        if not self.recorded_s:
            raise ValueError("recorded_s is empty: a trace needs at least one uptime.")
        for uptime_s in self.recorded_s:
            _check_positive("recorded_s", uptime_s)

    @property
    def mtbf_s(self) -> float:
        return math.fsum(self.recorded_s) / len(self.recorded_s)

    def uptimes_s(self, random: Random) -> Iterator[float]:
        while True:
            yield random.choice(self.recorded_s)


def mtbf_of_nodes_s(failures_per_1000_node_days: float, num_nodes: int) -> float:
    """Return the mean time between failures of a job that fails when one of its nodes does, in seconds.

    Args:
        failures_per_1000_node_days: Failure rate of a node.
        num_nodes: Nodes of the job.
    """
    return 1000.0 * SECONDS_PER_DAY / (failures_per_1000_node_days * num_nodes)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}={value!r} must be positive.")
