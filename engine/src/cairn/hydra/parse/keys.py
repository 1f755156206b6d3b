"""Translate the parameters of the library into the keys of the configuration, in error messages and warnings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from cairn.errors import CairnError, named, renamed

_KEYS = {
    "audit": "checkpoint.audit",
    "buffers": "checkpoint.buffers",
    "directory": "checkpoint.dirpath",
    "elastic": "trainer.elastic",
    "interval": "checkpoint.save_interval",
    "max_epochs": "trainer.max_epochs",
    "max_failed_saves": "checkpoint.max_failed_saves",
    "max_overhead": "checkpoint.max_overhead",
    "max_time": "trainer.max_time",
    "mirror": "checkpoint.mirror",
    "mode": "checkpoint.mode",
    "monitor": "checkpoint.monitor",
    "mtbf": "checkpoint.mtbf",
    "replay": "data.replay",
    "sharded": "checkpoint.sharded",
    "watchdog": "checkpoint.watchdog",
}
_NODES = {
    "checkpoint.triggers.interval": {
        "interval": "checkpoint.save_interval",
        "max_overhead": "checkpoint.max_overhead",
        "mtbf": "checkpoint.mtbf",
    },
    "checkpoint.triggers.best": {"count": "checkpoint.save_top_k"},
    "checkpoint.keep.best": {"count": "checkpoint.save_top_k"},
    "checkpoint.keep.last": {"count": "checkpoint.keep_last"},
}
"""Nodes of the presets whose arguments come from keys of their own by interpolation."""


def in_config_words(error: CairnError, node: str = "") -> str:
    """Return the message of an error with its parameter named as in the configuration.

    Args:
        error: An error whose message names `error.parameter` as `name=` or `name:`; any other message is unchanged.
        node: Key of the node whose object raised the error, such as `checkpoint.keep.budget`; empty if there is none.

    Returns:
        The message: `directory=/x cannot be written` becomes `checkpoint.dirpath=/x cannot be written`.
    """
    parameter = error.parameter
    key = _NODES.get(node, {}).get(parameter, f"{node}.{parameter}") if node else _KEYS.get(parameter, parameter)
    return named(error, key)


@contextmanager
def logs_in_config_words() -> Iterator[None]:
    """Name parameters as in the configuration, on the terminal and in train.log, in records that have a `parameter`.

    The library logs such a record with `extra={"parameter": "monitor"}` and a message that begins with `monitor=`.
    """
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(_rename)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_rename)


def _rename(record: logging.LogRecord) -> bool:
    if parameter := getattr(record, "parameter", ""):
        record.msg, record.args = renamed(record.getMessage(), parameter, _KEYS.get(parameter, parameter)), ()
        record.parameter = ""  # another handler has the same record
    return True
