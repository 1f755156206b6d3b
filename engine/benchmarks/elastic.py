"""What `elastic="bits"` costs on two processes, side by side with plain DDP: `python -m benchmarks.elastic`.

Both are measured in the same processes in turn, so that their ratio holds on a busy machine as well.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, distributed

import cairn
from cairn.lightning.bits.exchange import scattered, summed
from cairn.lightning.bits.tree import Layout

PROCESSES, ROUNDS, STEPS, WARM_UP = 2, 15, 24, 4
GLOBAL_BATCH, BATCH = 16, 4
MEGABYTES = (4, 40)


def main() -> None:
    """Start the processes; the first one prints a table."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        started = [context.Process(target=_rank, args=(rank, port, folder)) for rank in range(PROCESSES)]
        for process in started:
            process.start()
        for process in started:
            process.join()


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES), "RANK": str(rank)}
    rows = _steps(Path(folder))  # Lightning opens the process group
    rows = [*_sums(rank), *rows]
    if rank == 0:
        print("| | plain, ms | tree, ms | ratio of medians |\n| --- | --- | --- | --- |")
        for name, plain, tree in rows:
            ratio = statistics.median(tree) / statistics.median(plain)
            print(f"| {name} | {_shown(plain)} | {_shown(tree)} | {ratio:.2f} |")
    distributed.barrier()


def _shown(times_s: list[float]) -> str:
    return f"{1000 * min(times_s):.1f} ({1000 * statistics.median(times_s):.1f})"


def _sums(rank: int) -> Iterable[tuple[str, list[float], list[float]]]:
    layout = Layout(PROCESSES, rank, PROCESSES)
    for megabytes in MEGABYTES:
        value = torch.rand(megabytes * 1_000_000 // 4)
        part = torch.empty(value.numel() // PROCESSES)

        def tree(exchange: Callable[[Any, Layout], Tensor], value: Tensor = value) -> None:
            exchange({(0, rank): value}, layout)

        def plain_scatter(value: Tensor = value, part: Tensor = part) -> None:
            distributed.reduce_scatter_tensor(part, value)

        def plain_reduce(value: Tensor = value) -> None:
            distributed.all_reduce(value.clone())

        plain, ours = _in_turn(plain_scatter, partial(tree, scattered))
        yield f"reduce-scatter, {megabytes} MB", plain, ours
        plain, ours = _in_turn(plain_reduce, partial(tree, summed))
        yield f"all-reduce, {megabytes} MB", plain, ours


def _in_turn(*calls: Callable[[], None]) -> list[list[float]]:
    """Return the times of each call, in seconds."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, found in zip(calls, times, strict=True):
            distributed.barrier()
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return times


class _Steps(Callback):
    """Measures the time from one step of the optimizer to the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_before_zero_grad(self, *args: Any) -> None:
        self.ends.append(time.perf_counter())


class _Net(LightningModule):
    """The template's language model of laptop size."""

    def __init__(self) -> None:
        super().__init__()
        sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
        from project.models.gpt import GPT

        self.gpt = GPT(seq_len=128, num_layers=4, num_heads=4, embed_dim=128, dropout=0.1)

    def training_step(self, batch: Tensor) -> Tensor:
        loss = torch.nn.functional.cross_entropy(self.gpt(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def _steps(folder: Path) -> list[tuple[str, list[float], list[float]]]:
    times: dict[str, list[float]] = {"samples": [], "bits": []}
    for attempt in range(2):
        for elastic, found in times.items():
            found += _fit(folder / f"{elastic}-{attempt}", elastic)
    name = f"a step of a GPT with 0.8 million parameters, {GLOBAL_BATCH // BATCH // PROCESSES} batches of {BATCH}"
    return [(name, times["samples"], times["bits"])]


def _fit(folder: Path, elastic: Any) -> list[float]:
    seed_everything(0, verbose=False)
    tokens: Any
    tokens, steps = torch.randint(0, 256, (GLOBAL_BATCH * STEPS, 129)), _Steps()
    saving = cairn.Checkpointer(folder, every=None, triggers={"end": None}, elastic=elastic, watchdog="off")
    trainer = Trainer(
        accelerator="cpu",
        devices=PROCESSES,
        strategy="ddp",
        max_epochs=1,
        logger=False,
        gradient_clip_val=1.0,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[steps, saving],
    )
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        trainer.fit(_Net(), cairn.DataLoader(tokens, BATCH, global_batch_size=GLOBAL_BATCH))
    ends = steps.ends[WARM_UP:]
    return [end - start for start, end in pairwise(ends)]


if __name__ == "__main__":
    main()
