"""How long training pauses for a save of two DDP ranks, with a single file and with a shard of each rank.

Both ways alternate in fresh runs on this machine, with the same model, data and saves. Shown is what the slower rank
pauses: from the decision to save until both ranks train on, as each of them measures it around its save.

    python -m benchmarks.shards [--megabytes N] [--saves N] [--rounds R] [--ranks P] [--dir DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import cairn
from cairn.lightning.save import Saving

_WIDTH = 1024
_BYTES_PER_LAYER = 3 * 4 * _WIDTH * _WIDTH
"""Parameters and the two moments of Adam."""


class Net(LightningModule):
    """Layers of 12 MB each, with their moments; a batch takes a few milliseconds."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(num_layers)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.layers(batch[0]).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-4)


def run(folder: Path, rank: int, ranks: int, port: int, sharded: bool, num_layers: int, num_saves: int) -> None:
    """Train on one rank, and write down how long each of its saves has paused it.

    Args:
        folder: For checkpoints and results.
        rank: This rank.
        ranks: Number of ranks.
        port: Where they meet.
        sharded: Each rank writes a shard.
        num_layers: Size of the model.
        num_saves: How often to save.
    """
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    pauses: list[float] = []
    save = Saving.save

    def timed(*given: Any) -> None:
        started = time.perf_counter()
        save(*given)
        pauses.append(time.perf_counter() - started)

    Saving.save = timed  # type: ignore[method-assign, assignment]
    seed_everything(0, verbose=False)
    saving = cairn.Checkpointer(
        folder / "checkpoints",
        every=2,
        triggers={"end": None},
        writing=cairn.Writing(when_busy="wait", sharded=sharded),
        audit="off",
        watchdog="off",
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp",
        max_steps=2 * num_saves + 1,
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    data = TensorDataset(torch.randn(8 * ranks * (2 * num_saves + 1), _WIDTH))
    trainer.fit(Net(num_layers), cairn.DataLoader(data, batch_size=8))
    (folder / f"{rank}.json").write_text(json.dumps(pauses))
    os._exit(0)


def pauses(folder: Path, ranks: int, sharded: bool, num_layers: int, num_saves: int) -> list[float]:
    """Return the pause of the slower rank at each save but the first, in seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    started = [
        fork.Process(target=run, args=(folder, rank, ranks, port, sharded, num_layers, num_saves))
        for rank in range(ranks)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return [max(of_ranks) for of_ranks in zip(*found, strict=True)][1:]


def main(argv: Sequence[str]) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--saves", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--dir", default=None)
    options = parser.parse_args(argv)
    num_layers = max(1, options.megabytes * 1_000_000 // _BYTES_PER_LAYER)
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(options.rounds):
        for sharded in (False, True) if number % 2 == 0 else (True, False):
            folder = Path(tempfile.mkdtemp(dir=options.dir))
            found[sharded] += pauses(folder, options.ranks, sharded, num_layers, options.saves)
            shutil.rmtree(folder)
    size = num_layers * _BYTES_PER_LAYER / 1e6
    print(f"{options.ranks} ranks, {size:.0f} MB, pause in ms: lowest, median of {len(found[True])} saves")
    for sharded, name in ((False, "single file"), (True, "shards")):
        low, mid = min(found[sharded]), statistics.median(found[sharded])
        print(f"  {name:12} {1e3 * low:8.1f} {1e3 * mid:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
