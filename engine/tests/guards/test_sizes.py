"""Classes, functions and modules stay short enough to be read in one go: a class over 150 lines holds two classes."""

import ast

import pytest
from tests.support.paths import ENGINE

PACKAGE = ENGINE / "src" / "cairn"
LIMITS = {"class": 150, "function": 60, "module": 300}
"""Most lines, with the docstring."""
EXCEPTIONS = {
    "class": {
        "data/loader.py DataLoader": "torch's arguments and Lightning's protocol, with their docstrings",
        "lightning/engine.py Engine": "holds the parts of a run together: each method is a hook that passes on to one",
        "lightning/hooks.py EngineHooks": "one method per hook of Lightning, each of which passes on to the engine",
        "lightning/saves.py Saves": "a save is agreed on, copied and counted in one order on all ranks",
        "writing/pipeline.py SavePipeline": "reserve, copy and commit share one lock and one buffer pool",
    },
    "function": {},
    "module": {
        "policy/when.py": "the public triggers, with their docstrings",
        "store/file_format.py": "the layout of a checkpoint file, with its picture",
        "study/plots.py": "one function per figure",
        "study/words.py": "the sentences of the report",
        "targets.py": "tables of the names that a configuration may build",
        "writing/encode.py": "the byte layout that torch.load reads is written in one place",
    },
}
"""What may be longer, and why."""


def _sizes(name, source):
    """{kind: {name: number of lines}} of a module."""
    tree = ast.parse(source)
    found = {"class": {}, "function": {}, "module": {name: len(source.splitlines())}}
    for node in ast.walk(tree):
        kind = {ast.ClassDef: "class", ast.FunctionDef: "function", ast.AsyncFunctionDef: "function"}.get(type(node))
        if kind:
            key = f"{name} {node.name}"
            found[kind][key] = max(found[kind].get(key, 0), node.end_lineno - node.lineno + 1)
    return found


@pytest.fixture(scope="module")
def too_long():
    """{kind: {name: number of lines}} of all that is over its limit."""
    over = {kind: {} for kind in LIMITS}
    for path in sorted(PACKAGE.rglob("*.py")):
        sizes = _sizes(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
        for kind, limit in LIMITS.items():
            over[kind] |= {name: lines for name, lines in sizes[kind].items() if lines > limit}
    return over


@pytest.mark.parametrize("kind", LIMITS)
def test_nothing_is_over_its_limit_except_what_the_table_names(too_long, kind):
    new = {name: lines for name, lines in too_long[kind].items() if name not in EXCEPTIONS[kind]}
    assert not new, f"over {LIMITS[kind]} lines: move a decision into a module of its own"


@pytest.mark.parametrize("kind", LIMITS)
def test_the_table_names_nothing_that_fits(too_long, kind):
    assert not set(EXCEPTIONS[kind]) - set(too_long[kind]), "remove these from EXCEPTIONS"


def test_the_longest_of_two_equal_names_counts():
    source = "class A:\n    def f(self):\n        pass\nclass B:\n    def f(self): ...\n"
    assert _sizes("a.py", source) == {
        "class": {"a.py A": 3, "a.py B": 2},
        "function": {"a.py f": 2},
        "module": {"a.py": 5},
    }
