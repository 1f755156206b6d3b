"""What the configuration of a start may name."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from cairn.hydra import command_line
from cairn.hydra.compose import outside, trusted
from cairn.hydra.compose.merge import Merged
from cairn.hydra.schema import problems
from cairn.run.directory import RunDirectory, RunRecord
from cairn.testing import proof_run

log = logging.getLogger(__name__)


def check(
    cfg: DictConfig, merged: Merged, old: RunRecord | None, directory: RunDirectory, overrides: Sequence[str]
) -> None:
    """Check what the configuration may name; warn of keys that nothing reads.

    Raises:
        ConfigError: It names something that it may not.
    """
    if old is None:
        trusted.new_run(merged.config)
        for problem in problems.unread(OmegaConf.to_container(cfg)):  # type: ignore[arg-type]
            log.warning("%s", problem.message)
    else:
        trusted.check(merged.config, f"config.yaml in {directory.path}", overrides, command_line.repeated())
        if proof_run.current() is None:  # a proof resumes runs that it has begun itself
            outside.check(merged.config, directory.path, old.id, overrides, command_line.repeated())
