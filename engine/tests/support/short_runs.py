"""Short runs of all projects with faults, for processes that the tests share: importing torch takes seconds."""

from __future__ import annotations

import functools
from typing import Any

from tests.support import exact_projects, faults

from cairn.testing import record
from cairn.testing.proof_run import ProofRun


def load() -> None:
    """Do nothing: everything is imported."""


def run(loaded: None, given: ProofRun, name: str, seed: int, cured: bool | None = None) -> None:
    """Train a project of `exact_projects`, or one of `faults` if it is known whether it is cured.

    Args:
        loaded: What `load` has returned.
        given: The run that this process becomes.
        name: Name of the project.
        seed: Seed of the process; a resumed run has another one.
        cured: Whether to follow the cure.
    """
    make: Any = getattr(exact_projects, name) if cured is None else functools.partial(faults.make, name, cured)
    record.run(make, seed, given)
