"""`predict=true` and `eval=CHECKPOINT`: predictions that survive a kill, and tests of any checkpoint on any data."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.command import QUICK, start, train

import cairn

KILL = "+callbacks.kill._target_=tests.support.callbacks.KillAt"
RUN = [*QUICK, "model=mlp", "seed=3", "trainer.max_epochs=1", "data.batch_size=16", "predict=true", KILL]
EVAL = ["logger=csv", "callbacks=none", "trainer.enable_progress_bar=false"]


def files(run: Path) -> dict[str, bytes]:
    (folder,) = (run / "predictions").iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def evaluation(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    return found


@pytest.mark.slow
def test_predictions_and_tests_of_a_checkpoint(tmp_path: Path) -> None:
    whole, killed, other, again = (tmp_path / name for name in ("whole", "killed", "other", "again"))
    output = train(whole, *RUN)
    assert "Predictions: " in output
    predicted = cairn.load_predictions(whole)
    assert predicted.shape == (270, 10)

    start(killed, *RUN, CAIRN_TEST_KILL="predict:12").end(-9)
    with pytest.raises(RuntimeError, match="is not complete: 2 of 4 parts are there"):
        cairn.load_predictions(killed)
    assert "holds 2 parts: they are not predicted again" in train(killed, *RUN)
    assert torch.equal(cairn.load_predictions(killed), predicted)
    ours, theirs = files(whole), files(killed)
    assert ours.keys() == theirs.keys()
    # The plan names the checkpoint, whose digest is that of another run.
    assert all(ours[name] == theirs[name] for name in ours if name != "predictions.json")

    ranks = [*EVAL, f"eval={whole}", "predict=true", "trainer=ddp_sim", KILL]
    assert start(again, *ranks, CAIRN_TEST_KILL="predict:5@1").wait() != 0, "rank 1 has died, and rank 0 reports it"
    train(again, *ranks)
    assert torch.equal(cairn.load_predictions(again), predicted), "two processes, and the same parts"
    found = evaluation(again)
    assert found["checkpoint"]["path"] == str((whole / "checkpoints" / "best.ckpt").resolve())
    assert found["checkpoint"]["run"] == json.loads((whole / "run.json").read_text())["id"]
    assert f"test/acc {found['metrics']['test/acc']:.4g}" in output

    train(other, *EVAL, "trainer=cpu", f"eval={whole / 'checkpoints' / 'last.ckpt'}", "data=digits")
    found = evaluation(other)
    assert (found["seed"], found["data"]["batch_size"], found["data"]["seed"]) == (3, 64, 3)
    assert "mlp" in found["model"]["net"]["_target_"]
    assert not (other / "run.json").exists(), "resume=latest does not find it"
    output = train(None, *EVAL, f"eval={whole}", "model=cnn", expect=1)
    assert "eval= takes the model of the checkpoint: leave out model=" in output
