"""`import cairn`: the public names, where they come from, and what importing costs."""

import ast
import os
import subprocess
import sys
from importlib import import_module

import pytest
from tests.support.paths import ENGINE

import cairn

TREE = ast.parse((ENGINE / "src" / "cairn" / "__init__.py").read_text())


def _imports_for_type_checkers():
    """{name: module} of the imports below `if TYPE_CHECKING`."""
    blocks = [n for n in TREE.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {alias.name: node.module for block in blocks for node in block.body for alias in node.names}


def test_the_public_names_are_sorted_and_unique():
    assert cairn.__all__ == sorted(set(cairn.__all__))


def test_type_checkers_and_python_see_the_same_names():
    lazy = {name: f"cairn.{module}" for name, module in cairn._MODULES.items()}
    assert lazy == _imports_for_type_checkers()
    assert {*lazy, "__version__"} == set(cairn.__all__)
    assert list(lazy) == sorted(lazy)


@pytest.mark.parametrize("name", sorted(cairn._MODULES))
def test_a_public_name_resolves_to_the_module_that_defines_it(name):
    value = getattr(cairn, name)
    assert value is getattr(import_module(f"cairn.{cairn._MODULES[name]}"), name)
    assert value.__module__ == f"cairn.{cairn._MODULES[name]}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cairn' has no attribute 'Checkpoint'"):
        cairn.Checkpoint  # noqa: B018
    assert set(cairn.__all__) <= set(dir(cairn))


def test_import_cairn_imports_neither_torch_nor_any_other_package():
    code = "import sys; old = set(sys.modules); import cairn; print(*{m.split('.')[0] for m in set(sys.modules) - old})"
    environment = {**os.environ, "PYTHONPATH": str(ENGINE / "src")}
    output = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert set(output.stdout.split()) - set(sys.stdlib_module_names) == {"cairn"}


def test_the_room_of_the_mirror_is_an_attribute_after_import_cairn(monkeypatch):
    monkeypatch.delattr(cairn, "remote", raising=False)  # another test has imported it
    assert cairn.remote.Mirror is import_module("cairn.remote.mirror").Mirror
    with pytest.raises(AttributeError, match=r"module 'cairn\.remote' has no attribute 'Mirrors'"):
        cairn.remote.Mirrors  # noqa: B018
