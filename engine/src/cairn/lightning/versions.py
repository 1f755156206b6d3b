"""The versions of Lightning that the loops in this folder are written for."""

from __future__ import annotations

import logging
import os
import sys

import lightning
import torch

import cairn
from cairn.errors import ConfigError

SUPPORTED_LIGHTNING = ("2.6",)
"""Series whose releases are accepted. The dependency in engine/pyproject.toml must agree."""
UNTESTED = "CAIRN_UNTESTED_LIGHTNING"

log = logging.getLogger(__name__)


def installed() -> dict[str, str]:
    """Return the versions that decide how a run is computed, for the manifests of its checkpoints."""
    ours = {"cairn": cairn.__version__, "torch": str(torch.__version__), "lightning": lightning.__version__}
    return {"python": sys.version.split()[0], **ours}


def check(version: str) -> None:
    """Refuse a version of Lightning that exact resume is not tested with.

    The loops replace private parts of Lightning. With other versions a resumed run may repeat or skip batches
    without any error.

    Args:
        version: The installed version, `lightning.__version__`.

    Raises:
        ConfigError: The version is not supported and CAIRN_UNTESTED_LIGHTNING is not "1".
    """
    if ".".join(version.split(".")[:2]) in SUPPORTED_LIGHTNING:
        return
    supported = " or ".join(f"{series}.x" for series in SUPPORTED_LIGHTNING)
    if os.environ.get(UNTESTED) == "1":
        log.warning("Lightning %s is untested (supported: %s): a resumed run may not be exact.", version, supported)
        return
    raise ConfigError(
        f"Lightning {version} is not supported: exact resume is tested with {supported}. "
        f'Run pip install "lightning=={SUPPORTED_LIGHTNING[-1]}.*", or set {UNTESTED}=1 to try this version.'
    )
