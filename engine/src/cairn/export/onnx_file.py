"""The forward of a model as an ONNX file, which is read back and computed before it gets its name."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from cairn.errors import ModelError, first_line
from cairn.export import outputs
from cairn.export.example import Example, all_tensors

_TRACED_ROWS = 2
"""Samples of the batch with which a model is traced for any batch size: torch takes 0 and 1 for constants."""
_COMPARED_ROWS = (1, _TRACED_ROWS, 3)
_FIX = "Fix the batch size: --batch-size N."
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch._dynamo")


def write(
    path: Path, model: LightningModule, example: Example, num_rows: int | None, metadata: Mapping[str, str]
) -> None:
    """Write the file; weights of more than 1.5 GB go into FILE.data next to it.

    Args:
        path: The file.
        model: The model, in eval mode.
        example: Arguments of its forward.
        num_rows: Size of the batch that the file takes; None: any.
        metadata: Facts about the run.

    Raises:
        ModelError: The model cannot be exported like this.
    """
    if not all_tensors([*example.args, *example.kwargs.values()]):
        raise ModelError(f"{example.source} holds more than tensors, which an ONNX file cannot take.")
    taken = example.take(num_rows or _TRACED_ROWS)
    if num_rows is None and not example.num_rows:
        raise ModelError(f"{example.source} has no samples to take a batch of: give --batch-size.")
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                taken.args,
                kwargs=dict(taken.kwargs),
                dynamic_shapes=None if num_rows else _any_batch_size(taken),
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            _forget_sources(program)
            program.model.metadata_props.update(metadata)
            program.save(str(path))
            is_fixed = num_rows is None and not _takes_any(program, taken)
    except Exception as error:  # torch raises many types for a model that it cannot trace
        if isinstance(error, OSError):
            raise
        fixed = "" if num_rows else f" {_FIX}"
        raise ModelError(f"{type(model).__name__} cannot be exported to ONNX: {_reason(error)}.{fixed}") from error
    if is_fixed:
        raise ModelError(
            f"{type(model).__name__} cannot be exported to ONNX for any batch size: its forward computes with that "
            f"of its example. {_FIX}"
        )


def verify(path: Path, model: LightningModule, example: Example, num_rows: int | None) -> tuple[float, str]:
    """Compare what the file computes with what the model returns; with any batch size, for three of them.

    Args:
        path: The file.
        model: The model.
        example: Arguments of its forward.
        num_rows: Size of the batch that the file takes; None: any.

    Returns:
        The largest relative difference, and the program that has computed it.

    Raises:
        ModelError: They differ, or the file cannot be computed.
    """
    compute, name = _runtime(path)
    largest = 0.0
    for rows in (num_rows,) if num_rows else _COMPARED_ROWS:
        taken = example.take(rows)
        expected = outputs.of(model, taken.args, taken.kwargs)
        try:
            found = compute(taken)
        except Exception as error:  # of the other program
            more = "" if find_spec("onnxruntime") else "; with onnxruntime installed, that computes it"
            raise ModelError(f"{name} cannot compute it ({first_line(error)}){more}") from error
        largest = max(largest, outputs.difference(expected, found))
    return largest, name


def _any_batch_size(example: Example) -> dict[str, Any] | tuple[Any, ...]:
    """Return the shapes of the arguments, with a name for the first size of each tensor that has a row per sample."""
    batch, rows = torch.export.Dim("batch"), example.num_rows

    def shape(value: Any) -> Any:
        if isinstance(value, Tensor):
            return {0: batch} if value.dim() and len(value) == rows else {}
        if isinstance(value, Mapping):
            return {name: shape(item) for name, item in value.items()}
        return type(value)(map(shape, value)) if isinstance(value, list | tuple) else None

    if example.kwargs:
        return {name: shape(value) for name, value in example.kwargs.items()}
    return tuple(map(shape, example.args))


def _forget_sources(program: Any) -> None:
    """Remove lines of code and the paths of their files, which torch keeps for each node."""
    for graph in (program.model.graph, *program.model.functions.values()):
        for node in graph.all_nodes():
            for name in [name for name in node.metadata_props if name.endswith("stack_trace")]:
                del node.metadata_props[name]


def _takes_any(program: Any, example: Example) -> bool:
    """Whether a program takes batches of any size. Where torch cannot trace that, it traces the size of the example."""
    rows = example.num_rows
    given = outputs.tensors([*example.args, *example.kwargs.values()])
    named = [item for item in program.model.graph.inputs if len(item.shape) and not isinstance(item.shape[0], int)]
    limits = program.exported_program.range_constraints.values()
    is_bounded = any(limit.lower > _TRACED_ROWS or limit.upper < sys.maxsize for limit in limits)
    return len(named) == sum(bool(value.dim()) and len(value) == rows for value in given) and not is_bounded


def _runtime(path: Path) -> tuple[Callable[[Example], list[Tensor]], str]:
    """Return a function that computes the file, and its name."""
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [item.name for item in session.get_inputs()]
        return lambda example: _computed(session, names, example), "onnxruntime"
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda example: _computed(evaluator, evaluator.input_names, example), "onnx's ReferenceEvaluator"


def _computed(session: Any, names: Sequence[str], example: Example) -> list[Tensor]:
    by_name = example.kwargs if set(example.kwargs) == set(names) else {}
    inputs = outputs.tensors(
        [by_name[name] for name in names] if by_name else [*example.args, *example.kwargs.values()]
    )
    if len(names) != len(inputs):
        raise ModelError(f"it takes {len(names)} inputs ({', '.join(names)}), and the batch has {len(inputs)}")
    fed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return [torch.as_tensor(value) for value in session.run(None, fed)]


def _reason(error: Exception) -> str:
    """Return the first line of the error that torch's own one is about."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return first_line(cause)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress of the exporter, and its advice to itself, from the terminal."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [item.level for item in loggers]
    for item in loggers:
        item.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for item, level in zip(loggers, levels, strict=True):
            item.setLevel(level)
