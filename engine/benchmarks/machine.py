"""Description of the measured machine: processor, memory, file system, versions. No names, no paths."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "lightning", "numpy", "hydra-core")


def describe(directory: Path, device: str) -> dict[str, Any]:
    """Describe this machine and the file system of `directory`."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(int((_field("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 1e6),
        "virtual": "hypervisor" in (_field("/proc/cpuinfo", "flags") or ""),
        "kernel": platform.release(),
        "file_system": _file_system(directory),
        "python": platform.python_version(),
        "device": _device(device),
        **{package: version(package) for package in _PACKAGES},
    }


def _field(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next(
        (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), None
    )


def _file_system(directory: Path) -> str:
    """Type of the file system: that of the longest mount point above the directory."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    above = [(point, kind) for point, kind in mounts if directory.resolve().is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]), default=("", "unknown"))[1]


def _device(device: str) -> str:
    if device != "cuda":
        return device
    import torch

    return torch.cuda.get_device_name()
