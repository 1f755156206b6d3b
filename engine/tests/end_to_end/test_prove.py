"""`prove=true` with the real command: kills, resumes, a verdict and an exit code."""

import json
from contextlib import nullcontext

import pytest
from tests.support.command import Process
from tests.support.paths import ROOT

from cairn.hydra import prove
from cairn.testing.fresh import FreshProcesses

pytestmark = pytest.mark.slow

COMMAND = [str(ROOT / "train.py"), "prove=true", "--json", "model=mlp", "trainer=cpu"]


def proved(folder, *arguments, expect, **env):
    """Run the command, and return its JSON."""
    logs = folder / "logs"
    process = Process([*COMMAND, f"paths.log_dir={logs}", *arguments], fresh=True, TMPDIR=str(folder), **env)
    output = process.end(expect)
    left = [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor")]
    assert left == [], "something was left behind"
    return json.loads(output[output.index("{") : output.rindex("}") + 1])


def test_the_template_is_exact(tmp_path):
    found = proved(tmp_path, "--stops=1", "--epochs=2", "--batches=2", expect=0)
    assert found["exact"] is True
    assert [stop["equal"] for stop in found["stops"]] == [True]
    assert (found["epochs"], found["batches"]) == (2, 4)
    assert any("wandb is left out" in item for item in found["not_covered"])


@pytest.fixture(scope="module")
def processes():
    """One process to fork all runs from, instead of two for each proof."""
    environment = {"PROJECT_ROOT": None, "OMP_NUM_THREADS": "1"}
    with FreshProcesses("cairn.hydra.run.proving", {"script": str(ROOT / "train.py")}, environment) as found:
        yield found, found


@pytest.fixture
def answer(monkeypatch, capsys, tmp_path, processes):
    """Prove with the shared processes; return the exit code and the JSON."""
    monkeypatch.setattr(prove, "_processes", lambda *_: nullcontext(processes))

    def answer(*arguments):
        code = prove.main(ROOT / "train.py", [*COMMAND[1:], f"paths.log_dir={tmp_path}", *arguments])
        return code, json.loads(capsys.readouterr().out)

    return answer


def test_all_planted_faults_are_named(answer):
    more = [f"+callbacks.{name}._target_=tests.support.faults.{name}" for name in ("Counter", "NeedsStart")]
    code, found = answer(*more, "--stops=1", "--batches=3", "--epochs=1")
    named = {item["name"] or item["what"] for stop in found["stops"] for item in stop["differences"]}
    assert (code, found["exact"]) == (1, False)
    assert "Counter.count" in named
    assert any("AttributeError: 'NeedsStart' object has no attribute 'begun'" in text for text in named)


def test_a_run_that_refuses_to_train_exits_with_2(answer):
    code, found = answer("data.batch_size=0")
    assert (code, found["exact"]) == (2, None)
    assert "batch_size" in found["error"]
