"""Each wrong input ends with one sentence that says what to do, and with exit code 1; `-s` prints them all."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
from tests.support.command import QUICK, train

pytestmark = pytest.mark.slow

INTERVALS = "give a number of batches such as 50 or '50ba', or '100st'"

# Overrides, in which {files} is the folder of the fixture `files`, and a part of the sentence.
BEFORE_TRAINING = {
    "interval 0": (["checkpoint.save_interval=0"], f"save_interval=0 must be more than 0: {INTERVALS}"),
    "interval -5": (["checkpoint.save_interval=-5"], f"save_interval=-5 is not an interval: {INTERVALS}"),
    "interval abc": (["checkpoint.save_interval=abc"], f"save_interval='abc' is not an interval: {INTERVALS}"),
    "interval in parsecs": (["checkpoint.save_interval='10 parsecs'"], "'10 parsecs' is not an interval"),
    "mode": (["checkpoint.mode=upward"], "checkpoint.mode='upward' must be min"),
    "monitor": (
        ["checkpoint.monitor=val/f1"],
        "'val/f1' is not logged by a valid.* is logged: val/acc, val/loss",
    ),
    "no validation": (
        ["trainer.limit_val_batches=0"],
        "but trainer.limit_val_batches=0 disables them: set checkpoint=interval",
    ),
    "keep_last": (["checkpoint.keep_last=-2"], "checkpoint.keep_last=-2 must be a"),
    "max_failed_saves": (
        ["checkpoint.max_failed_saves=0"],
        "checkpoint.max_failed_saves=0 must be an integer from 1, or -1",
    ),
    "budget": (
        ["+checkpoint.keep.budget={_target_: cairn.policy.keep.WithinBytes, num_bytes: 2XB}"],
        "checkpoint.keep.budget.num_bytes: Invalid size '2XB': give bytes, or '500MB'",
    ),
    "artifacts": (
        ["checkpoint.artifacts.which=some"],
        "checkpoint.artifacts.which='some' must be all, best, final or none",
    ),
    "artifacts: every": (
        ["checkpoint.artifacts.every=0"],
        "checkpoint.artifacts.every=0 must be an integer from 1",
    ),
    "artifacts: wait": (
        ["checkpoint.artifacts.wait=soon"],
        "Invalid duration checkpoint.artifacts.wait='soon': give seconds",
    ),
    "artifacts: queue": (["checkpoint.artifacts.queue=2XB"], "checkpoint.artifacts.queue: Invalid size '2XB'"),
    "max_epochs": (["trainer.max_epochs=abc"], "trainer.max_epochs='abc' must be an integer"),
    "a wrong key": (["+trainer.max_epoch=3"], "trainer: .* unexpected keyword argument 'max_epoch'"),
    "a callback without a class": (
        ["+callbacks.mine.patience=3"],
        "callbacks.mine has no _target_: set it to the class",
    ),
    "a key of another framework": (["+trainer.epochs=3"], "trainer.max_epochs=N trains for N epochs"),
    "callbacks in the trainer": (
        ["+trainer.callbacks=[]"],
        "trainer.callbacks would have no effect: add a callback to",
    ),
    "logger in the trainer": (["+trainer.logger=false"], "trainer.logger would have no effect: choose the loggers"),
    "a key of another framework in the model": (["model.lr=3"], "here, model.optimizer.lr=X is the learning rate"),
    "a key in a wrong group": (["trainer.save_top_k=2"], "save_top_k is a key of checkpoint: checkpoint.save_top_k=2."),
    "no checkpoint directory": (["checkpoint.dirpath=null"], "checkpoint.dirpath=null must be a directory"),
    "a key without its group": (["max_epochs=3"], "max_epochs is a key of trainer: trainer.max_epochs=3."),
    "batch size": (["data.batch_size=0"], "data.batch_size=0 must be an integer from 1"),
    "glob": (["experiment=gpt", "data.files='{files}/*.txt'"], r"No file matches data.files=.*/\*.txt"),
    "resume: missing": (["resume={files}/gone"], "there is no such directory"),
    "resume: empty": (["resume={files}/empty"], "is not a run directory: it has no run.json"),
    "resume: foreign": (["resume={files}"], "is not a run directory: it has no run.json"),
    "resume: a file": (["resume={files}/text.ckpt"], "is a file: give its run directory, or start a new run"),
    "ckpt_path: missing": (["ckpt_path={files}/gone.ckpt"], "There is no checkpoint .*gone.ckpt"),
    "ckpt_path: a folder": (
        ["ckpt_path={files}"],
        "is a directory: name a checkpoint file in it. To continue a run, resume it",
    ),
    "ckpt_path: a dangling link": (
        ["ckpt_path={files}/dangling.ckpt"],
        "is a link to nowhere.ckpt, which does not exist",
    ),
    "ckpt_path: a text": (["ckpt_path={files}/text.ckpt"], "is not a checkpoint: torch.save did not write it"),
    "ckpt_path: code": (
        ["ckpt_path={files}/evil.ckpt"],
        r"is refused: it names posix\.mkdir, which could run code; .* weights alone can be taken: init_weights=FILE",
    ),
    "init_weights: code": (["init_weights={files}/evil.ckpt"], "is refused: it names posix.mkdir"),
    "init_weights: no file": (["init_weights_strict=false"], "has no effect without init_weights=FILE"),
    "ckpt_path: a pickle": (["ckpt_path={files}/evil.pkl"], "is not a checkpoint"),
    "ckpt_path: other keys": (
        ["ckpt_path={files}/other.ckpt"],
        "holds the weights of another model: .* is only in the .* and .* more",
    ),
    "ckpt_path: other shapes": (
        ["model=mlp", "ckpt_path={files}/shapes.ckpt"],
        r"holds the weights of another model: net.* is \(2,\) in the file and \(.*\) in the model",
    ),
    "test: other keys": (
        ["model=mlp", "train=false", "ckpt_path={files}/other.ckpt"],
        "holds the weights of another model",
    ),
    "init_weights: a text": (["init_weights={files}/text.ckpt"], "is not a checkpoint"),
    "both": (["ckpt_path=a", "init_weights=b"], "set only one of them"),
    "run directory": (["paths.log_dir={files}/text.ckpt"], "hydra.run.dir=.* cannot be written: Not a directory"),
    "checkpoint directory": (
        ["checkpoint.dirpath={files}/text.ckpt/inside"],
        "checkpoint.dirpath=.* cannot be written: Not a directory",
    ),
}


class Evil:
    """Object that creates a directory when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        from os import mkdir

        return mkdir, (str(self.folder / "it ran"),)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of files that a user may mistake for a checkpoint or a run."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "empty").mkdir()
    (folder / "text.ckpt").write_text("weights, honestly")
    (folder / "dangling.ckpt").symlink_to("nowhere.ckpt")
    torch.save({"state_dict": {}, "extra": Evil(folder)}, folder / "evil.ckpt")
    (folder / "evil.pkl").write_bytes(pickle.dumps({"state_dict": {}, "extra": Evil(folder)}))
    weights = {f"layer{number}.weight": torch.ones(2) for number in range(9)}
    torch.save({"state_dict": weights, "pytorch-lightning_version": "2.6.6"}, folder / "other.ckpt")
    return folder


@pytest.mark.parametrize("name", BEFORE_TRAINING)
def test_wrong_input_is_one_sentence_before_training_starts(name: str, files: Path, tmp_path: Path) -> None:
    overrides, expected = BEFORE_TRAINING[name]
    if name == "ckpt_path: other shapes":
        _copy_with_other_shapes(files)
    given = [override.replace("{files}", str(files)) for override in overrides]
    run = None if name == "run directory" else tmp_path / "run"
    output = train(run, *QUICK, "trainer.max_epochs=1", *given, expect=1)
    (sentence,) = [line for line in output.splitlines() if re.match(r"(Error: |\[ERROR\] )", line)]
    print(f"\n{' '.join(overrides)}\n    {sentence}")
    assert re.search(expected, sentence) or expected in sentence, sentence
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("metrics.csv")), "training has started"
    assert not (files / "it ran").exists()


def _copy_with_other_shapes(files: Path) -> None:
    run = files / "mlp"
    train(run, *QUICK, "model=mlp", "trainer.max_epochs=1", "test=false")
    contents = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    contents["state_dict"] = {name: torch.ones(2) for name in contents["state_dict"]}
    torch.save(contents, files / "shapes.ckpt")
