"""`prove=true` with the real command: kills, resumes, a verdict and an exit code."""

import json
import os
import signal
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.support.command import Process, wait_for
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


def processes_with(environment):
    """Command lines of the processes that have this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if environment.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:  # of another user, or it has ended
            continue
    return found


@pytest.fixture
def folder():
    """Directory for temporary files, with a name that is short enough for sockets in it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name).resolve()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("command", "send", "number", "code"),
    [
        ([*COMMAND[:1], "prove=true"], os.killpg, signal.SIGINT, 130),
        (["-m", "cairn", "prove"], os.kill, signal.SIGTERM, 143),
    ],
)
def test_a_signal_ends_a_proof_and_leaves_nothing(folder, command, send, number, code):
    given = [*COMMAND[3:], "data.num_workers=1", "trainer.max_epochs=2", f"paths.log_dir={folder}/logs"]
    process = Process([*command, *given], fresh=True, TMPDIR=str(folder))
    assert wait_for(lambda: any(folder.glob("cairn-prove-*/*/checkpoints/*.json")), process, 120)
    send(process.pid, number)
    send(process.pid, number)  # once more, while the runs are ended
    process.wait()
    assert processes_with(f"TMPDIR={folder}") == []
    lines = process.end(code).splitlines()
    assert lines[1:] == [f"Stopped by {number.name}: the runs were ended without a verdict."], lines
    assert list(folder.iterdir()) == []


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


def test_a_run_of_two_processes_is_proved_on_both(answer):
    """A fault on rank 1 alone is found. Lightning starts that process itself."""
    fault = "+callbacks.rank._target_=tests.support.faults.CountOfRankOne"
    code, found = answer("trainer=ddp_sim", "model.net.dropout=0", fault, "--stops=1", "--batches=3", "--epochs=1")
    assert (code, found["exact"]) == (1, False)
    (stop,) = found["stops"]
    assert stop["differences"][0]["name"] == "torch on rank 1"
    assert "attributes and states of callbacks on other ranks than 0, if there are several" in found["not_covered"]


def test_a_run_that_refuses_to_train_exits_with_2(answer):
    code, found = answer("data.batch_size=0")
    assert (code, found["exact"]) == (2, None)
    assert "batch_size" in found["error"]
