"""What a search varies, from Hydra's own syntax for sweeps: lists, `choice`, `range`, `interval`, and `tag(log, ...)`.

    model=mlp,cnn                      choice(...) is the same; glob(*) all options of a group
    model.net.depth=range(1, 5)        1, 2, 3, 4: the end does not belong to a range
    data.batch_size=int(interval(8, 64))   all integers from 8 to 64; without int(...), numbers
    model.optimizer.lr=tag(log, interval(1e-4, 1e-1))   on a logarithmic scale; range(...) likewise

Both ends belong to an interval: samplers of Optuna include them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
    Transformer,
)

from cairn.errors import ConfigError
from cairn.search.space import Choice, Float, Int, Parameter, Space

_LOG = "log"


def parse(
    params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader | None = None
) -> tuple[Space, list[str]]:
    """Return what a search varies, and the overrides that all of its trials share.

    Args:
        params: `hydra.sweeper.params`.
        arguments: Overrides from the command line, which come after those.
        loader: Knows the options of groups.

    Raises:
        ConfigError: A parameter has no values, or nothing is varied.
    """
    lines = [*(f"{key}={'null' if value is None else value}" for key, value in params.items()), *arguments]
    found: dict[str, Override] = {}
    for item in OverridesParser.create(config_loader=loader).parse_overrides(lines):
        found.pop(item.get_key_element().lstrip("+~"), None)  # the last one counts, in its place
        found[item.get_key_element().lstrip("+~")] = item
    varied = {item.get_key_element(): _parameter(item) for item in found.values() if item.is_sweep_override()}
    if not varied:
        raise ConfigError(
            "This search has nothing to vary: give at least one parameter several values, such as "
            "'model.optimizer.lr=tag(log, interval(1e-4, 1e-1))', model=mlp,cnn, or keys of hydra.sweeper.params."
        )
    return Space(varied), [str(item.input_line) for item in found.values() if not item.is_sweep_override()]


def _parameter(item: Override) -> Parameter:
    value: Any = item.value()
    tags = set(getattr(value, "tags", ()))
    if tags - {_LOG}:
        raise _error(item, f"the tag {min(tags - {_LOG})!r} has no meaning in a search: tag(log, ...) has one")
    if item.is_interval_sweep():
        return _interval(item, value, _LOG in tags)
    if item.is_range_sweep():
        return _range(item, value, _LOG in tags)
    if tags:
        raise _error(item, "tag(log, ...) is about an interval or a range, and this is a list of values")
    return _choice(item)


def _interval(item: Override, value: IntervalSweep, log: bool) -> Parameter:
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    _check(item, low, high, log)
    if isinstance(low, int) and isinstance(high, int):
        return Int(low, high, log)
    return Float(float(low), float(high), log)


def _range(item: Override, value: RangeSweep, log: bool) -> Parameter:
    # Hydra adds up decimals, and may end a bit above 0.3.
    values: list[Any] = sorted(one if isinstance(one, int) else float(f"{one:.12g}") for one in value.range())
    if not values:
        raise _error(item, "this range is empty")
    step: Any = abs(value.step)
    is_whole = all(isinstance(one, int) for one in values)
    _check(item, values[0], values[-1], log)
    if log and not (is_whole and step == 1):
        raise _error(item, "a range with tag(log, ...) needs integers and steps of 1; an interval has no steps")
    if is_whole:
        return Int(values[0], values[-1], log, step)
    return Float(float(values[0]), float(values[-1]), step=float(step))


def _check(item: Override, low: float, high: float, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _error(item, f"{low:g} to {high:g} is not a range of finite numbers")
    if not low <= high or (item.is_interval_sweep() and low == high):
        raise _error(item, f"{low:g} is not below {high:g}")
    if log and low <= 0:
        raise _error(item, f"a logarithmic scale begins above 0, and not at {low:g}")


def _choice(item: Override) -> Parameter:
    # Not shuffled: a repeated command has to find the same choices.
    choices = value.list if isinstance(value := item.value(), ChoiceSweep) else list(item.sweep_iterator())
    by_text = {Transformer.str(choice): _plain(choice) for choice in choices}
    if not by_text:
        raise _error(item, "there is nothing to choose from")
    return Choice(tuple(by_text.values()), tuple(by_text))


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, float) and not math.isfinite(value):
        return Transformer.str(value)  # JSON has neither; in an override, the text is the number
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value


def _error(item: Override, why: str) -> ConfigError:
    return ConfigError(f"{item.input_line}: {why}.")
