"""Which names the code of a project can log: a metric with another name is certainly never logged.

The source of the model, of the callbacks, and of what they call is read. A name that is computed there is a pattern:

    self.log("val/loss", ...)           val/loss
    self.log(f"{stage}/loss", ...)      .*/loss
    self.log_dict({"a": ..., n: ...})   a, .*
    self.log_dict(metrics)              .*
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from torch import nn
from torchmetrics import MetricCollection

from cairn.lightning.reading import code

_ANYTHING = ".*"
_SUFFIX = r"(_step|_epoch)?(/dataloader_idx_\d+)?"
"""What Lightning adds to the name in `self.log`."""
_RATES = ".*(lr|momentum|weight_decay).*"
"""Names of Lightning's LearningRateMonitor."""
_LOGS = {"log", "log_dict", "callback_metrics"}
_MOST_FUNCTIONS = 2000


def may_log(trainer: Trainer, name: str) -> bool:
    """Whether the code of the project may log a metric with this name; if this cannot be known, it may."""
    named = trainer.lightning_module.named_modules()
    collections = {label.rpartition(".")[2]: part for label, part in named if isinstance(part, MetricCollection)}
    patterns = {re.escape(str(key)) for part in collections.values() for key in part.keys(keep_base=False)}
    if any(isinstance(callback, LearningRateMonitor) for callback in trainer.callbacks):
        patterns |= {_RATES, *(f"{re.escape(str(config.name))}.*" for config in trainer.lr_scheduler_configs)}
    for number, function in enumerate(_functions(trainer)):
        patterns |= _patterns(function, tuple(collections)) if number < _MOST_FUNCTIONS else {_ANYTHING}
    return any(re.fullmatch(f"{pattern}{_SUFFIX}", name, re.DOTALL) for pattern in patterns)


def _functions(trainer: Trainer) -> Iterator[FunctionType]:
    """Yield the functions of the project that a fit may call, up to one more than are read."""
    waiting: list[Any] = [*trainer.lightning_module.modules(), *trainer.callbacks]
    seen: dict[int, Any] = {}
    num = 0
    while waiting and num <= _MOST_FUNCTIONS:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, type):
            bases = [base for base in item.__mro__ if not code.is_library(base)]
            waiting += [function for base in bases for member in vars(base).values() for function in _called(member)]
        elif isinstance(item, FunctionType):
            if code.is_library(item):  # Lightning gives callbacks the `log` of the model
                continue
            num += 1
            yield item
            named = code.names(item.__code__) & item.__globals__.keys()
            waiting += [value for value in map(item.__globals__.get, named) if _is_own(value)]
        elif functions := _called(item):
            waiting += functions
        elif isinstance(item, nn.Module | Callback) or not code.is_library(type(item)):
            waiting += [type(item), *getattr(item, "__dict__", {}).values()]


def _called(item: Any) -> list[FunctionType]:
    if isinstance(item, property):
        return [found for part in (item.fget, item.fset) for found in code.chain(part)]
    return [*code.chain(item)]


def _is_own(value: Any) -> bool:
    return isinstance(value, type | FunctionType) and not code.is_library(value)


@cache
def _patterns(function: FunctionType, collections: tuple[str, ...]) -> frozenset[str]:
    used = code.names(function.__code__)
    if not (used & _LOGS or ("getattr" in used and code.text_constants(function.__code__) & _LOGS)):
        return frozenset()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # it has no source of its own: typed into a prompt, or a lambda
        return frozenset({_ANYTHING})
    if not used & _LOGS:  # getattr(module, "log")
        return frozenset({_ANYTHING})
    calls = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    stored = {
        node.value: node
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("log", "log_dict"):
            if not _is_of_a_module(node, function):
                found |= {*_of_call(calls.get(node), node.attr, collections)}
        elif isinstance(node, ast.Attribute) and node.attr == "callback_metrics" and node in stored:
            found.add(_of_text(stored[node].slice))
        elif isinstance(node, ast.Attribute | ast.Assign) and _is_metrics(node.value) and not _only_reads(node):
            found.add(_ANYTHING)
    return frozenset(found)


def _is_metrics(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "callback_metrics"


def _only_reads(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("get", "items", "keys", "values", "copy")


def _is_of_a_module(node: ast.Attribute, function: FunctionType) -> bool:
    """Whether this is `math.log`, or a line in a log."""
    owner = function.__globals__.get(node.value.id) if isinstance(node.value, ast.Name) else None
    return isinstance(owner, ModuleType | logging.Logger)


def _of_call(call: ast.Call | None, kind: str, collections: tuple[str, ...]) -> Iterator[str]:
    if call is None:  # the method is passed on
        yield _ANYTHING
        return
    given = call.args or [item.value for item in call.keywords if item.arg in ("name", "dictionary")]
    if not given:  # of a tensor, or with `**options`
        if call.keywords:
            yield _ANYTHING
    elif kind == "log":
        yield _of_text(given[0])
    elif isinstance(given[0], ast.Dict):
        yield from (_of_text(key) if key is not None else _ANYTHING for key in given[0].keys)
    elif not (isinstance(given[0], ast.Attribute) and given[0].attr in collections):
        yield _ANYTHING


def _of_text(node: ast.AST) -> str:
    """Return a pattern of the texts that an expression may have."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_of_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _of_text(node.left) + _of_text(node.right)
    if isinstance(node, ast.IfExp):
        return f"({_of_text(node.body)}|{_of_text(node.orelse)})"
    return _ANYTHING
