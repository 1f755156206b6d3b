"""`prove=true` with the real command: kills, resumes, a verdict and an exit code."""

import json

import pytest
from tests.support.command import Process
from tests.support.paths import ROOT

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
    found = proved(tmp_path, "--stops=4", "--epochs=2", "--batches=4", expect=0)
    assert found["exact"] is True
    assert [stop["equal"] for stop in found["stops"]] == [True] * 4
    assert {stop["where"] for stop in found["stops"]} >= {"last batch of an epoch", "first batch of an epoch"}
    assert (found["epochs"], found["batches"]) == (2, 8)
    assert any("wandb is left out" in item for item in found["not_covered"])


def test_all_planted_faults_are_named(tmp_path):
    faults = ["Counter", "NeedsStart"]
    more = [f"+callbacks.{name}._target_=tests.support.faults.{name}" for name in faults]
    found = proved(tmp_path, *more, "--stops=2", "--batches=4", expect=1)
    named = {item["name"] or item["what"] for stop in found["stops"] for item in stop["differences"]}
    assert found["exact"] is False
    assert "Counter.count" in named
    assert any("AttributeError: 'NeedsStart' object has no attribute 'begun'" in text for text in named)


def test_a_run_that_refuses_to_train_exits_with_2(tmp_path):
    found = proved(tmp_path, "data.batch_size=0", expect=2)
    assert found["exact"] is None
    assert "batch_size" in found["error"]
