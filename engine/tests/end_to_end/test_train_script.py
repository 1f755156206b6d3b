"""A train.py with lines between the steps: the run still resumes exactly."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, Process, start
from tests.support.equality import Outcome, differences, outcome
from tests.support.forks import RANKS
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

SCRIPT = f'''
from __future__ import annotations

import cairn.hydra


class Scaled:
    """A class in the script, which submitit and DDP take along."""

    def __call__(self, value):
        return 2 * value


@cairn.hydra.main(config_path="{ROOT}/configs", config_name="train")
def main(run: cairn.hydra.Run) -> float | None:
    import torch
    from lightning.pytorch import Callback

    class Note(Callback):
        def on_train_end(self, trainer, pl_module):
            print(f"rank {{trainer.global_rank}} of a script of its own")

    data = run.data()
    data.prepare_data()
    data.setup("fit")
    images, _ = next(iter(data.train_dataloader()))
    print("a batch of", len(images))

    model = run.model()
    model.net = torch.nn.Sequential(model.net, torch.nn.Dropout(0.1))

    trainer = run.trainer(Note(), log_every_n_steps=3)
    trainer.validate(model, data, verbose=False)

    run.fit(trainer, model, data)
    (scores,) = trainer.validate(model, data, verbose=False)
    run.test(trainer, model, data)
    return Scaled()(scores["val/loss"])


if __name__ == "__main__":
    main()
'''
COMMAND = [
    *QUICK,
    RECORD,
    "trainer.max_epochs=4",
    "trainer.val_check_interval=0.5",
    "data.augment=true",
    "checkpoint.save_interval=3",
    "checkpoint.when_busy=wait",
]
KILL = "+callbacks.kill._target_=tests.support.callbacks.KillAt"
WAYS = {"one process": [], "two processes": ["trainer=ddp_sim"]}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("project") / "train.py"
    path.write_text(SCRIPT)
    return path


def launch(script: Path, run: Path, *overrides: str, **env: str) -> Process:
    """Start the script; with two processes, both are forked."""
    return start(run, *COMMAND, *overrides, script=script, cwd=script.parent, **{RANKS: "1", **env})


def everything(run: Path, num_ranks: int) -> Outcome:
    """Return the outcome of the run with the samples of all its processes."""
    return outcome(run, [batch for rank in range(num_ranks) for batch in recorded(run, rank)])


@pytest.mark.parametrize("way", WAYS)
def test_a_script_with_lines_between_the_steps_resumes_exactly(way: str, script: Path, tmp_path: Path) -> None:
    whole, run, num_ranks = tmp_path / "whole", tmp_path / "run", 1 + len(WAYS[way])
    output = launch(script, whole, *WAYS[way]).end()
    assert output.count("of a script of its own") == num_ranks, "every process executes the function"
    for moment in ("fsync:9", "validation:9"):
        launch(script, run, *WAYS[way], KILL, CAIRN_TEST_KILL=moment).end(-signal.SIGKILL)
    launch(script, run, *WAYS[way], KILL).end()
    assert differences(everything(whole, num_ranks), everything(run, num_ranks)) == []
    first, second = (json.loads((path / "run.json").read_text())["result"] for path in (whole, run))
    assert first == second > 0, "what the function returns is the result of the run"


def test_an_error_between_the_steps_is_recorded(script: Path, tmp_path: Path) -> None:
    broken, run = tmp_path / "train.py", tmp_path / "run"
    broken.write_text(SCRIPT.replace("    run.test(", "    raise ValueError('of my own')\n    run.test("))
    output = start(run, *COMMAND, "trainer.max_epochs=1", script=broken, cwd=tmp_path).end(1)
    assert "ValueError: of my own" in output
    assert "Newest checkpoint: epoch_000_batch_000020.ckpt. Resume with: " in output
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["why"]) == ("failed", "ValueError: of my own")
