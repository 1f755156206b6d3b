"""The steps of a page of the documentation, performed on a copy of a project.

| in a section of the page | is |
| --- | --- |
| ```diff, after a line that names a file in backticks | a change: the lines with "-" and " " must be there once |
| ```yaml, after such a line | the new content of that file |
| ```bash | run by a shell in the folder of the project |
| ```console | what a reader runs; not performed |
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

_BLOCK = re.compile(r"^(?P<before>[^\n]*)\n```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w./-]+/[\w.-]+\.\w+)`")


def section(page: str, heading: str) -> str:
    """Return the text below a heading, up to the next one of its kind."""
    (found,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return found


def commands(text: str) -> list[list[str]]:
    """Return the commands of the ```console blocks, as words."""
    bodies = [body for _, kind, body in _blocks(text) if kind == "console"]
    return [line.removeprefix("$ ").split() for body in bodies for line in body.splitlines()]


def perform(text: str, project: Path, **variables: str) -> list[str]:
    """Perform the steps of a section, in their order.

    Args:
        text: The section.
        project: The project that is changed.
        variables: Variables that the shell commands use.

    Returns:
        What was changed: names of files, and `bash`.
    """
    done = []
    for before, kind, body in _blocks(text):
        if kind == "bash":
            script = ["bash", "-euo", "pipefail", "-c", body]
            subprocess.run(script, cwd=project, env={**os.environ, **variables}, check=True)
            done.append("bash")
        elif kind in ("diff", "yaml"):
            file = project / _FILE.findall(before)[-1]
            file.write_text(changed(file.read_text(), body) if kind == "diff" else body)
            done.append(file.relative_to(project).as_posix())
    return done


def changed(text: str, diff: str) -> str:
    """Return a text with a change; the old lines must be in it once."""
    lines = [(line[:1] or " ", line[1:]) for line in diff.splitlines()]
    old, new = ([line for sign, line in lines if sign != other] for other in "+-")
    rows = text.splitlines()
    places = [place for place in range(len(rows)) if rows[place : place + len(old)] == old]
    assert len(places) == 1, f"these lines are not in the file once, but {len(places)} times: {old}"
    rows[places[0] : places[0] + len(old)] = new
    return "\n".join(rows) + "\n"


def _blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield what is before a block (its paragraph's last two lines), its language and its text."""
    for found in _BLOCK.finditer(text):
        head = text[: found.end("before")].splitlines()[-2:]
        yield "\n".join(head), found["kind"], found["body"]


def names(cell: str) -> set[str]:
    """Return the names of arguments in the code of a cell of a table: of `a=1`, `b`, it is a and b."""
    return {found for code in re.findall(r"`([^`]+)`", cell) for found in re.findall(r"^(\w+)", code)}
