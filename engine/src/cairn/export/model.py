"""Export the model of a checkpoint, and keep what was written only if it is the same model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule

from cairn.errors import CairnError, ModelError, first_line
from cairn.export import example as examples
from cairn.export import facts, folder, onnx_file, outputs, weights
from cairn.export.example import Example
from cairn.export.facts import Facts
from cairn.export.staging import staged
from cairn.lightning.load_model import load_model
from cairn.run import named_checkpoint
from cairn.store import disk
from cairn.writing import exported
from cairn.writing.load import load

Kind = Literal["safetensors", "onnx", "folder"]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    checkpoint: str
    """Name of the checkpoint that it was made from."""
    files: tuple[Path, ...]
    num_bytes: int
    verified: str
    """What was compared, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class _Source:
    """A checkpoint, the model in it, and a batch for the model."""

    model: LightningModule
    contents: Mapping[str, Any]
    facts: Facts
    example: Example | None
    why: str
    """Why there is no batch."""


def export(named: str, to: Path, kind: Kind, *, overwrite: bool = False, num_rows: int | None = None) -> Exported:
    """Write the model of a checkpoint in another format, and verify it.

    Args:
        named: A checkpoint, or a run for its best one, see `named_checkpoint.find`.
        to: The new file or folder.
        kind: Its format.
        overwrite: Whether existing files are replaced.
        num_rows: Size of the batches that an ONNX file takes; None: any.

    Raises:
        CairnError: It could not be written, or is not the same model; then there is no new file.
    """
    place, files = (to, folder.FILES) if kind == "folder" else (to.parent, (to.name,))
    exported.require(to.name, *{"onnx": ("onnx", "onnxscript")}.get(kind, ("safetensors",)))
    with tempfile.TemporaryDirectory(prefix="cairn-") as fetched:
        found = named_checkpoint.find(named, Path(fetched))
        with staged(place, files, overwrite) as hidden:
            source = _read(found)
            writers: dict[str, Callable[..., str]] = {
                "safetensors": _safetensors,
                "onnx": partial(_onnx, num_rows=num_rows),
                "folder": partial(_folder, name=to.name or to.absolute().name),
            }
            verified = writers[kind](source, hidden / files[0] if kind != "folder" else hidden, to)
            made = sorted(path.name for path in hidden.iterdir())
    paths = tuple(place / name for name in made)
    return Exported(found.path.name, paths, sum(map(disk.size_bytes, paths)), verified)


def _read(found: named_checkpoint.NamedCheckpoint) -> _Source:
    contents = load(found.path)
    try:
        model = load_model(found.path)
    except Exception as error:  # code of the user
        if isinstance(error, CairnError):
            raise
        raise ModelError(f"The model of {found.path} cannot be built: {_reason(error)}.") from error
    config = contents[exported.OURS]["config"]
    try:
        example, why = examples.find(model, config), ""
    except ModelError as error:
        example, why = None, str(error)
    return _Source(model, contents, facts.of(found, contents), example, why)


def _safetensors(source: _Source, path: Path, to: Path) -> str:
    weights.write(path, source.model.state_dict(), source.facts.texts())
    with _kept_if_equal(to):
        weights.verify(path, source.model, source.example)
    return _equal(source)


def _onnx(source: _Source, path: Path, to: Path, num_rows: int | None) -> str:
    if source.example is None:
        raise ModelError(
            f"An ONNX file needs an example batch for {type(source.model).__name__}: {source.why}. Set "
            f"example_input_array in the model."
        )
    onnx_file.write(path, source.model, source.example, num_rows, source.facts.texts())
    with _kept_if_equal(to):
        largest, by = onnx_file.verify(path, source.model, source.example, num_rows)
    size = "batches of 1 to 3 samples" if num_rows is None else f"a batch of {num_rows}"
    return f"its outputs, computed by {by} for {size}, differ from the model by at most {largest:.1g} of their size"


def _folder(source: _Source, path: Path, to: Path, name: str) -> str:
    folder.write(path, name, source.model, source.contents, source.facts)
    with _kept_if_equal(to):
        again = load_model(path)
        one, other = source.model.state_dict(), again.state_dict()
        if one.keys() != other.keys() or not outputs.are_equal(list(one.values()), list(other.values())):
            raise ModelError("the model that it describes has other weights")
        if source.example is not None:
            expected = outputs.of(source.model, source.example.args, source.example.kwargs)
            weights.compare(again, expected, source.example)
    return _equal(source)


def _equal(source: _Source) -> str:
    if source.example is None:
        return f"its weights are those of the checkpoint in every bit (no outputs were compared: {source.why})"
    return f"its weights, and its outputs for {source.example.source}, are those of the checkpoint in every bit"


@contextmanager
def _kept_if_equal(to: Path) -> Iterator[None]:
    """Say in the message of an error that nothing was kept; it may come from the code of the user."""
    try:
        yield
    except Exception as error:
        raise ModelError(f"{to} could not be verified, and is not kept: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    text = first_line(error)
    return text if isinstance(error, CairnError) else f"{type(error).__name__}: {text}"
