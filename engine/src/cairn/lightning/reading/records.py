"""Whether a global list or dict is a record of the training: code adds to it, and does not read it."""

from __future__ import annotations

import dis
from types import CodeType

from cairn.lightning.reading.code import cached

_ADDS = {"append", "appendleft", "extend", "add", "update", "clear"}
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR")
_AT_THE_END = {"on_train_end", "on_fit_end", "on_exception", "on_test_end", "on_test_epoch_end", "teardown"}
"""Hooks that read a record to write or plot it, when nothing is trained any more."""


@cached
def only_adds(code: CodeType, name: str) -> bool:
    """Whether a function only adds to a global container, if it names it: `X.append(1)`, `X[a] = 1`, `X[a].append(1)`.

    Args:
        code: Code of the function; one that runs at the end of a training may read it.
        name: Name of the variable.
    """
    if code.co_name in _AT_THE_END:
        return True
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "CACHE", "PUSH_NULL")]
    for number, step in enumerate(steps):
        if step.argval == name and step.opname in _LOADS and not _is_added_to([*steps[number + 1 :]]):
            return False
    return all(only_adds(part, name) for part in code.co_consts if isinstance(part, CodeType))


def _is_added_to(steps: list[dis.Instruction]) -> bool:
    """Whether the instructions after the loading of a container add to it."""
    if steps[0].opname in ("LOAD_METHOD", "LOAD_ATTR"):
        return steps[0].argval in _ADDS
    for number, step in enumerate(steps):
        if step.opname == "STORE_SUBSCR":
            return True
        if step.opname == "BINARY_SUBSCR":
            return steps[number + 1].opname in ("LOAD_METHOD", "LOAD_ATTR") and steps[number + 1].argval in _ADDS
        if not step.opname.startswith(("LOAD_", "BUILD_TUPLE")):  # the key is computed, or the container is passed on
            return False
    return False
