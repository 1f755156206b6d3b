"""Names of the jobs of a sweep: the directory of a job and the overrides that distinguish it from the others.

A repeated sweep finds its jobs by these directories.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from cairn.jobs.run_name import run_name

_LONGEST = 240
"""Maximum length of a directory's name in bytes; file systems allow 255."""
_LONG = 36
"""Maximum length of each override in a shortened name, in bytes."""
_PAUSE = "pause_at"


def job_dir(overrides: str) -> str:
    """Return the name of a job's directory: a valid file name of limited length.

    Args:
        overrides: The overrides as Hydra joins them, such as `checkpoint.save_interval=50,seed=1`.

    Returns:
        The overrides themselves if they are a valid name; otherwise a shortened form with a digest.
    """
    name = overrides.replace("/", "_")
    if len(name.encode()) > _LONGEST:
        parts = re.split(r",(?=[+~]*[\w.@]+=)", name)  # a comma inside a value does not separate overrides
        name = ",".join(_cut(part, _LONG) for part in parts)
    if name == overrides and name not in ("", ".", ".."):
        # Many short overrides: the digest alone distinguishes what is cut off, so that it is longer here.
        return name if len(name.encode()) <= _LONGEST else f"{_cut(name, _LONGEST - 17)}-{_digest(overrides, 16)}"
    return f"{_cut(name, _LONGEST - 9)}-{_digest(overrides)}" if name else "defaults"


def special(overrides: Sequence[str], of_sweep: Sequence[str]) -> list[str]:
    """Return the overrides that distinguish a job from the other jobs of its sweep.

    Args:
        overrides: Overrides of the job.
        of_sweep: Overrides of the command line that started the sweep, without those of `hydra.sweeper.params`.

    Returns:
        The overrides that the sweep varies; all of them if it varies none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow: it imports ANTLR

    parse = OverridesParser.create().parse_override
    is_varied = {item.get_key_element(): item.is_sweep_override() for item in map(parse, of_sweep)}
    own = {parse(item).get_key_element(): item for item in overrides}  # the last override of a key wins
    own = {key: item for key, item in own.items() if key.lstrip("+") != _PAUSE}  # when it goes on, it keeps its name
    return [item for key, item in own.items() if is_varied.get(key, True)] or list(own.values())


def varied_in_vain(config: DictConfig) -> str:
    """Return the override that a sweep varies although the names of its jobs do not contain it; empty: there is none.

    Such jobs would share a directory, and the second would go on with the run of the first.

    Args:
        config: Configuration of the sweep.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow: it imports ANTLR

    names = config.hydra.job.config.override_dirname
    raw: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    if "override_dirname" not in str(raw.get("subdir")):
        return ""
    params = config.hydra.sweeper.get("params") or {}
    with suppress(HydraException):  # Hydra reports it
        typed = [*config.hydra.overrides.task, *(f"{key}={value}" for key, value in params.items())]
        for item in OverridesParser.create().parse_overrides(typed):
            if item.is_sweep_override() and item.key_or_group in names.exclude_keys:
                return str(item.input_line)
    return ""


def _cut(text: str, length: int) -> str:
    """Shorten a text to this many bytes."""
    data = text.encode()
    return text if len(data) <= length else data[: length - 1].decode(errors="ignore") + "~"


def _digest(text: str, length: int = 8) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def register() -> None:
    """Make `${job_dir:...}` and `${run_name:}` available in configurations."""
    OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True, use_cache=True)
