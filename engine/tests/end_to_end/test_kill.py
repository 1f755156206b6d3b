"""Kills (-9) of the real command line: a resumed run ends exactly like an undisturbed one."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from tests.support.callbacks import recorded
from tests.support.command import QUICK, RECORD, newest, start, train, wait_for
from tests.support.equality import Outcome, differences, outcome

from cairn.store.catalog import Catalog

pytestmark = pytest.mark.slow

DIGITS = [
    "data.augment=true",
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=50",
    "trainer.max_epochs=12",
    "trainer.val_check_interval=0.25",
    "checkpoint.save_interval=7",
]
GPT = [
    "experiment=gpt",
    "model.net.num_layers=1",
    "model.net.embed_dim=32",
    "data.seq_len=32",
    "data.num_workers=1",
    "data.files=configs/**/*.yaml",
    "trainer.max_steps=120",
    "trainer.val_check_interval=25",
    "trainer.limit_val_batches=2",
    "trainer.accumulate_grad_batches=2",
    "checkpoint.save_interval=10",
]
COMMANDS = {"digits": DIGITS, "gpt": GPT}
PLACES = {
    "digits": ["fsync:9", "fsync:10", "replace:8", "validation:5"],
    "gpt": ["fsync:11", "replace:7", "unlink:12"],
}


@pytest.fixture(scope="module", params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def command(name: str) -> list[str]:
    # `wait`, because otherwise the speed of the disk determines which checkpoints there are.
    return [*QUICK, *COMMANDS[name], "checkpoint.when_busy=wait", RECORD]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(run, *command)
    return outcome(run, recorded(run))


def test_kills_at_random_moments(command: list[str], whole: Outcome, tmp_path: Path) -> None:
    rng, run, kills = random.Random(len(command)), tmp_path / "run", 0
    for _ in range(5):
        before, process = newest(run), start(run, *command)
        # At any moment after this process has begun to train, perhaps inside a save.
        if wait_for(lambda before=before: newest(run) != before, process):
            time.sleep(rng.uniform(0, 0.5))
            kills += process.poll() is None
        process.kill()
    train(run, *command)
    assert kills >= 2
    assert differences(whole, outcome(run, recorded(run))) == []


def test_kills_inside_a_save_and_a_validation(name: str, command: list[str], whole: Outcome, tmp_path: Path) -> None:
    run, before = tmp_path / "run", ""
    for place in PLACES[name]:
        train(
            run,
            *command,
            "+callbacks.kill._target_=tests.support.callbacks.KillAt",
            expect=-signal.SIGKILL,
            CAIRN_TEST_KILL=place,
        )
        before = _check_not_older(run, before)
    train(run, *command, "+callbacks.kill._target_=tests.support.callbacks.KillAt")
    assert differences(whole, outcome(run, recorded(run))) == []


def _check_not_older(run: Path, before: str) -> str:
    saved, rejected = Catalog(run / "checkpoints").newest_intact()
    assert saved is not None, rejected
    assert saved.name >= before
    last = run / "checkpoints" / "last.ckpt"
    assert last.exists(), "last.ckpt never dangles"
    return saved.name
