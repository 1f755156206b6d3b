"""Object stores: checkpoints that leave the machine, and runs that continue from an empty disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.remote.mirror import Mirror

__all__ = ["Mirror"]


def __getattr__(name: str) -> Any:
    # On demand: most of what imports this room only reads.
    if name == "Mirror":
        from cairn.remote.mirror import Mirror

        return Mirror
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
