"""Checks that the packages of a project are installed, before the first of them is imported."""

from __future__ import annotations

import sys
from importlib.util import find_spec

_NEEDED = ("hydra", "omegaconf", "torch", "lightning", "torchmetrics", "numpy", "yaml", "rich", "isal", "dotenv")
_OLDEST = (3, 11)


def problem() -> str:
    """Return what this Python lacks to train, and what to do, as sentences; '' if nothing is missing."""
    if sys.version_info < _OLDEST:
        lacks = "is too old (Python 3.11 or newer is needed)"
    elif missing := [name for name in _NEEDED if find_spec(name) is None]:
        lacks = f"does not have {', '.join(missing)}"
    else:
        return ""
    return (
        f"{sys.executable} {lacks}: activate the environment of the project (. .venv/bin/activate), which "
        f'"make install" creates.'
    )
