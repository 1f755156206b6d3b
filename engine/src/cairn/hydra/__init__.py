"""From a command line to a run: `main` decorates the function in train.py, which trains with a `Run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.hydra.entry import main
    from cairn.hydra.run.session import Run

__all__ = ["Run", "main"]


def __getattr__(name: str) -> Any:
    # On demand: `main` imports Hydra, and `Run` imports torch.
    if name == "main":
        from cairn.hydra.entry import main

        return main
    if name == "Run":
        from cairn.hydra.run.session import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
