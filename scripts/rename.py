"""Give the package another name: its folder under src/ and every reference to it, and nothing else.

What is left alone: the prose word "Cairn", the environment variables CAIRN_*, and the bare string "cairn"
where it is not plainly the package: it is also the key under which checkpoints keep our part, and old files
must stay readable.
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

SKIPPED_FOLDERS = {".git", ".venv", "logs", "__pycache__"}
A_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?")


class RenameError(ValueError):
    """The rename is refused; nothing was touched."""


def find_package(root: Path) -> str:
    """The one package under src/."""
    found = sorted(path.parent.name for path in (root / "src").glob("*/__init__.py"))
    if len(found) != 1:
        raise RenameError(f"{root / 'src'}: expected one package, found {found or 'none'}")
    return found[0]


def check_name(name: str, root: Path) -> None:
    """Refuse what Python, pip or this repository could not tell from something else."""
    if not A_NAME.fullmatch(name):
        raise RenameError(f"{name!r}: expected ASCII letters, digits and inner underscores, a letter first")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise RenameError(f"{name!r} is a keyword of Python")
    if name in sys.stdlib_module_names:
        raise RenameError(f"{name!r} is a module of the standard library")
    if name in {path.name.removesuffix(".py") for path in [*root.iterdir(), *(root / "src").iterdir()]}:
        raise RenameError(f"{name!r} is already a file or folder of this repository")
    if importlib.util.find_spec(name) is not None:
        raise RenameError(f"{name!r} is a package that is installed here")


def check_clean(root: Path) -> None:
    """Refuse when the rename could not be told from, or undone without, other changes."""
    if not (root / ".git").exists():
        return  # a downloaded archive: nothing to compare with
    changes = git(root, "status", "--porcelain").splitlines()
    if changes:
        raise RenameError(
            f"there are {len(changes)} uncommitted changes: commit them first, or use --force (make: FORCE=1)"
        )


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def references(old: str, submodules: list[str]) -> re.Pattern[str]:
    """Where `old` means the package. The cases are those in which Python, pip, pytest or mypy resolve it."""
    inner = "|".join(map(re.escape, submodules))
    before = [
        r"\b(?:from|import)\s+",  # from cairn import, import cairn.data
        r"-m\s+",  # python -m cairn
        r"""["']-m["'],\s*["']""",  # [sys.executable, "-m", "cairn"]
        r"\bsrc/",  # src/cairn
        r"""["']src["']\s*/\s*["']""",  # ROOT / "src" / "cairn"
        r"^name\s*=\s*[\"']",  # pyproject's [project]
        r"\b(?:import_module|find_spec|importorskip|getLogger|version|distribution|files)\(\s*[\"']",
        r"\b(?:prog|logger|package)=[\"']",  # argparse, caplog
    ]
    word = rf"{re.escape(old)}(?![\w-])"
    module_path = rf"(?<![\w./-]){re.escape(old)}(?=\.(?:{inner}|\*|__\w+__)(?!\w))"  # cairn.data, not cairn.json
    return re.compile(rf"(?:(?P<before>{'|'.join(before)}){word}|{module_path})", re.MULTILINE)


def rename_in(text: str, pattern: re.Pattern[str], new: str) -> str:
    return pattern.sub(lambda match: (match["before"] or "") + new, text)


def source_files(root: Path) -> Iterator[Path]:
    """What git tracks or would add; without git, all outside caches and runs."""
    if (root / ".git").exists():
        listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
        paths = [root / name for name in listed if name]
    else:
        paths = [p for p in root.rglob("*") if not SKIPPED_FOLDERS.intersection(p.relative_to(root).parts)]
    return (path for path in sorted(paths) if path.is_file() and not path.is_symlink())


def read_text(path: Path) -> str | None:
    """The content, with its line ends; None for what is not text."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def rename(root: Path, new: str, force: bool = False) -> list[str]:
    """Rename everything; return the lines that still hold the old name, for a person to look at.

    Raises:
        RenameError: the name is not usable, or there are uncommitted changes; nothing was touched.
    """
    old = find_package(root)
    check_name(new, root)
    if not force:
        check_clean(root)
    package = root / "src" / old
    pattern = references(old, sorted({p.stem for p in package.iterdir() if not p.name.startswith(("_", "."))}))
    for path in source_files(root):
        if (text := read_text(path)) is None:
            continue
        renamed = rename_in(text, pattern, new)
        if renamed != text:
            path.write_bytes(renamed.encode("utf-8"))
    package.rename(root / "src" / new)
    shutil.rmtree(root / "src" / f"{old}.egg-info", ignore_errors=True)  # made again by the next install
    return list(leftovers(root, old))


def leftovers(root: Path, old: str) -> Iterator[str]:
    word = re.compile(rf"\b{re.escape(old)}\b")
    for path in source_files(root):
        for number, line in enumerate((read_text(path) or "").splitlines(), 1):
            if word.search(line):
                yield f"{path.relative_to(root)}:{number}: {line.strip()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", help="the new name of the package, e.g. my_project")
    parser.add_argument("--force", action="store_true", help="although there are uncommitted changes")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    try:
        old = find_package(root)
        left = rename(root, options.name, options.force)
    except RenameError as error:
        print(f"rename: {error}", file=sys.stderr)
        return 2
    print(f"renamed src/{old} to src/{options.name}")
    if left:
        print(f"left as they are, since {old!r} is not plainly the package there:", *left, sep="\n  ")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
