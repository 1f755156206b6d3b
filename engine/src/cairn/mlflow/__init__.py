"""MLflow: metrics and checkpoints of a run, once each. In here, `import mlflow` is MLflow's client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.mlflow.artifacts import Artifacts
    from cairn.mlflow.logger import MLFlowLogger

__all__ = ["Artifacts", "MLFlowLogger"]


def __getattr__(name: str) -> Any:
    # On demand: the logger imports Lightning.
    if name == "Artifacts":
        from cairn.mlflow.artifacts import Artifacts

        return Artifacts
    if name == "MLFlowLogger":
        from cairn.mlflow.logger import MLFlowLogger

        return MLFlowLogger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
