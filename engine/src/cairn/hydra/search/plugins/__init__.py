"""Makes the sweepers known to Hydra. Apart from the launchers, which need packages that a search does not need."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

FOLDER = str(Path(__file__).resolve().parent)
SWEEPERS = "hydra_plugins.cairn_search"


def register() -> None:
    """Make `hydra/sweeper=halving` and `hydra/sweeper=optuna` mean the sweepers of this library."""
    if FOLDER not in sys.path:
        sys.path.insert(0, FOLDER)
    # A job imports all plugins by their names when it is unpickled.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if FOLDER not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *filter(None, paths)])
    from hydra.core.plugins import Plugins

    plugins = Plugins.instance()
    import_module(SWEEPERS).register(plugins)
