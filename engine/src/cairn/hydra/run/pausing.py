"""`pause_at`: where a start of a run pauses. It belongs to the command and never to the run, which it must not change.

It is not recorded: neither `config.yaml` nor `run.json` nor a checkpoint holds it, so that a command without it, or
`resume=RUN`, goes on to the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from cairn.errors import ConfigError
from cairn.hydra.command import overrides
from cairn.hydra.parse.settings import Settings
from cairn.policy import pause
from cairn.testing import proof_run

KEY = "pause_at"


def requested(cfg: DictConfig, settings: Settings) -> str | None:
    """Return where this start pauses, as text; None: it does not.

    Args:
        cfg: The configuration that Hydra has composed.
        settings: Settings of the run.

    Raises:
        ConfigError: It is not a point of a run, or nothing is saved there.
    """
    value = cfg.get(KEY)
    if value is None or not settings.train or proof_run.current() is not None:
        return None
    point = pause.parse(value)
    if not settings.checkpoint.triggers:
        raise ConfigError(
            f"{KEY}={point} needs checkpoints, and checkpoint=none saves nothing that could be resumed: choose another "
            f"preset, such as checkpoint=combined."
        )
    return str(point)


def unrecorded(given: Sequence[str]) -> tuple[str, ...]:
    """Return overrides without those that say where to pause."""
    return tuple(item for item in given if overrides.key(item) != KEY)
