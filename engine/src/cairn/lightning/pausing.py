"""A fit that starts where it has to pause trains nothing."""

from __future__ import annotations

from cairn.lightning.engine import Engine
from cairn.lightning.loops.calls import Stopped
from cairn.types import PAUSE


def stop_if_reached(engine: Engine) -> None:
    """Stop a fit whose checkpoint is at its pause or after it. The state of the checkpoint is restored.

    Args:
        engine: Engine of the fit.

    Raises:
        Stopped: The fit has come that far before; `Trainer.fit` then returns.
    """
    # Ranks measure their own training time, which does not matter here: all have that of the checkpoint.
    if engine.moments.is_at_pause(engine.moments.previous, engine.telemetry.clock.before_s):
        raise Stopped(PAUSE, engine.history.newest, engine.trainer.global_rank)
