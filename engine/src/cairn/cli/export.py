"""`cairn export CHECKPOINT --to FILE`: the model for other programs; or a directory of shards as one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cairn.cli.arguments import LOGS, load_dotenv, refuse_address
from cairn.cli.output import print_json
from cairn.errors import ConfigError, ResumeError
from cairn.run import named_checkpoint, terminal
from cairn.run.directory import newest
from cairn.units import format_bytes

if TYPE_CHECKING:
    from cairn.export.model import Kind

HELP = "write the model of a checkpoint as safetensors, as ONNX, or as a folder with a model card; verified"
_CHECKPOINT = ".ckpt"
_KINDS: dict[str, Kind] = {".safetensors": "safetensors", ".onnx": "onnx"}
_OTHERS = {".bin", ".gguf", ".h5", ".json", ".npz", ".pb", ".pkl", ".pt", ".pt2", ".pth", ".tflite", ".yaml", ".zip"}
"""Ends of files that people ask for, and that are not made here."""
_ANY = "any"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "named",
        metavar="CHECKPOINT",
        help="file, directory of shards, run directory (its best checkpoint), address, or latest for the newest run",
    )
    text = (
        "model.safetensors: the weights; model.onnx: forward; a folder: weights, config.json and a model card;"
        " model.ckpt: a directory of shards as one file, equal in every bit to an unsharded save"
    )
    parser.add_argument("--to", required=True, metavar="FILE", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    text = "samples in a batch of an ONNX file: any (the default), or a number"
    parser.add_argument("--batch-size", default=_ANY, metavar="N", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Write and verify the file, and return 0."""
    refuse_address(arguments.to, "export")
    if Path(arguments.to).suffix == _CHECKPOINT:
        return _as_one_file(arguments)
    kind, num_rows = _kind(arguments.to), _num_rows(arguments.batch_size)
    if num_rows is not None and kind != "onnx":
        raise ConfigError(f"--batch-size={num_rows} is about ONNX files, and {arguments.to} is not one: leave it out.")
    load_dotenv()
    from cairn.export.model import export  # only here: it imports torch, and the other commands do not wait for that

    made = export(_named(arguments.named), Path(arguments.to), kind, overwrite=arguments.overwrite, num_rows=num_rows)
    if arguments.json:
        print_json(
            {
                "checkpoint": made.checkpoint,
                "files": list(map(str, made.files)),
                "num_bytes": made.num_bytes,
                "verified": made.verified,
            }
        )
    else:
        terminal.line(f"Wrote {arguments.to} ({format_bytes(made.num_bytes)}) from {made.checkpoint}: {made.verified}.")
    return 0


def _as_one_file(arguments: argparse.Namespace) -> int:
    refuse_address(arguments.named, "export")
    if arguments.overwrite or arguments.batch_size != _ANY:
        raise ConfigError("--overwrite and --batch-size have no effect with --to FILE.ckpt: leave them out.")
    from cairn.writing.export import export

    source = named_checkpoint.find(_named(arguments.named), Path()).path  # not an address: nothing is downloaded
    num_bytes = export(source, Path(arguments.to))
    if arguments.json:
        print_json({"file": arguments.to, "num_bytes": num_bytes})
    else:
        terminal.line(f"Wrote {arguments.to} ({format_bytes(num_bytes)}) from {source}.")
    return 0


def _kind(to: str) -> Kind:
    suffix = Path(to).suffix.lower()
    if suffix in _OTHERS and not Path(to).is_dir():
        raise ConfigError(
            f"--to {to}: {suffix} files are not written. Name a file that ends with .safetensors, .onnx or .ckpt, or a"
            f" folder."
        )
    return _KINDS.get(suffix, "folder")


def _num_rows(text: str) -> int | None:
    if text == _ANY:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch-size={text} must be a number from 1, or {_ANY}.")
    return int(text)


def _named(text: str) -> str:
    if text != "latest":
        return text
    run = newest(LOGS)
    if run is None:
        raise ResumeError(f"There is no run below {LOGS}/: name a checkpoint.")
    return str(run.path)
