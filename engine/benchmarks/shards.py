"""How long training pauses for a save of two DDP ranks, with a single file and with a shard of each rank.

Both ways alternate in fresh runs on this machine, with the same model, data and saves. Shown is the slower rank: its
pause, from the decision to save until it trains on, and the part of it that is the copy of the state. On a busy machine
the pause is mostly the time for which ranks wait for each other. The first two saves, which compare the ranks, are left
out.

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
from cairn.lightning.saves import Saves

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
    pauses, copies = _timed(Saving, "save"), _timed(Saves, "copy")
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
    copies += [0.0] * (len(pauses) - len(copies))  # only rank 0 copies for a single file
    (folder / f"{rank}.json").write_text(json.dumps(list(zip(pauses, copies, strict=True))))
    os._exit(0)


def _timed(owner: type, name: str) -> list[float]:
    """Let a method note how long each call takes, in seconds."""
    method, taken = getattr(owner, name), []

    def timed(*given: Any) -> Any:
        started = time.perf_counter()
        found = method(*given)
        taken.append(time.perf_counter() - started)
        return found

    setattr(owner, name, timed)
    return taken


def pauses(folder: Path, ranks: int, sharded: bool, num_layers: int, num_saves: int) -> list[tuple[float, float]]:
    """Return pause and copy of the slower rank at each save but the first two, in seconds."""
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
    saves = list(zip(*found, strict=True))[2:]
    return [(max(pause for pause, _ in ranks_of), max(copy for _, copy in ranks_of)) for ranks_of in saves]


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
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number in range(options.rounds):
        for sharded in (False, True) if number % 2 == 0 else (True, False):
            folder = Path(tempfile.mkdtemp(dir=options.dir))
            found[sharded] += pauses(folder, options.ranks, sharded, num_layers, options.saves)
            shutil.rmtree(folder)
    size = num_layers * _BYTES_PER_LAYER / 1e6
    print(f"{options.ranks} ranks, {size:.0f} MB, {len(found[True])} saves; ms, lowest and median")
    for sharded, name in ((False, "single file"), (True, "shards")):
        columns = [
            f"{what} {1e3 * min(values):6.1f} {1e3 * statistics.median(values):6.1f}"
            for what, values in zip(("pause", "copy"), zip(*found[sharded], strict=True), strict=True)
        ]
        print(f"  {name:12} {'   '.join(columns)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
