"""What one job of a sweep is called: its directory by its overrides, so that a repeated sweep finds its jobs, and to
people by those that tell it from the others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from omegaconf import OmegaConf

_LONGEST = 240
"""Bytes: file systems take 255."""
_LONG = 36
"""Bytes of one override that keeps others from being read, where there are too many."""


def job_dir(overrides: str) -> str:
    """A name for one folder: values may hold slashes, and many overrides are longer than a name may be.

    Args:
        overrides: as Hydra joins them, `checkpoint.save_interval=50,seed=1`.
    """
    name = overrides.replace("/", "_")
    if len(name.encode()) > _LONGEST:
        parts = re.split(r",(?=[+~]*[\w.@]+=)", name)  # not at a comma inside of a value
        name = ",".join(_cut(part, _LONG) for part in parts)
    if name == overrides and name not in ("", ".", ".."):
        return name
    return f"{_cut(name, _LONGEST - 9)}-{_digest(overrides)}" if name else "defaults"


def special(overrides: Sequence[str], of_sweep: Sequence[str]) -> list[str]:
    """Those of a job's overrides that its sweep varies; all of them if it varies none.

    Args:
        overrides: of the job.
        of_sweep: of the command line that began the sweep; what its configuration varies is not among them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # with ANTLR, which only a job needs

    parse = OverridesParser.create().parse_override
    is_varied = {item.get_key_element(): item.is_sweep_override() for item in map(parse, of_sweep)}
    own = {parse(item).get_key_element(): item for item in overrides}  # of one that is given twice, the last one counts
    return [item for key, item in own.items() if is_varied.get(key, True)] or list(own.values())


def _cut(text: str, length: int) -> str:
    """No longer than so many bytes."""
    data = text.encode()
    return text if len(data) <= length else data[: length - 1].decode(errors="ignore") + "~"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def register() -> None:
    """Let configs say `${job_dir:...}`."""
    OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)
