"""Calls to MLflow's client. Each may wait for a server that does not answer, or for the lock of a database."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

RUN = "cairn.run"
"""Tag with the id of a run, by which a resume finds it again."""
_MOST_METRICS, _MOST_PARAMS = 1000, 100
"""Limits of one request."""
_LONGEST_KEY, _LONGEST_PARAM, _LONGEST_TAG = 250, 6000, 5000
"""Limits for the key of a tag, and for values, in characters."""


class Point(NamedTuple):
    """A value of a metric."""

    key: str
    step: int
    timestamp_ms: int
    value: float


def connect(uri: str) -> Any:
    """Return a client. A database of SQLite is created if it is missing."""
    for name in ("mlflow", "alembic"):  # their INFO is about tables of the database
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").addFilter(_is_not_about_a_retry)
    return MlflowClient(uri)


def _is_not_about_a_retry(record: logging.LogRecord) -> bool:
    """Whether a message is none of those about MLflow's server, which would come with each attempt."""
    return not (str(record.msg).startswith("Retrying") and "/mlflow" in record.getMessage())


def experiment(client: Any, name: str, location: str | None) -> str:
    """Return the id of an experiment, which is created if it is missing.

    Args:
        client: The client.
        name: Name of the experiment.
        location: Where a new one keeps its artifacts; None: MLflow decides.

    Raises:
        MlflowException: It was deleted, or MLflow refuses it.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run has just created it
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise MlflowException(f"the experiment {name} was deleted: restore it, or set another one")
    return found.experiment_id


def run(client: Any, experiment_id: str, id: str, name: str | None, tags: Mapping[str, str]) -> Any:
    """Return the run with an id of ours; it is created if it is missing, and is running again if it had ended.

    Args:
        client: The client.
        experiment_id: Its experiment.
        id: The id that the tag `cairn.run` holds.
        name: Name of a new run.
        tags: Further tags.
    """
    found = client.search_runs([experiment_id], f"tags.`{RUN}` = '{id}'", max_results=1)
    if not found:
        return client.create_run(experiment_id, tags={**tags, RUN: id}, run_name=name)
    if found[0].info.status != "RUNNING":
        client.update_run(found[0].info.run_id, status="RUNNING")
    return found[0]


def history(client: Any, run_id: str, key: str) -> list[Point]:
    """Return all values of a metric."""
    found = client.get_metric_history(run_id, key)
    return [Point(key, item.step, item.timestamp, item.value) for item in found]


def log_points(client: Any, run_id: str, points: Sequence[Point]) -> None:
    """Add values of metrics."""
    for begin in range(0, len(points), _MOST_METRICS):
        part = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points[begin : begin + _MOST_METRICS]]
        client.log_batch(run_id, metrics=part, synchronous=True)


def log_params(client: Any, run_id: str, params: Mapping[str, str]) -> None:
    """Add parameters. MLflow never changes one: another value becomes the tag `changed.NAME`."""
    there = client.get_run(run_id).data.params
    params = {key: value[:_LONGEST_PARAM] for key, value in params.items()}
    new = [Param(key, value) for key, value in params.items() if key not in there]
    for begin in range(0, len(new), _MOST_PARAMS):
        client.log_batch(run_id, params=new[begin : begin + _MOST_PARAMS], synchronous=True)
    changed = {key: value for key, value in params.items() if there.get(key, value) != value}
    tags = [RunTag(f"changed.{key}"[:_LONGEST_KEY], value[:_LONGEST_TAG]) for key, value in changed.items()]
    for begin in range(0, len(tags), _MOST_PARAMS):
        client.log_batch(run_id, tags=tags[begin : begin + _MOST_PARAMS], synchronous=True)


def delete_artifacts(uri: str, path: str) -> None:
    """Delete a folder of artifacts.

    Args:
        uri: Where the artifacts of a run are.
        path: The folder in it.
    """
    get_artifact_repository(uri).delete_artifacts(path)
