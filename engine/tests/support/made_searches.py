"""Makes directories of searches with known figures, as a sweeper leaves them, without training."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCHES = 15
"""Batches of an epoch."""
PARAMETERS = {
    "model.optimizer.lr": {"kind": "float", "low": 1e-4, "high": 0.1, "log": True},
    "model.net.dropout": {"kind": "float", "low": 0.0, "high": 0.5, "step": None, "log": False},
    "model": {"kind": "choice", "choices": ["mlp", "cnn"]},
}


def value(parameters: dict[str, Any], epochs: float) -> float:
    """Return the loss of a trial after some epochs: the learning rate decides most, and 0.01 is the best."""
    distance = (math.log10(parameters["model.optimizer.lr"]) + 2) ** 2
    worse = 0.02 * (parameters["model"] == "cnn") + 0.05 * parameters["model.net.dropout"]
    return 0.02 + 0.1 * distance + worse + 0.5 / (1 + epochs)


def drawn(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the parameters of some trials."""
    source = random.Random(seed)
    return [
        {
            "model.optimizer.lr": 10 ** source.uniform(-4, -1),
            "model.net.dropout": source.uniform(0, 0.5),
            "model": source.choice(["mlp", "cnn"]),
        }
        for _ in range(number)
    ]


def record(num_trials: int = 9, rungs: Sequence[int] = (1, 3, 9), eta: int = 3, seed: int = 0) -> dict[str, Any]:
    """Return the record of a finished search by successive halving, with rungs in epochs."""
    trials = [
        {
            "number": number,
            "directory": f"trial={number}",
            "parameters": parameters,
            "state": "stopped",
            "bracket": 0,
            "rungs": [],
            "full_batches": rungs[-1] * BATCHES,
        }
        for number, parameters in enumerate(drawn(num_trials, seed))
    ]
    left, before, minute = trials, 0, 0
    for rung, epochs in enumerate(rungs):
        for trial in left:
            minute += 1
            trial["rungs"].append(
                {
                    "rung": rung,
                    "score": value(trial["parameters"], epochs),
                    "epoch": epochs,
                    "batches": (epochs - before) * BATCHES,
                    "total_batches": epochs * BATCHES,
                    "finished_at": f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00.123456+00:00",
                }
            )
        left = sorted(left, key=lambda trial: trial["rungs"][-1]["score"])[: len(left) // eta]
        before = epochs
    for trial in trials:
        if trial["rungs"][-1]["rung"] == len(rungs) - 1:
            trial["state"] = "finished"
    return {
        "format": 1,
        "sweeper": "halving",
        "state": "finished",
        "command": ["model.optimizer.lr=tag(log, interval(1e-4, 0.1))"],
        "metric": "val/loss",
        "mode": "min",
        "sampler": "random",
        "seed": seed,
        "eta": eta,
        "schedule": "halving",
        "rungs": [f"{epochs}ep" for epochs in rungs],
        "parameters": PARAMETERS,
        "trials": trials,
    }


def search_directory(path: Path, found: dict[str, Any], curves: bool = True) -> Path:
    """Write the record of a search, and the metrics of its trials.

    Args:
        path: Directory of the sweep.
        found: The record.
        curves: Write the metrics.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "sweep.json").write_text(json.dumps(found))
    for trial in found["trials"] if curves else ():
        write_metrics(path / trial["directory"], trial)
    return path


def write_metrics(run: Path, trial: dict[str, Any]) -> None:
    """Write the metrics of a trial: a row of training every five steps, and one of validation after each epoch."""
    done = trial["rungs"][-1]["total_batches"] if trial["rungs"] else 0
    (run / "csv").mkdir(parents=True, exist_ok=True)
    with open(run / "csv" / "metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss_step", "val/loss"])
        for step in range(done):
            if step % 5 == 4:
                writer.writerow([step // BATCHES, step, 1.0, ""])
            if step % BATCHES == BATCHES - 1:
                epochs = (step + 1) / BATCHES
                writer.writerow([step // BATCHES, step, "", value(trial["parameters"], epochs)])
