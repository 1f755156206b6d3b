"""The reader of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from cairn.errors import CheckpointError, MissingFileError
from cairn.predictions import values
from cairn.predictions.parts import PLAN, PartRecord, Parts

FOLDER = "predictions"
"""Folder in a run directory, with a folder per checkpoint."""
LOADER = "loader_"
"""Beginning of the name of a folder per data loader, if there are several."""


def load_predictions(directory: str | Path, *, with_indices: bool = False) -> Any:
    """Return the predictions in a directory: what `predict_step` returns, for all samples, in the order of the data.

    Each sample is there once, however many processes have predicted. A tensor has a row per sample; it is a list of
    rows if their shapes differ. A list has an item per sample.

    Args:
        directory: `RUN/predictions/CHECKPOINT`, or `RUN` if it has those of one checkpoint only.
        with_indices: Also return the index of each sample in the data set.

    Returns:
        The predictions, or a pair (indices, predictions). With several data loaders, a list with those of each.

    Raises:
        FileNotFoundError: There are none.
        RuntimeError: They are not complete, or damaged.
    """
    folder = _folder(Path(directory))
    if (folder / PLAN).exists():
        return _loaded(folder, with_indices)
    several = sorted(folder.glob(f"{LOADER}*"), key=lambda path: int(path.name.removeprefix(LOADER)))
    return [_loaded(path, with_indices) for path in several]


def _folder(path: Path) -> Path:
    """Return the directory that is meant."""
    if _holds(path):
        return path
    below = path / FOLDER if (path / FOLDER).is_dir() else path
    found = [child for child in sorted(below.iterdir()) if _holds(child)] if below.is_dir() else []
    if len(found) == 1:
        return found[0]
    named = f": name one of {', '.join(child.name for child in found)} in {below}" if found else ""
    raise MissingFileError(f"{path} does not hold the predictions of one checkpoint{named}.")


def _holds(path: Path) -> bool:
    return (path / PLAN).exists() or (path / f"{LOADER}0" / PLAN).exists()


def _loaded(folder: Path, with_indices: bool) -> Any:
    parts = Parts(folder)
    plan, there = parts.plan(), parts.there()
    if plan is None or plan.num_parts is None or there != list(range(plan.num_parts)):
        of = f" of {plan.num_parts}" if plan is not None and plan.num_parts is not None else ""
        raise CheckpointError(
            f"{folder} is not complete: {len(there)}{of} parts are there. Repeat the command that writes it."
        )
    found = [(number, parts.record(number)) for number in there]
    if not found:
        return (None, None) if with_indices else None
    try:
        return _joined(parts, found, with_indices)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{folder} is damaged: its parts and their records do not fit ({error!r}).") from error


def _joined(parts: Parts, found: Sequence[tuple[int, PartRecord]], with_indices: bool) -> Any:
    """Return the predictions of all parts."""
    structure = found[0][1].structure
    if any(record.structure != structure for _, record in found):
        raise CheckpointError(f"{parts.directory} cannot be joined: predict_step returned outputs of several forms.")
    columns = _columns(parts, found)
    indices = None if found[0][1].indices is None else [index for _, item in found for index in item.indices or ()]
    if indices is not None and not _is_sorted(indices):
        order = sorted(range(len(indices)), key=indices.__getitem__)
        indices = [indices[at] for at in order]
        columns = {path: _ordered(column, order) for path, column in columns.items()}
    output = values.decode(structure, columns, columns)
    return (indices, output) if with_indices else output


def _columns(parts: Parts, found: Sequence[tuple[int, PartRecord]]) -> dict[str, Any]:
    """Return each column with the rows of all parts."""
    pieces: dict[str, list[Any]] = {path: [] for path, _ in values.paths(found[0][1].structure)}
    kinds = dict(values.paths(found[0][1].structure))
    for number, record in found:
        tensors, rows, first = parts.tensors(number, record), parts.rows(number, record), 0
        for at, num_rows in enumerate(record.num_rows):
            batch = f"{record.first_batch + at:06d}"
            own = {name.removeprefix(batch): value for name, value in tensors.items() if name.startswith(f"{batch}")}
            for path, is_tensor in kinds.items():
                if is_tensor:
                    pieces[path].append(own[path])
                else:
                    pieces[path] += [values.with_tensors(row[path], own) for row in rows[first : first + num_rows]]
            first += num_rows
    return {path: values.joined(items) if kinds[path] else items for path, items in pieces.items()}


def _is_sorted(indices: Sequence[Any]) -> bool:
    if not all(isinstance(index, int) for index in indices):
        return True  # names: they stay in the order in which they were predicted
    return all(one < other for one, other in pairwise(indices))


def _ordered(column: Any, order: Sequence[int]) -> Any:
    return column[list(order)] if isinstance(column, Tensor) else [column[at] for at in order]
