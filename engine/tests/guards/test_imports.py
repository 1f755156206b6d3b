"""The arrows between the rooms of the library."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter

import pytest
from packaging.requirements import Requirement
from tests.support.paths import ENGINE

from cairn.lightning.versions import SUPPORTED_LIGHTNING

SOURCES = ENGINE / "src"
PACKAGE = "cairn"
PACKAGE_DIR = SOURCES / PACKAGE
MODULES = sorted(PACKAGE_DIR.rglob("*.py"))
LEAVES = "types errors units known_directory"
DOORS = "opening records bounded_yaml"
"""Modules through which the rooms read files that may come from other people."""
ARROWS = {
    "errors": "",
    "types": "",
    "units": "",
    "opening": "",
    "records": "",
    "bounded_yaml": "",
    "known_directory": "",
    "streams": "",
    "extras": "",
    "helper_process": "",
    "targets": "errors",
    "whitelist": "targets errors",
    "policy": LEAVES,
    "store": f"policy {LEAVES} {DOORS}",
    "uploads": f"store {LEAVES} {DOORS}",
    "writing": f"extras helper_process store policy {LEAVES} {DOORS}",
    "dcp": "writing store errors",
    "account": f"policy {LEAVES} {DOORS}",
    "data": "errors",
    "jobs": f"errors {DOORS}",
    "predictions": f"writing store {LEAVES} {DOORS}",
    "lightning": f"helper_process predictions remote writing account store policy jobs data targets {LEAVES} {DOORS}",
    "trackers": f"uploads store {LEAVES} {DOORS}",
    "wandb": f"trackers uploads store {LEAVES} {DOORS}",
    "mlflow": f"extras trackers uploads store {LEAVES} {DOORS}",
    "trackio": f"extras trackers store {LEAVES} {DOORS}",
    "remote": f"uploads extras store policy {LEAVES} {DOORS}",
    "run": f"remote store account jobs {LEAVES} {DOORS}",
    "search": f"extras store policy {LEAVES} {DOORS}",
    "export": f"lightning run remote writing store data targets whitelist {LEAVES} {DOORS}",
    "study": f"run store account policy {LEAVES} {DOORS}",
    "overview": f"run store account {LEAVES} {DOORS}",
    "cli": "streams extras export overview study run wandb trackers remote uploads writing store policy account jobs "
    f"{LEAVES} {DOORS}",
    "testing": f"lightning writing store account {LEAVES} {DOORS}",
    "hydra": "streams extras predictions testing lightning wandb mlflow trackio trackers remote jobs search run data "
    f"store account policy writing targets whitelist {LEAVES} {DOORS}",
}
"""What each room may import of the others."""
ROOMS_INSIDE = {
    "lightning": {
        "loops": "agreement versions",
        "reading": "loops",
        "audited": "reading",
        "bits": "clipping loops reading saved used",
        "saved": "audited loops reading",
        "settings": "loops reading saved",
        "logs": "",
        "fsdp": "clipping io saved used",
        "checks": "agreement collect fsdp loops policy reading saved",
    },
    "study": {"search": "cells html picture"},
    "writing": {"sharded": "decode encode form_encoder forms subclasses"},
    "hydra": {
        "configs": "",
        "sweep": "",
        "search": "command compose sweep",
        "command": "sweep",
        "compose": "command",
        "parse": "command instantiate sweep",
        "schema": "command",
        "run": "command command_line compose parse schema",
    },
}
"""What each room inside a room may import of the rooms and modules next to it."""
EXTERNAL = {
    "errors": "",
    "types": "",
    "units": "",
    "opening": "",
    "records": "",
    "bounded_yaml": "yaml",
    "known_directory": "",
    "streams": "",
    "extras": "",
    "helper_process": "",
    "targets": "torch",
    "whitelist": "",
    "policy": "",
    "store": "isal",
    "uploads": "",
    "writing": "numpy safetensors torch",
    "dcp": "torch",
    "account": "",
    "data": "lightning numpy torch",
    "jobs": "",
    "lightning": "lightning numpy torch torchmetrics",
    "predictions": "numpy torch",
    "trackers": "lightning",
    "wandb": "lightning torch wandb yaml",
    "mlflow": "lightning mlflow",
    "trackio": "huggingface_hub lightning trackio",
    "remote": "boto3 botocore obstore",
    "run": "rich yaml",
    "export": "lightning onnx onnxruntime torch yaml",
    "search": "optuna",
    "study": "matplotlib optuna rich yaml",
    "overview": "",
    "cli": "dotenv rich yaml",
    "testing": "lightning numpy rich torch",
    "hydra": "dotenv hydra hydra_plugins lightning numpy omegaconf rich submitit torch yaml",
}
"""The packages of others that each room may import."""
EXTRAS = {
    *("dotenv", "huggingface_hub", "hydra", "hydra_plugins", "matplotlib", "mlflow", "obstore", "omegaconf", "onnx"),
    *("optuna", "safetensors", "submitit", "trackio", "wandb"),
}
"""Packages that only an extra installs."""
USED_IF_THERE = {"boto3", "botocore", "onnxruntime"}
"""Packages that are used where the user has installed them."""
NAMES = {"PyYAML": "yaml"}
"""The import name of a distribution, where it differs."""
LIGHT = ["hydra.command_line", "hydra.entry", "hydra.parse.settings", "run.directory", "overview.table", "cli.main"]
"""What runs before a training, or without one: `--help`, a refusal and a listing do not wait for torch."""
_LOOPS = "boundary connector counters dealing epoch_loop evaluation_loop finders fit_loop parts whole_means"
_OTHERS = ("restart", "saved/sums", "bits/logged")
BOUNDARY = {f"lightning/{name}.py" for name in (*(f"loops/{name}" for name in _LOOPS.split()), *_OTHERS)}
"""Where Lightning's private names may be used."""
PURE = {"policy/when.py", "policy/keep.py", "policy/auto.py", "policy/pause.py", "account/meter.py"}
"""Decisions that import nothing but the standard library and the values they are about."""


def _relative(path):
    return path.relative_to(PACKAGE_DIR).as_posix()


def _unit(path):
    """The folder or module directly below the package: what the arrows are drawn between."""
    return path.relative_to(PACKAGE_DIR).parts[0].removesuffix(".py")


@cache
def imports(path, source=None):
    """All absolute names that the file imports, also inside functions: `from a import b` gives a.b."""
    names = []
    for node in ast.walk(ast.parse(source or path.read_text())):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            names += (f"{base}.{alias.name}" for alias in node.names)
    return tuple(names)


def _absolute(path, node):
    if not node.level:
        return node.module
    package = [PACKAGE, *path.relative_to(PACKAGE_DIR).parts[:-1]]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _own_units(path):
    """The units of this package that the file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith(f"{PACKAGE}.")}


def _arrows():
    return {(_unit(path), unit) for path in MODULES for unit in _own_units(path)} - {
        (unit, unit) for unit in map(_unit, MODULES)
    }


def test_the_rooms_import_only_what_they_may():
    allowed = {(room, other) for room, others in ARROWS.items() for other in others.split()}
    found = {(room, other) for room, other in _arrows() if room in ARROWS and not other.startswith("__")}
    assert found - allowed == set()


def _places_inside(room):
    """{module or room in a room: the others in it that it imports, also inside functions}."""
    found = {}
    for path in (path for path in MODULES if _unit(path) == room and path != PACKAGE_DIR / room / "__init__.py"):
        place = path.relative_to(PACKAGE_DIR).parts[1].removesuffix(".py")
        names = (name.split(".") for name in imports(path) if name.startswith(f"{PACKAGE}.{room}."))
        found.setdefault(place, set()).update(parts[2] for parts in names)
    return {place: others & set(found) - {place} for place, others in found.items()}


@pytest.mark.parametrize("room", ROOMS_INSIDE)
def test_the_rooms_inside_a_room_import_only_what_they_may(room):
    allowed = {(place, other) for place, others in ROOMS_INSIDE[room].items() for other in others.split()}
    found = {(place, other) for place, others in _places_inside(room).items() for other in others}
    assert {arrow for arrow in found if arrow[0] in ROOMS_INSIDE[room]} - allowed == set()


@pytest.mark.parametrize("room", ROOMS_INSIDE)
def test_nothing_inside_a_room_imports_in_a_circle(room):
    TopologicalSorter(_places_inside(room)).prepare()  # names a circle, if there is one


def test_every_room_inside_a_room_has_its_arrows():
    inside = {(_unit(path), path.parent.name) for path in MODULES if path.parent.parent.parent == PACKAGE_DIR}
    assert inside == {(room, place) for room, places in ROOMS_INSIDE.items() for place in places}


def _external():
    """(room, package) for every import of a package that is neither ours nor in the standard library."""
    packages = ((_unit(path), name.split(".")[0]) for path in MODULES for name in imports(path))
    return {(room, package) for room, package in packages if package not in {PACKAGE, *sys.stdlib_module_names}}


def test_each_room_imports_only_the_packages_it_may():
    allowed = {(room, package) for room, packages in EXTERNAL.items() for package in packages.split()}
    assert {found for found in _external() if not found[0].startswith("__")} - allowed == set()


def test_the_base_dependencies_are_those_that_the_library_imports():
    project = tomllib.loads((ENGINE / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert {NAMES.get(name, name) for name in declared} == {
        package for _, package in _external()
    } - EXTRAS - USED_IF_THERE


def test_pip_and_the_library_support_the_same_lightning():
    project = tomllib.loads((ENGINE / "pyproject.toml").read_text())["project"]
    (requirement,) = (Requirement(text) for text in project["dependencies"] if text.startswith("lightning"))
    series = [f"2.{minor}" for minor in range(20) if requirement.specifier.contains(f"2.{minor}.99")]
    assert tuple(series) == SUPPORTED_LIGHTNING


def _imported_modules(path):
    """The modules of the library that a file imports when it is imported itself."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (base := _absolute(path, node) or "").startswith(PACKAGE):
            for alias in node.names:
                yield from (name for name in (f"{base}.{alias.name}", base) if name in _files())
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in _files())


@cache
def _files():
    return {".".join(path.relative_to(SOURCES).with_suffix("").parts): path for path in MODULES}


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: sorted(set(_imported_modules(path)) - {name}) for name, path in _files().items()}
    TopologicalSorter(graph).prepare()  # names a circle, if there is one


def test_every_room_has_its_arrows():
    assert {_unit(path) for path in MODULES} - {"__init__", "__main__", "py"} <= set(ARROWS)


def test_what_comes_before_a_run_imports_no_torch():
    names = [f"{PACKAGE}.{name}" for name in LIGHT]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_DIR.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_start_does_not_import_what_only_a_proof_needs():
    heavy = f"{{'rich', '{PACKAGE}.testing.proof'}}"
    code = f"import sys, {PACKAGE}.hydra.entry; sys.exit(bool({heavy} & {{*sys.modules}}))"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_DIR.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("name", sorted(PURE))
def test_policies_import_values_only(name):
    names = set(imports(PACKAGE_DIR / name))
    assert {n for n in names if n.split(".")[0] not in {PACKAGE, *sys.stdlib_module_names}} == set()
    assert {n.split(".")[1] for n in names if n.split(".")[0] == PACKAGE} <= {"policy", *LEAVES.split()}


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


@pytest.mark.parametrize("client", ["mlflow", "trackio", "wandb"])
def test_only_one_room_imports_the_client_of_a_tracker(client):
    assert {_unit(path) for path in MODULES for name in imports(path) if name.split(".")[0] == client} == {client}


def test_only_one_module_imports_the_client_of_object_stores():
    found = {_relative(path) for path in MODULES for name in imports(path) if name.split(".")[0] == "obstore"}
    assert found == {"remote/opened.py"}


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
    found = list(imports(PACKAGE_DIR / "store" / "x.py", source))
    assert found == [
        f"{PACKAGE}.store.types",
        f"{PACKAGE}.data.sampler",
        f"{PACKAGE}.store.types.Position",
    ]
