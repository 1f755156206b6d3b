"""Checks of the arguments of a `Checkpointer` that would otherwise fail later, in the middle of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from cairn.errors import ConfigError
from cairn.lightning import versions
from cairn.policy.given import accepts
from cairn.writing.options import Writing


def check(directory: Any, monitor: Any, writing: Any, stop: Any, listeners: Any, metadata: Any) -> None:
    """Check the types; see `Checkpointer` for what each argument is.

    Raises:
        ConfigError: An argument is something else.
    """
    if not isinstance(directory, str | PathLike) or not str(directory):
        _refuse("directory", directory, "must name the directory of the checkpoints")
    if "://" in str(directory):
        _refuse("directory", str(directory), "is not a directory of this machine: checkpoints are written to disk only")
    if "\0" in str(directory):
        _refuse("directory", str(directory), "contains a null character")
    if monitor is not None and (not isinstance(monitor, str) or not monitor):
        _refuse("monitor", monitor, "must be the name of a metric, or None")
    if not isinstance(writing, Writing):
        _refuse("writing", writing, "must be a cairn.Writing, such as cairn.Writing(writer='thread')")
    if stop is not None and not callable(stop):
        _refuse("stop", stop, "must be a function, or None: signals are caught while a fit runs")
    if stop is not None and not accepts(stop, 0.0):
        _refuse("stop", stop, "must take one argument: the seconds until a save would be committed")
    if isinstance(listeners, str) or not isinstance(listeners, Sequence):
        _refuse("listeners", listeners, "must be a list of listeners")
    for number, listener in enumerate(listeners):
        if isinstance(listener, type) or not all(callable(getattr(listener, name, None)) for name in _CALLED):
            _refuse(
                f"listeners[{number}]",
                listener,
                "is not a listener: it needs the methods of cairn.store.listener.Listener",
            )
    _check_metadata({} if metadata is None else metadata)


_CALLED = ("opened", "committed", "deleting", "deleted", "close")


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, Mapping) or not all(isinstance(name, str) for name in metadata):
        _refuse("metadata", metadata, "must be a mapping with strings as keys")
    run, config = metadata.get("run"), metadata.get("config", {})
    if run is not None and (not isinstance(run, str) or not run):
        _refuse("metadata['run']", run, "must be the id of the run, a string")
    if not isinstance(config, Mapping):
        _refuse("metadata['config']", config, "must be a mapping")
    for name, value in metadata.items():
        if name in versions.installed():
            _refuse(f"metadata[{name!r}]", value, "has the name of a version that each manifest holds: choose another")
        try:
            json.dumps(value, allow_nan=name == "config")  # the configuration is not in the manifest
        except (TypeError, ValueError) as error:
            _refuse(f"metadata[{name!r}]", value, f"cannot be saved ({error}): give plain values")


def _refuse(name: str, value: Any, what: str) -> None:
    raise ConfigError(f"{name}={value!r} {what}.", parameter=name.partition("[")[0])
