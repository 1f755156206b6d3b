"""From a command line to a run: `main` decorates the function in train.py, which trains with a `Run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from cairn.hydra import installed

if TYPE_CHECKING:
    from cairn.hydra.entry import main
    from cairn.hydra.run.session import Run

__all__ = ["Run", "main"]


def __getattr__(name: str) -> Any:
    # On demand: `main` imports Hydra, and `Run` imports torch.
    if name == "main":
        if problem := installed.problem():
            # A script that is run gets the sentence, without a traceback; a program that imports this may handle it.
            is_script = sys._getframe(1).f_globals.get("__name__") == "__main__"
            raise SystemExit(problem) if is_script else ModuleNotFoundError(problem)
        from cairn.hydra.entry import main

        return main
    if name == "Run":
        from cairn.hydra.run.session import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
