"""`cairn show FILE`: the manifest of a checkpoint and the configuration of its run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from cairn import bounded_yaml, opening
from cairn.cli.arguments import load_dotenv
from cairn.cli.output import print_json
from cairn.errors import CheckpointError
from cairn.remote import listed, local_files, origin
from cairn.remote.address import is_address
from cairn.remote.objects import Objects
from cairn.run import summary, terminal
from cairn.store import links, manifest, names

HELP = "show what a checkpoint holds: its manifest and the configuration of its run"
_KEY = "cairn"
"""Key of Cairn's state in a Lightning checkpoint; it belongs to the file format."""


@dataclass(frozen=True)
class Contents:
    """Manifest and configuration of a checkpoint file."""

    path: Path | str
    """A string: the address of an object."""
    manifest: dict[str, Any] | None
    """None if the file has no manifest."""
    config: dict[str, Any] | None
    """Resolved configuration of the run; None if the file does not contain it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "named", metavar="FILE", help="checkpoint, a link to one such as last.ckpt, or an address of one"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the contents and return 0."""
    named = arguments.named
    contents = _of_address(named) if is_address(named) else collect(Path(named))
    if arguments.json:
        print_json(as_json(contents))
    else:
        show(contents, terminal.console())
    return 0


def collect(path: Path) -> Contents:
    """Verify a checkpoint file, and read its manifest and configuration.

    Args:
        path: The file, or a link to it.

    Raises:
        CheckpointError: The file is missing, corrupt, or not a Lightning checkpoint.
    """
    from cairn.writing.load import load  # only here: it imports torch, and the other commands do not wait for that

    own = load(path).get(_KEY)
    path = links.target(path)
    proof = path.with_name(names.manifest_name(path.name))
    there = names.checkpoint_of(proof.name) and proof.is_file()
    try:
        fields = manifest.parse(opening.read_bytes(proof)) if there else None
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}.") from error
    return Contents(
        path,
        manifest=fields,
        config=own.get("config") if isinstance(own, dict) else None,
    )


def _of_address(text: str) -> Contents:
    """Read the manifest and the configuration of a checkpoint in an object store, without downloading it."""
    load_dotenv()
    wanted = origin.parse(text)

    def read(objects: Objects) -> Contents:
        found = listed.look(objects)
        record = next(origin.candidates(objects, wanted, found))
        config = next((item for item in record.files if item.path == local_files.CONFIG), None)
        where = f"{wanted.run}/{record.stem.data}"
        values = bounded_yaml.parse(local_files.read(objects, config).decode()) if config else None
        return Contents(where, manifest.parse(record.manifest), values)

    return origin.asked(wanted.run, read)


def as_json(contents: Contents) -> dict[str, Any]:
    """Return the contents as JSON values."""
    return {"file": str(contents.path), "manifest": contents.manifest, "config": contents.config}


def show(contents: Contents, console: Console) -> None:
    """Print the contents as YAML."""
    shown = contents.path if isinstance(contents.path, str) else summary.relative(contents.path)
    console.print(f"[bold]{escape(shown)}[/]", highlight=False, soft_wrap=True)
    if contents.manifest is None:
        console.print("This file has no manifest.", highlight=False)
    for title, part in {"manifest": contents.manifest, "config": contents.config}.items():
        if part is not None:
            console.print(f"\n[bold]{title}[/]")
            text = yaml.safe_dump(part, sort_keys=False, allow_unicode=True).rstrip()
            console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))
