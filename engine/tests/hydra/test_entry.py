"""The decorator of the function in train.py: what happens before Hydra composes and torch is imported."""

import os
import pickle
import subprocess
import sys

import cloudpickle
import pytest
from tests.support.paths import PYTHONPATH, ROOT

from cairn.hydra.entry import Task, export_sources


@pytest.mark.parametrize(
    ("on_path", "inherited", "expected"),
    [
        (["{root}/engine/src", "{root}/src", "{root}"], "", ["{root}/engine/src", "{root}/src"]),
        (["{root}/src", "/other/src"], "/other/src", ["{root}/src", "/other/src"]),
        (["{root}/src"], "/a:{root}/src:/b", ["{root}/src", "/a", "/b"]),
        (["{root}/.venv/lib/python3.11/site-packages", "/usr/lib/python3.11"], "", []),
    ],
)
def test_other_processes_import_the_packages_of_this_project(tmp_path, monkeypatch, on_path, inherited, expected):
    def placed(path):
        return path.replace("{root}", str(tmp_path))

    monkeypatch.setattr(sys, "path", list(map(placed, on_path)))
    monkeypatch.setenv("PYTHONPATH", placed(inherited))
    export_sources(tmp_path)
    assert os.environ["PYTHONPATH"] == os.pathsep.join(map(placed, expected))


def test_the_task_is_pickled_into_a_job_without_the_module_of_the_script():
    """submitit loads it in a process whose `__main__` is another one."""
    namespace = {"__name__": "__main__"}
    exec("from __future__ import annotations\ndef body(run: missing.Run) -> float:\n    return run + 1", namespace)
    loaded = pickle.loads(cloudpickle.dumps(Task(namespace["body"])))
    assert loaded.__wrapped__(1) == 2


def test_importing_the_entry_imports_no_torch():
    code = "import sys, cairn.hydra; cairn.hydra.main; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": PYTHONPATH}, cwd=ROOT, check=True)
