"""A fit that starts where it has to stop trains nothing."""

from __future__ import annotations

import logging

from cairn.lightning.agreement import TIME_LIMIT
from cairn.lightning.engine import Engine
from cairn.lightning.loops.calls import Stopped
from cairn.types import PAUSE

log = logging.getLogger(__name__)


def stop_if_reached(engine: Engine, ends: bool) -> None:
    """Stop a fit whose checkpoint is at its time limit or its pause, or after it. Its state is restored.

    Args:
        engine: Engine of the fit.
        ends: Whether the run ends there. Then it has neither stopped nor paused, and only has to end.

    Raises:
        Stopped: The fit has come that far before; `Trainer.fit` then returns.
    """
    # Ranks measure their own training time, which does not matter here: all have that of the checkpoint.
    moments, elapsed_s = engine.moments, engine.telemetry.clock.before_s
    if ends:
        return
    if moments.is_time_used_up(elapsed_s):
        reason, what = TIME_LIMIT, "time limit"
    elif moments.is_at_pause(moments.previous, elapsed_s):
        reason, what = PAUSE, f"pause at {moments.pause}"
    else:
        return
    if engine.agreement.leads:
        log.info("Nothing is trained: the run has come to its %s before.", what)
    raise Stopped(reason, engine.history.newest, engine.trainer.global_rank)
