"""Search the text of the repository for phrases that make it hard to read.

`python -m tests.guards.words [PATH ...]`, in engine/, lists every place. test_words.py fails if there is one.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ENGINE, ROOT

_PHRASES = r"""
        tells | told                               # software logs, reports, warns, raises, prints, returns
      | nobody | somebody | whoever | whomever     # name the thing: the writer, the launcher, rank 0
      | lest | anew | shall | beside
      | but\ for | so\ many | so\ long | of\ these | at\ hand | be\ had
"""
_NO = r"(?:is|are|was|were)\ no"
"""`X is not a Y`, never `X is no Y`."""
BANNED = re.compile(
    rf"\b(?: {_PHRASES} | (?<!there\ ){_NO}(?!\ longer|\ more|-) )\b",
    re.IGNORECASE | re.VERBOSE,
)
_GAP = r"""(?:\\n|[\W_]|[bfru]{1,2}(?=["']))+"""
"""Between two words of a text in Python: lines, quotes, marks of comments."""
_LOOSE = re.compile(rf"{_PHRASES} | {_NO}(?![a-z])".replace(r"\ ", _GAP), re.IGNORECASE | re.VERBOSE)
"""What a file with one of them contains: most files do not need to be taken apart."""
_ITSELF = {Path(__file__), Path(__file__).with_name("test_words.py")}
_FOLDERS = ("src", "tests", "scripts", "benchmarks", "docs", "configs", "notebooks", "website", ".ci", ".github")
_TEXT = {".md", ".yaml", ".yml", ".cff", ".css", ".toml", ".sbatch", ".ipynb", ".txt"}
_TEXT_NAMES = {"Makefile", "run"}


@dataclass(frozen=True)
class Finding:
    """A banned phrase.

    Attributes:
        line: where the text that holds it begins.
        phrase: what was found.
        context: the words around it.
    """

    line: int
    phrase: str
    context: str


def files(root: Path = ROOT, engine: Path = ENGINE) -> list[Path]:
    """Return the files that are searched: the library and, until it is renamed, the template."""
    # A project under another name belongs to its owner, with all its texts.
    homes = [engine, root] if (root / "src" / "project").is_dir() else [engine]
    found = [path for home in homes for path in home.iterdir()]
    found += [path for home in homes for folder in _FOLDERS for path in (home / folder).rglob("*")]
    return sorted({path for path in found if path.is_file() and _is_text(path)} - _ITSELF)


def _is_text(path: Path) -> bool:
    generated = any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)
    return not generated and (path.suffix in {".py", *_TEXT} or path.name in _TEXT_NAMES)


def findings(name: str, content: str) -> list[Finding]:
    """Return the banned phrases in a file.

    Args:
        name: of the file; its suffix decides what is text.
        content: what the file holds.
    """
    if not _LOOSE.search(content):
        return []
    texts = {".py": _python, ".ipynb": _notebook}.get(Path(name).suffix, _paragraphs)(content)
    return [
        Finding(line, match[0], flat[max(0, match.start() - 40) : match.end() + 40])
        for line, text in texts
        for flat in [" ".join(text.split())]
        for match in BANNED.finditer(flat)
    ]


def _python(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments, docstrings, other strings of more than one word, and the names of tests."""
    yield from _comments(source)
    tree = ast.parse(source)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(getattr(part, "value", "{}")) if _is_string(part) else "{}" for part in node.values),
            )
        elif _is_string(node) and id(node) not in inner and " " in node.value:
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield each comment; comments on consecutive lines are one text."""
    start, end, text = 0, 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != end + 1:
                yield start, text
                start, text = token.start[0], ""
            end, text = token.start[0], f"{text} {token.string.lstrip('#')}"
    yield start, text


def _paragraphs(content: str) -> Iterator[tuple[int, str]]:
    """Yield what empty lines separate. A phrase may continue on the next line of a comment."""
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", content):
        yield line, re.sub(r"^\s*#+", "", paragraph, flags=re.MULTILINE)
        line += paragraph.count("\n")


def _notebook(content: str) -> Iterator[tuple[int, str]]:
    for number, cell in enumerate(json.loads(content)["cells"], 1):
        yield from ((number, text) for _, text in _paragraphs("".join(cell["source"])))


def search(paths: Iterable[Path], root: Path = ROOT) -> dict[str, list[Finding]]:
    """Return {path below the root: findings} for the files that have any."""
    found = {path.relative_to(root).as_posix(): findings(path.name, path.read_text()) for path in paths}
    return {name: places for name, places in found.items() if places}


def lines(found: dict[str, list[Finding]]) -> list[str]:
    """Return one line of text for each banned phrase."""
    return [
        f"{name}:{place.line}: {place.phrase!r} in: ...{place.context}..."
        for name, places in found.items()
        for place in places
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="show only files whose path starts with one of these")
    options = parser.parse_args()
    found = search(files())
    shown = {n: places for n, places in found.items() if not options.paths or n.startswith(tuple(options.paths))}
    for line in lines(shown):
        print(line)
    print(f"{sum(map(len, shown.values()))} phrases in {len(shown)} files")


if __name__ == "__main__":
    main()
