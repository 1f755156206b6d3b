"""Run a script as it is: `python run_example.py SCRIPT`; with CAIRN_TEST_KILL, each of its Trainers has a `KillAt`."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from tests.support.callbacks import KillAt


def main(script: str) -> None:
    """Run the script."""
    if "CAIRN_TEST_KILL" in os.environ:
        fit = Trainer.fit

        def killed_fit(self: Any, *args: Any, **kwargs: Any) -> None:
            self.callbacks.append(KillAt())
            fit(self, *args, **kwargs)

        Trainer.fit = killed_fit
    sys.argv = [script]
    sys.path.insert(0, str(Path(script).parent))  # as the interpreter does for its script
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])
