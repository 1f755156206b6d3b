"""No source of the library or of the project loads a file in a way that could run code from it."""

import ast
import json

import pytest
from tests.support.paths import ENGINE, ROOT

FOLDERS = [ENGINE / "src", ENGINE / "benchmarks", ROOT / "src", ROOT / "scripts", ROOT / "tests"]
SOURCES = sorted([*(path for folder in FOLDERS for path in folder.rglob("*.py")), *ROOT.glob("*.py")])
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
UNPICKLING = {"pickle_load", "read_pickle", "load_pickle", "unpickle", "Unpickler", "_Unpickler"}
"""Names of functions that unpickle, whatever module they come from, and of classes that do."""
INERT = ENGINE / "src" / "cairn" / "hydra" / "sweep" / "result_file.py"
"""The only reader of a pickle: nothing that the pickle names is looked up."""
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
        elif isinstance(node, ast.ClassDef):
            found += [(node.lineno, f"class {node.name}") for base in node.bases if _last(base) in UNPICKLING]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"import {alias.name}") for alias in node.names if alias.name in UNPICKLING]
    return found


def _last(node):
    return _dotted(node).rpartition(".")[2]


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
    is_loader = name.startswith(("torch.jit.load", "torch.hub.load", "torch.package."))
    unpickles = owner.split(".")[0] in UNPICKLERS and method in {"load", "loads", "open"}
    if is_loader or unpickles or method in UNPICKLING:
        yield f"{name}()"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_unsafe_load(path):
    found = violations(path.read_text())
    assert [what for _, what in found] == (["class _Reader"] if path == INERT else [])


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
        ("from submitit.core.utils import pickle_load", 1),
        ("submitit.core.utils.pickle_load(f)", 1),
        ("pickle_load(f)", 1),
        ("utils.pickle_load(f)", 1),
        ("pandas.read_pickle(f)", 1),
        ("class R(pickle.Unpickler): pass", 1),
        ("class R(pickle._Unpickler): pass", 1),
        ("pickle.Unpickler(f).load()", 1),
        ("torch.jit.load(f)", 1),
        ("torch.hub.load(f, 'x')", 1),
        ("np.load(f, allow_pickle=True)", 1),
    ],
)
def test_the_guard_itself(source, expected):
    assert len(violations(source)) == expected
