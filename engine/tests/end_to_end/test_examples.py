"""Each project in docs/examples, as it is: killed (-9) and started again, it ends like an undisturbed one."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.command import Process
from tests.support.equality import Outcome, differences, outcome
from tests.support.paths import ENGINE, TRANSFORMERS
from tests.support.trackers import require

EXAMPLES = ENGINE / "docs" / "examples"
RUNNER = str(ENGINE / "tests" / "support" / "run_example.py")
KILLS = {"plain": 75, "gan": 39, "lora": 40}
"""Batch before which an example is killed, in its second epoch or later. Then the same command starts it again."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""With these, a request to a server is an error."""


def run(name: str, folder: Path, expect: int = 0, **variables: str) -> str:
    """Run an example in a folder; its output."""
    command = [RUNNER, str(EXAMPLES / name / "train.py")]
    if is_lora := name == "lora":  # a fork cannot change its import path
        variables["PYTHONPATH"] = f"{os.environ['PYTHONPATH']}{os.pathsep}{TRANSFORMERS}"
    return Process(command, fresh=is_lora, cwd=folder, **OFFLINE, **variables).end(expect)


def results(folder: Path) -> Outcome:
    """Results of the run below a folder, without what depends on the disk: whether a save was dropped."""
    (found,) = (folder / "runs").iterdir()
    return replace(outcome(found, []), kept=[])


def doubts(output: str) -> list[str]:
    """Return the warnings about exactness, except two false alarms.

    One is about the callback that kills, which the resumed run lacks. The other is about the generator from which
    `datasets` draws names of fingerprints, on which no sample depends.
    """
    found = [line for line in output.splitlines() if "may not be exact" in line or "Training changes" in line]
    return [line for line in found if "KillAt" not in line and "datasets.fingerprint" not in line]


def lines_of_both(name: str, tmp_path: Path, number: int) -> list[list[str]]:
    """Compare a run that was killed with an undisturbed one, and return the last lines that both printed."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    run(name, killed, expect=-signal.SIGKILL, CAIRN_TEST_KILL=f"saved:{KILLS[name]}")
    outputs = [run(name, folder) for folder in (whole, killed)]
    assert differences(results(whole), results(killed)) == []
    assert [line for output in outputs for line in doubts(output)] == []
    return [output.splitlines()[-number:] for output in outputs]


def test_the_plain_example_has_twelve_lines_and_three_of_them_are_about_checkpoints():
    lines = (EXAMPLES / "plain" / "train.py").read_text().splitlines()
    code = [line for line in lines if line and not line.startswith(('"""', "#"))]
    assert len(code) == 12
    assert sum(any(word in line for word in ("Checkpointer", "cairn.DataLoader", "resume()")) for line in code) == 3


@pytest.mark.slow
def test_the_plain_example_ends_as_if_it_had_never_been_killed(tmp_path):
    whole, killed = lines_of_both("plain", tmp_path, 1)
    assert whole == killed
    assert whole[0].startswith("best: epoch_")


@pytest.mark.slow
def test_the_gan_ends_as_if_it_had_never_been_killed(tmp_path):
    whole, killed = lines_of_both("gan", tmp_path, 8)
    assert whole == killed
    assert "#" in "".join(whole)


@pytest.mark.slow
def test_the_adapter_ends_as_if_it_had_never_been_killed_and_its_checkpoints_lack_the_base(tmp_path):
    require("datasets")
    require("transformers", "peft", folder=TRANSFORMERS, file="engine/tests/transformers.txt")
    lines_of_both("lora", tmp_path, 1)
    runs = [tmp_path / name / "runs" / "lora" for name in ("whole", "killed")]
    names = list(torch.load(runs[1] / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert names
    assert all("lora_" in name for name in names)
    whole, killed = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in runs]
    assert whole == killed
