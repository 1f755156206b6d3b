"""Packages that only some checks of the template need: their tests are skipped without them, or fail."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def require(reason: str | None) -> None:
    """Skip a test that cannot run for this reason; fail it if CAIRN_CHECK_KIT=required."""
    if reason is not None:
        if os.environ.get("CAIRN_CHECK_KIT") == "required":
            pytest.fail(f"{reason}, and CAIRN_CHECK_KIT=required")
        pytest.skip(reason)


def require_packages(*names: str) -> None:
    """Skip or fail a test without these modules."""
    missing = [name for name in names if find_spec(name) is None]
    require(f"{', '.join(missing)} not found (make docs installs them)" if missing else None)
