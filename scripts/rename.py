"""Rename the package under src/: its folder, and every reference to it outside of engine/.

References are imports, dotted names such as those under `_target_`, paths under src/, the logger of the package in a
config, and the name in pyproject.toml. The same word in prose is not changed. CITATION.cff, which cites Cairn at first,
cites the project from then on, with Cairn among its references. The old name goes into the table [tool.cairn.moved] of
pyproject.toml, so that old run directories and checkpoints can still be read.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = {".git", ".venv", "engine", "logs", "data", "__pycache__"}
VALID_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?")
MOVED = "[tool.cairn.moved]"


class RenameError(ValueError):
    """The rename is refused; nothing was changed."""


def find_package(root: Path) -> str:
    """Return the name of the one package under src/."""
    found = sorted(path.parent.name for path in (root / "src").glob("*/__init__.py"))
    if len(found) != 1:
        raise RenameError(f"{root / 'src'} must hold one package, but holds {', '.join(found) or 'none'}")
    return found[0]


def check_name(name: str, root: Path) -> None:
    """Refuse a name that is invalid, or already used by Python, this repository or an installed package."""
    if not VALID_NAME.fullmatch(name):
        raise RenameError(f"{name!r}: use ASCII letters, digits and inner underscores, starting with a letter")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise RenameError(f"{name!r} is a keyword of Python")
    if name in sys.stdlib_module_names:
        raise RenameError(f"{name!r} is a module of the standard library")
    taken = [*root.iterdir(), *(root / "src").iterdir(), *(root / "engine" / "src").glob("*")]
    if name in {path.name.removesuffix(".py") for path in taken}:
        raise RenameError(f"{name!r} is already a file or folder of this repository")
    if importlib.util.find_spec(name) is not None:
        raise RenameError(f"{name!r} is already the name of an installed package")


def check_clean(root: Path) -> None:
    """Refuse while there are uncommitted changes: the rename could not be undone without losing them."""
    if not (root / ".git").exists():
        return  # a downloaded archive
    changes = git(root, "status", "--porcelain").splitlines()
    if changes:
        raise RenameError(f"there are {len(changes)} uncommitted changes: commit them, or use --force (make: FORCE=1)")


def git(root: Path, *arguments: str) -> str:
    """Return the output of a git command."""
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def references(old: str, submodules: list[str]) -> re.Pattern[str]:
    """Compile a pattern that matches `old` where it names the package, not where it is a word of a text."""
    before = [
        r"^[ \t]*\"?(?:from|import) ",  # also in a notebook, where each line is a JSON string
        r"-m ",
        r"\bsrc/",
        r"""["']src["'] / ["']""",
        r"^name = \"",  # pyproject.toml
        r"\bverbose: \[cairn, ",  # loggers whose level is DEBUG
    ]
    word = rf"{re.escape(old)}(?=[.,;:/`\"'\\)\]\s]|$)"
    dotted = rf"(?<![\w./-]){re.escape(old)}(?=\.(?:{'|'.join(map(re.escape, submodules)) or '(?!)'})\b)"
    return re.compile(rf"(?P<before>{'|'.join(before)}){word}|{dotted}", re.MULTILINE)


def rename_in(text: str, pattern: re.Pattern[str], new: str) -> str:
    """Replace the package's old name in a text."""
    return pattern.sub(lambda match: (match["before"] or "") + new, text)


def add_moved(text: str, old: str, new: str) -> str:
    """Add `old = new` to the table of moved names in pyproject.toml, and let the other entries lead to `new`."""
    if MOVED not in text:
        text = f"{text.rstrip()}\n\n{MOVED}\n"
    head, _, rest = text.partition(f"{MOVED}\n")
    lines = rest.splitlines(keepends=True)
    end = next((number for number, line in enumerate(lines) if line.startswith(("[", "\n"))), len(lines))
    table, tail = "".join(lines[:end]), "".join(lines[end:])
    table = re.sub(rf'= "{re.escape(old)}(?=[".])', f'= "{new}', table)
    table = re.sub(rf'^"{re.escape(new)}" = .*\n', "", table, flags=re.MULTILINE)  # the package had this name before
    return f'{head}{MOVED}\n{table}"{old}" = "{new}"\n{tail}'


def cite(text: str, old: str, new: str) -> str:
    """Return CITATION.cff for the project `new`: from the file that cites Cairn, or that of the project `old`."""
    if not re.search(r"^title: Cairn$", text, re.MULTILINE):
        return re.sub(
            rf"^(title: |  - name: ){re.escape(old)}(?=$| contributors$)", rf"\g<1>{new}", text, flags=re.MULTILINE
        )
    cited = text[text.index("type: ") :].splitlines(keepends=True)
    indented = "".join(f"    {line}" for line in cited)
    return f"""\
# GitHub shows it as "Cite this repository". Add the authors.
cff-version: 1.2.0
message: If you use this software, please cite it.
type: software
title: {new}
authors:
  - name: {new} contributors
references:
  - {indented.lstrip()}"""


def source_files(root: Path) -> Iterator[Path]:
    """Yield the files that git tracks or would add; without git, all files outside of caches and runs."""
    if (root / ".git").exists():
        listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
        paths = [root / name for name in listed if name]
    else:
        paths = list(root.rglob("*"))
    for path in sorted(paths):
        is_skipped = SKIPPED_FOLDERS.intersection(path.relative_to(root).parts[:1])
        if path.is_file() and not path.is_symlink() and not is_skipped:
            yield path


def rename(root: Path, new: str, force: bool = False) -> list[Path]:
    """Rename the package.

    Args:
        root: Root directory of the repository.
        new: The new name.
        force: Rename although there are uncommitted changes.

    Returns:
        The files whose content was changed, relative to `root`.

    Raises:
        RenameError: The name cannot be used, or there are uncommitted changes; nothing was changed.
    """
    old = find_package(root)
    check_name(new, root)
    if not force:
        check_clean(root)
    package = root / "src" / old
    pattern = references(old, sorted({path.stem for path in package.iterdir() if not path.name.startswith(("_", "."))}))
    changed = []
    for path in source_files(root):
        try:
            text = path.read_bytes().decode("utf-8")  # bytes: line ends stay as they are
        except UnicodeDecodeError:
            continue
        renamed = rename_in(text, pattern, new)
        if path == root / "pyproject.toml":
            renamed = add_moved(renamed, old, new)
        elif path == root / "CITATION.cff":
            renamed = cite(renamed, old, new)
        if renamed != text:
            path.write_bytes(renamed.encode("utf-8"))
            changed.append(path.relative_to(root))
    package.rename(root / "src" / new)
    shutil.rmtree(root / "src" / f"{old}.egg-info", ignore_errors=True)  # the next installation writes a new one
    return changed


def main() -> int:
    """Entry point of `make rename`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", help="the new name of the package, such as my_project")
    parser.add_argument("--force", action="store_true", help="rename although there are uncommitted changes")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    try:
        old = find_package(root)
        changed = rename(root, options.name, options.force)
    except RenameError as error:
        print(f"rename: {error}", file=sys.stderr)
        return 2
    print(f"renamed src/{old} to src/{options.name}, and the references to it in:", *changed, sep="\n  ")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
