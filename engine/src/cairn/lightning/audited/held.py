"""Whether the user saves an attribute in a checkpoint: by hooks, or by the state of its owner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer

from cairn.lightning.reading import attributes

_OF_LIGHTNING = {
    *("state_dict", "epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks", "optimizer_states"),
    *("lr_schedulers", "hparams_name", "hyper_parameters", "datamodule_hyper_parameters", "datamodule_hparams_name"),
    *("MixedPrecision", "cairn"),
}
"""Keys of a checkpoint that Lightning writes; others come from hooks of the user."""
_OF_USER = ("sampler", "sampler_now", "dataset")
"""Keys in the state of a `cairn.DataLoader` that the user's objects fill; others are counters."""


def holds(contents: Mapping[str, Any], attribute: tuple[Any, str], value: Any, trainer: Trainer) -> bool:
    """Whether a checkpoint seems to hold an attribute: under its name, or a value that is equal and not trivial.

    Args:
        contents: Contents of the checkpoint.
        attribute: The object that it belongs to, and its name.
        value: Its value, as `attributes.of_trainer` returns it.
        trainer: The trainer.
    """
    owner, name = attribute
    for held in _held_of(owner, trainer, contents):
        for key, item in _leaves(held):
            if key.lstrip("_") == name.lstrip("_") or (not _is_trivial(value) and attributes.value_of(item) == value):
                return True
    return False


def _held_of(owner: Any, trainer: Trainer, contents: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the parts of a checkpoint in which the user may have saved an attribute of this object."""
    yield {key: value for key, value in contents.items() if key not in _OF_LIGHTNING}
    if any(owner is part for part in trainer.lightning_module.modules()):  # `in` would compare, as a metric does not
        yield {key: value for key, value in contents["state_dict"].items() if key.endswith("_extra_state")}
    elif (key := getattr(owner, "state_key", None)) is not None:
        yield contents.get("callbacks", {}).get(key, {})
    else:  # the datamodule may save its data sets, and a loader its data set and sampler
        for state in contents["loops"]["fit_loop"]["state_dict"].get("combined_loader", ()):
            # The counters of our own loader are equal to many a counter of the user, and hold none.
            is_ours = isinstance(state, Mapping) and {"epoch", "cycle", "batch", "seed"} <= state.keys()
            yield {key: state[key] for key in _OF_USER if key in state} if is_ours else state


def _leaves(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    yield key, value
    if depth < 6 and isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, str(name), depth + 1)
    elif depth < 6 and isinstance(value, list | tuple):
        for item in value[:64]:
            yield from _leaves(item, key, depth + 1)


def _is_trivial(value: Any) -> bool:
    return value is None or isinstance(value, bool) or value in ("", -1, 0, 1)
