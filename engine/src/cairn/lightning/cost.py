"""What saving has cost a run."""

from __future__ import annotations

from dataclasses import dataclass

from cairn.account.telemetry import Telemetry


@dataclass(frozen=True)
class SavingCost:
    """What saving has cost a run, over all its attempts unless said otherwise."""

    num_saves: int
    num_failed: int
    """Failed saves of this process."""
    num_skipped: int
    """Interval saves that were dropped because all buffers were busy."""
    stall_s: float
    """How long training has paused for saves, in seconds."""
    overhead: float
    """Cost of all saves, as a share of the time that the run would have taken without them."""
    at_risk_s: float
    """Work that a failure would have lost, in seconds, on average."""
    training_s: float
    """Training time of the run, in seconds, including what saving has cost."""


def saving_cost(telemetry: Telemetry, num_failed: int) -> SavingCost:
    """Return what saving has cost so far.

    Args:
        telemetry: Account of the run.
        num_failed: Failed saves of this process.
    """
    meter = telemetry.meter
    return SavingCost(
        num_saves=telemetry.num_saves,
        num_failed=num_failed,
        num_skipped=meter.num_skipped,
        stall_s=meter.total_stall_s,
        overhead=telemetry.overhead,
        at_risk_s=telemetry.at_risk_s,
        training_s=telemetry.elapsed_s,
    )
