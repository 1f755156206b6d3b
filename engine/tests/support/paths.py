"""Where things are in this repository: the library, the template around it, and how other processes import both."""

from __future__ import annotations

import os
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2]
"""The library."""
ROOT = ENGINE.parent
"""The template."""
PYTHONPATH = os.pathsep.join(map(str, (ENGINE / "src", ROOT / "src", ENGINE)))
TRANSFORMERS = Path.home() / ".cache" / "cairn-transformers-5.24.0"
"""Packages of one example, outside of the virtual environment: see tests/transformers.txt."""
