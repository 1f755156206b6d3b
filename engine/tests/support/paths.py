"""Where things are in this repository: the library, the template around it, and how other processes import both."""

from __future__ import annotations

import os
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2]
"""The library."""
ROOT = ENGINE.parent
"""The template."""
PYTHONPATH = os.pathsep.join(map(str, (ENGINE / "src", ROOT / "src", ENGINE)))
