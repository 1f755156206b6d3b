"""No source of the library or of the project loads a file in a way that could run code from it."""

import ast
import json

import pytest
from tests.support.paths import ENGINE, ROOT

FOLDERS = [ENGINE / "src", ENGINE / "benchmarks", ROOT / "src", ROOT / "scripts", ROOT / "tests"]
SOURCES = sorted([*(path for folder in FOLDERS for path in folder.rglob("*.py")), *ROOT.glob("*.py")])
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SAVING = {"dump_checkpoint", "save_checkpoint"}  # their weights_only says what to save; they read nothing
SWITCHES = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "add_safe_globals", "allow_pickle=True", "unsafe_load")


def _dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([*([node.id] if isinstance(node, ast.Name) else []), *reversed(parts)])


def violations(source):
    """Return what in this source could unpickle: (line, what)."""
    found = [(n, word) for n, line in enumerate(source.splitlines(), 1) for word in SWITCHES if word in line]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found += [(node.lineno, what) for what in _unsafe_call(node)]
    return found


def _unsafe_call(call):
    name = _dotted(call.func)
    owner, _, method = name.rpartition(".")
    if method in SAVING:
        return
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    weights_only = arguments.get("weights_only")
    safe = isinstance(weights_only, ast.Constant) and weights_only.value is True
    if weights_only is not None and not safe:
        yield f"{name}(weights_only={ast.unparse(weights_only)})"
    if (name == "torch.load" or method == "load_from_checkpoint") and weights_only is None:
        yield f"{name}() without weights_only=True"
    if owner.split(".")[0] in UNPICKLERS and method in {"load", "loads", "open", "Unpickler"}:
        yield f"{name}()"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_unsafe_load(path):
    assert violations(path.read_text()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_unsafe_load_in_a_notebook(path):
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    # Lines of IPython, such as "%matplotlib inline" or "!ls", are not Python.
    assert violations("\n".join(line for line in code.splitlines() if line[:1] not in "%!")) == []


def test_the_guard_finds_the_sources():
    assert {ENGINE / "src" / "cairn" / "errors.py", ROOT / "train.py", *(ROOT / "src").rglob("*.py")} <= set(SOURCES)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torch.load(f, weights_only=True)", 0),
        ("torch.load(f)", 1),
        ("torch.load(f, weights_only=False)", 1),
        ("torch.load(f, weights_only=flag)", 1),
        ("trainer.fit(m, weights_only=False)", 1),
        ("trainer.save_checkpoint(f, weights_only=False)", 0),
        ("Net.load_from_checkpoint(f)", 1),
        ("pickle.load(f)", 1),
        ("pickle.loads(b)", 1),
        ("json.load(f)", 0),
        ("np.load(f, allow_pickle=True)", 1),
    ],
)
def test_the_guard_itself(source, expected):
    assert len(violations(source)) == expected
