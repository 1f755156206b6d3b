"""`python train.py --schema`: write the JSON schemas by which editors complete and check the files in `configs/`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cairn.errors import CairnError
from cairn.hydra.schema import store

FLAG = "--schema"
_CHECK, _JSON = "--check", "--json"


def main(root: Path, config_path: str, argv: Sequence[str]) -> int:
    """Write the schemas of a project, or check with `--check` that they are up to date.

    Args:
        root: Directory of the project.
        config_path: Directory of the YAML files, relative to `root`.
        argv: Command-line arguments.

    Returns:
        Exit code: 1 if they are not up to date, or could not be written.
    """
    configs, folder = root / config_path, root / store.FOLDER
    if unknown := [item for item in argv if item not in (FLAG, _CHECK, _JSON)]:
        print(f"Error: {unknown[0]}: the schemas are those of the whole project. Flags: {_CHECK}.", file=sys.stderr)
        return 1
    if _CHECK in argv:
        found = store.stale(configs, folder)
        if _JSON in argv:
            print(json.dumps({"stale": found}, indent=2))
        elif found:
            print(f"Not up to date in {store.FOLDER}/: {', '.join(found)}. Write them: cairn schema", file=sys.stderr)
        return int(bool(found))
    try:
        written, changed = store.write(configs, folder)
    except CairnError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if _JSON in argv:
        print(json.dumps({"written": written, "changed": [str(path) for path in changed]}, indent=2))
        return 0
    print(f"Written to {store.FOLDER}/: {', '.join(written) or 'nothing, all are up to date'}.")
    for path in changed:
        print(f"Added the line for editors to {path.relative_to(root)}.")
    return 0
