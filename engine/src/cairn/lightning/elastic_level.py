"""How equal a run is on another number of processes, which it keeps for life."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from cairn.errors import ConfigError, ResumeError
from cairn.lightning.bits.virtual_ranks import VirtualRanks
from cairn.types import ElasticLevel


def check_level(level: Any) -> None:
    """Check the argument `elastic` of a `Checkpointer`.

    Raises:
        ConfigError: It is something else.
    """
    if level not in get_args(ElasticLevel):
        raise ConfigError(
            f"elastic={level!r} must be samples (the same samples on any number of processes) or bits (the same bits,"
            f" too).",
            parameter="elastic",
        )


def settings(ranks: VirtualRanks | None) -> dict[str, Any]:
    """Return what a checkpoint says: nothing for `samples`, as older ones."""
    return {} if ranks is None else {"elastic": ranks.kept.state()}


def load(ranks: VirtualRanks | None, ours: Mapping[str, Any], goes_on: bool) -> None:
    """Take what a checkpoint says, and check that the run keeps it.

    Args:
        ranks: Virtual ranks of this fit; None: it has none.
        ours: Value of the key `cairn` in the checkpoint.
        goes_on: Whether the run is the same.

    Raises:
        ResumeError: It does not.
    """
    saved = ours.get("elastic", {"level": "samples"})
    before, now = saved["level"], "samples" if ranks is None else "bits"
    if before != now and goes_on:
        raise ResumeError(
            f"The run has elastic={before!r}, and now elastic={now!r}: a resumed run keeps it. Set it back, or start a"
            f" new run from the checkpoint, with ckpt_path.",
            parameter="elastic",
        )
    if before != now and ours["place"] == "batch":
        raise ResumeError(
            f"The checkpoint was saved with elastic={before!r} inside an epoch, so a run with elastic={now!r} cannot"
            f" begin with it: use a checkpoint from the end of an epoch, or elastic={before!r}.",
            parameter="elastic",
        )
    if ranks is not None and before == now and (goes_on or ours["place"] == "batch"):
        ranks.kept.load(saved)
