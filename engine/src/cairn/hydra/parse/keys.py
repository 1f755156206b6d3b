"""Translate the parameters of the library into the keys of the configuration, in error messages."""

from __future__ import annotations

from cairn.errors import CairnError, named

_KEYS = {
    "buffers": "checkpoint.buffers",
    "directory": "checkpoint.dirpath",
    "interval": "checkpoint.save_interval",
    "max_epochs": "trainer.max_epochs",
    "max_failed_saves": "checkpoint.max_failed_saves",
    "max_overhead": "checkpoint.max_overhead",
    "max_time": "trainer.max_time",
    "mode": "checkpoint.mode",
    "monitor": "checkpoint.monitor",
    "mtbf": "checkpoint.mtbf",
    "replay": "data.replay",
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
    if not error.parameter:
        return str(error)
    if node:
        key = _NODES.get(node, {}).get(error.parameter, f"{node}.{error.parameter}")
    else:
        key = _KEYS.get(error.parameter, error.parameter)
    return named(error, key)
