"""Runs the scenarios of a module two at a time, while each of them is still a test of its own."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.support.slurm import Slurm

Scenario = Callable[[Slurm, Path], None]
PATIENT_S = 1800
NUM_LANES = 2
"""With more lanes, too many jobs would import torch at once for one with a short time limit to get beyond that."""


class Scenarios:
    """A context in which scenarios run, each once; a test waits for the result of its own.

    A scenario mostly waits: for a time limit, a requeue, or jobs that import torch. So lanes, which are threads with a
    cluster each, take one scenario after the other. Workers of pytest-xdist share the work: a file claims a scenario,
    and another one holds its result.

    Args:
        functions: The scenarios by name, in the order in which they begin.
        folder: A directory that all workers share.
    """

    def __init__(self, functions: Mapping[str, Scenario], folder: Path) -> None:
        self.functions, self.folder = functions, folder
        self._lanes = [threading.Thread(target=self._work, daemon=True) for _ in range(NUM_LANES)]

    def __enter__(self) -> Scenarios:
        self.folder.mkdir(parents=True, exist_ok=True)
        for lane in self._lanes:
            lane.start()
        return self

    def __exit__(self, *error: object) -> None:
        for lane in self._lanes:
            lane.join()

    def check(self, name: str) -> None:
        """Wait for the end of a scenario, here or in another worker, and fail if it has failed."""
        result, limit = self._result(name), time.monotonic() + PATIENT_S
        while not result.exists():
            assert time.monotonic() < limit, f"waited too long for {name}"
            time.sleep(0.05)
        if error := result.read_text():
            pytest.fail(error, pytrace=False)

    def _work(self) -> None:
        try:
            with Slurm(num_cpus=8) as cluster:
                for name, function in self.functions.items():
                    if self._claim(name):
                        self._end(name, _error_of(function, cluster, self.folder / name))
                        cluster.reset()
        except BaseException:
            for name in self.functions:  # without a cluster none of them can run
                if self._claim(name):
                    self._end(name, traceback.format_exc())

    def _claim(self, name: str) -> bool:
        try:
            (self.folder / name).mkdir()
        except FileExistsError:
            return False
        return True

    def _end(self, name: str, error: str) -> None:
        beside = self._result(name).with_suffix(".tmp")
        beside.write_text(error)
        beside.rename(self._result(name))

    def _result(self, name: str) -> Path:
        return self.folder / f"{name}.result"


def _error_of(function: Scenario, cluster: Slurm, folder: Path) -> str:
    try:
        function(cluster, folder)
    except BaseException:
        return traceback.format_exc()
    return ""
