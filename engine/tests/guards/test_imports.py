"""The arrows between the modules: train -> run -> {checkpoint, data, models, ...}, and nothing sideways.

The folders of the package are the siblings; the modules beside them compose them.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
(PACKAGE_DIR,) = (path.parent for path in (ROOT / "src").glob("*/__init__.py"))
PACKAGE = PACKAGE_DIR.name
MODULES = sorted(PACKAGE_DIR.rglob("*.py"))
FOLDERS = {path.name for path in PACKAGE_DIR.iterdir() if (path / "__init__.py").exists()}
ENTRIES = {"run", "cli", "command", "job"}  # what train.py and `python -m` may call
LIGHT = [
    "command",
    "job",
    "config",
    "rundir",
    "cli",
]  # what runs before the run, or without one: --help, a refusal and a listing should not wait for torch
BOUNDARY = {"checkpoint/loop.py", "checkpoint/sums.py"}  # where Lightning's private names may be used
PURE = {  # the policies, and what of ours each may import
    "checkpoint/schedule.py": {"types", "pace"},
    "checkpoint/retention.py": {"types"},
    "checkpoint/pace.py": {"types"},
    "checkpoint/meter.py": {"types"},
}


def _relative(path):
    return path.relative_to(PACKAGE_DIR).as_posix()


def _unit(path):
    """The folder or module directly below the package: what the arrows are drawn between."""
    return path.relative_to(PACKAGE_DIR).parts[0].removesuffix(".py")


def imports(path, source=None):
    """All absolute names that the file imports, also inside functions: `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source or path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(path, node):
    if not node.level:
        return node.module
    package = [PACKAGE, *path.relative_to(PACKAGE_DIR).parts[:-1]]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _own_units(path):
    """The units of this package that the file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith(f"{PACKAGE}.")}


def test_train_imports_only_the_composition_root():
    ours = {name for name in imports(ROOT / "train.py") if name.split(".")[0] == PACKAGE}
    assert ours, "train.py should import the package"
    assert {name.split(".")[1] for name in ours} <= ENTRIES


@pytest.mark.parametrize("path", [p for p in MODULES if _unit(p) in FOLDERS], ids=_relative)
def test_a_folder_imports_nothing_of_ours_but_itself_and_the_root_of_errors(path):
    assert _own_units(path) - {_unit(path), "errors"} == set()


@pytest.mark.parametrize("path", [p for p in MODULES if _unit(p) not in {*ENTRIES, "__main__"}], ids=_relative)
def test_nobody_but_an_entry_point_knows_the_composition_root(path):
    assert "run" not in _own_units(path)


def test_what_comes_before_a_run_imports_no_torch():
    names = [f"{PACKAGE}.{name}" for name in LIGHT]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_DIR.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("name", PURE)
def test_policies_import_values_only(name):
    allowed = {PACKAGE, *sys.stdlib_module_names}
    names = set(imports(PACKAGE_DIR / name))
    assert {n for n in names if n.split(".")[0] not in allowed} == set()
    ours = {n.removeprefix(f"{PACKAGE}.checkpoint.").split(".")[0] for n in names if n.split(".")[0] == PACKAGE}
    assert ours - PURE[name] == set()


def private_uses(path, source=None):
    """Names of Lightning that start with one underscore: what an update may change without a word."""
    source = source or path.read_text()
    for name in imports(path, source):
        parts = name.split(".")
        if parts[0] in {"lightning", "pytorch_lightning"} and any(map(_is_private, parts)):
            yield name
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and _last_name(node.value) == "trainer":
            yield f"{ast.unparse(node)} (line {node.lineno})"


def _is_private(name):
    return name.startswith("_") and not name.startswith("__")


def _last_name(node):
    return getattr(node, "attr", getattr(node, "id", ""))


@pytest.mark.parametrize("path", [p for p in MODULES if _relative(p) not in BOUNDARY], ids=_relative)
def test_only_the_boundary_knows_private_names(path):
    assert list(private_uses(path)) == []


@pytest.mark.parametrize("path", [p for p in MODULES if _relative(p) != "checkpoint/tracking.py"], ids=_relative)
def test_only_the_tracker_imports_wandb(path):
    assert [name for name in imports(path) if name.split(".")[0] == "wandb"] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("trainer._results", 1),
        ("self.trainer._checkpoint_connector.restore()", 1),
        ("trainer.fit_loop.epoch_loop", 0),
        ("self._trainer", 0),
        ("trainer.__class__", 0),
        ("from lightning.pytorch.utilities import _x", 1),
        ("def f():\n    import lightning.pytorch.loops._y", 1),
        ("from lightning.pytorch import Trainer", 0),
    ],
)
def test_the_guard_sees_private_names(source, expected):
    assert len(list(private_uses(PACKAGE_DIR / "x.py", source))) == expected


def test_the_guard_sees_relative_imports():
    source = "from . import types\nfrom ..data import sampler\nfrom .types import Position"
    found = list(imports(PACKAGE_DIR / "checkpoint" / "x.py", source))
    assert found == [
        f"{PACKAGE}.checkpoint.types",
        f"{PACKAGE}.data.sampler",
        f"{PACKAGE}.checkpoint.types.Position",
    ]
