"""Makes the launchers for SLURM and local jobs known to Hydra, in this process and in the jobs that it submits.

Hydra accepts launcher classes only from the namespace package `hydra_plugins`, and loads everything in it in every
Hydra application of an environment. So the folder of this name lies here, where no application finds it until
`register` extends the path.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

FOLDER = str(Path(__file__).resolve().parent)
LAUNCHERS = "hydra_plugins.resumable_submitit"
_NEEDED = "hydra_plugins.hydra_submitit_launcher"


def is_installed() -> bool:
    """Whether hydra-submitit-launcher, which the launchers build on, is installed."""
    try:
        return find_spec(_NEEDED) is not None
    except ModuleNotFoundError:  # no plugin of Hydra is installed
        return False


def register() -> None:
    """Make `hydra/launcher=slurm`, `submitit_slurm` and `submitit_local` mean our launchers, if they can work."""
    if not is_installed():
        return
    if FOLDER not in sys.path:
        sys.path.insert(0, FOLDER)  # first, like this clone's other packages
    # A job imports the launcher by its name when it is unpickled.
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if FOLDER not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *filter(None, paths)])
    from hydra.core.plugins import Plugins

    # Hydra's scan executes each module of the namespace again, even an imported one: it has to come first.
    plugins = Plugins.instance()
    import_module(LAUNCHERS).register(plugins)
