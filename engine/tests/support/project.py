"""The user's package under src/, whatever its name is; tests of the examples are skipped where these were deleted."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest
from tests.support.paths import ROOT

PACKAGES = sorted(path.parent.name for path in (ROOT / "src").glob("*/__init__.py"))
NAME = PACKAGES[0] if len(PACKAGES) == 1 else ""
"""Name of the package; empty if there is not exactly one."""


def example(name: str) -> ModuleType:
    """Import a module of the examples, such as `models.mlp`; skip the test module if it does not exist."""
    if not (ROOT / "src" / NAME / f"{name.replace('.', '/')}.py").is_file() or not NAME:
        pytest.skip(f"the example {name} is not part of this project", allow_module_level=True)
    return import_module(f"{NAME}.{name}")
