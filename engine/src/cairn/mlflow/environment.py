"""Settings of MLflow's client, which it reads from the environment when it is imported."""

from __future__ import annotations

import os

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the address may hold a password
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # The thread that calls the client tries again by itself, and the end of a run waits for it.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def prepare() -> None:
    """Use the network for the tracking server only, and give up soon. Variables that the user has set win."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
