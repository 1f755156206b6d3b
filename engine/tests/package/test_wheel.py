"""`pip install cairn-checkpoint` into an environment without Hydra, W&B, submitit and matplotlib."""

import json
import re
import zipfile

import pytest
from tests.support.package import base_environment, build_wheel, run_in
from tests.support.paths import ENGINE
from tests.support.values import commit

import cairn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    return base_environment(tmp_path_factory.mktemp("installed") / "env", wheel)


def _files_of_the_library():
    sources = ENGINE / "src"
    files = (path.relative_to(sources) for path in sources.rglob("*") if path.is_file())
    return {f.as_posix() for f in files if not re.search(r"__pycache__|\.egg-info", f.as_posix())}


def test_the_wheel_holds_every_file_of_the_library_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    extra = {name for name in files if ".dist-info/" in name}
    assert files - extra == _files_of_the_library()
    assert {"cairn/py.typed", "cairn/__main__.py"} <= files
    assert {name.partition("/")[2] for name in extra} >= {"METADATA", "entry_points.txt", "licenses/LICENSE"}


def test_the_wheel_has_the_version_of_the_library(wheel):
    assert wheel.name == f"cairn_checkpoint-{cairn.__version__}-py3-none-any.whl"


@pytest.mark.parametrize(
    "name", ["hydra", "omegaconf", "wandb", "submitit", "matplotlib", "dotenv", "safetensors", "onnx", "pytest"]
)
def test_the_environment_lacks_what_only_an_extra_needs(environment, name):
    script = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is not None)"
    run_in(environment, script=script)


def test_importing_the_library_imports_no_torch(environment):
    output = run_in(environment, script="import sys, cairn; print('torch' in sys.modules, cairn.__file__)").stdout
    torch_is_imported, file = output.split()
    assert torch_is_imported == "False"
    assert file.startswith(str(environment))


def test_every_public_name_works_with_the_base_dependencies(environment):
    run_in(environment, script="import cairn\nfor name in cairn.__all__: getattr(cairn, name)")


@pytest.mark.parametrize("command", [["cairn"], ["python", "-m", "cairn"]], ids=" ".join)
def test_the_command_prints_its_version(environment, command):
    assert run_in(environment, *command, "--version").stdout.strip() == f"cairn {cairn.__version__}"


@pytest.mark.parametrize("command", [["cairn"], ["python", "-m", "cairn"]], ids=" ".join)
def test_the_command_lists_the_checkpoints_of_a_directory(environment, command, tmp_path):
    saved = [commit(tmp_path, number) for number in range(2)]
    table = run_in(environment, *command, "ls", str(tmp_path)).stdout
    assert "interval" in table
    listed = json.loads(run_in(environment, *command, "ls", "--json", str(tmp_path)).stdout)
    assert saved[1].name in json.dumps(listed)
