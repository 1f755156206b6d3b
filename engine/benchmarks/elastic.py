"""What `elastic="bits"` costs on two processes, side by side with plain DDP and FSDP2: `python -m benchmarks.elastic`.

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
from torch.distributed.fsdp import fully_shard

import cairn
from cairn.lightning.bits import norm
from cairn.lightning.bits.exchange import gathered, scattered, summed
from cairn.lightning.bits.latest import LatestValues
from cairn.lightning.bits.sharded import Sum
from cairn.lightning.bits.tree import Layout
from cairn.lightning.bits.watched_shards import WatchedShards
from cairn.lightning.used import Used

_Row = tuple[str, list[float], list[float]]
"""What was measured, and times of both ways, in seconds."""

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
    steps = _steps(Path(folder))  # Lightning opens the process group
    tables = {"plain | bits": [*_sums(rank), *_shards(rank), *steps], "objects | numbers": [*_logged(rank)]}
    for head, rows in tables.items() if rank == 0 else ():
        print(f"| ms | {head} | ratio of medians |\n| --- | --- | --- | --- |")
        for name, plain, ours in rows:
            ratio = statistics.median(ours) / statistics.median(plain)
            print(f"| {name} | {_shown(plain)} | {_shown(ours)} | {ratio:.2f} |")
        print()
    distributed.barrier()


def _shown(times_s: list[float]) -> str:
    return f"{1000 * min(times_s):.1f} ({1000 * statistics.median(times_s):.1f})"


def _sums(rank: int) -> Iterable[_Row]:
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


def _shards(rank: int) -> Iterable[_Row]:
    """What FSDP2 does otherwise: its reduce-scatter, the norm, and a watch over the step of the optimizer."""
    layout = Layout(PROCESSES, rank, PROCESSES, in_turn=True)
    for megabytes in MEGABYTES:
        part = torch.nn.Linear(4, 4)
        fully_shard(part)
        ours = Sum(part, {id(one): name for name, one in part.named_parameters()}, layout, Used())
        sent = torch.rand(megabytes * 1_000_000 // 4)
        mine = torch.empty(sent.numel() // PROCESSES)

        def plain(mine: Tensor = mine, sent: Tensor = sent) -> None:
            distributed.reduce_scatter_tensor(mine, sent)

        def tree(ours: Sum = ours, mine: Tensor = mine, sent: Tensor = sent) -> None:
            ours.begin()
            ours.begin_batch(0)
            ours(mine, sent, None, None)
            ours.finish()

        yield _row(f"reduce-scatter of FSDP2, {megabytes} MB", plain, tree)
    layers = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(38)))
    fully_shard(layers)
    parameters = list(layers.parameters())
    for one in parameters:
        one.grad = torch.rand_like(one)
    gradients = [one.grad for one in parameters if one.grad is not None]
    torch_norm = partial(torch.nn.utils.get_total_norm, gradients)

    def plain_norm() -> None:
        found: Any = torch_norm()
        found.full_tensor().item()

    yield _row("norm of 40 MB of sharded gradients", plain_norm, lambda: norm.norm(gradients).item())
    whole = [one.full_tensor() for one in gradients]  # type: ignore[attr-defined]
    plain_norm_of_whole = partial(torch.nn.utils.get_total_norm, whole)
    yield _row("norm of 40 MB of whole gradients", plain_norm_of_whole, lambda: norm.norm(whole).item())
    optimizer = torch.optim.AdamW(parameters)

    def watched() -> None:
        with WatchedShards():
            optimizer.step()

    yield _row("AdamW on 40 MB of shards", optimizer.step, watched)


def _logged(rank: int) -> Iterable[_Row]:
    """What each global batch exchanges of values that `self.log` has on_step."""
    processes = Layout(PROCESSES, rank, PROCESSES)
    for number in (0, 1, 8):
        names = [f"value {place}" for place in range(number)]
        own = {virtual: {name: torch.rand(()) for name in names} for virtual in (2 * rank, 2 * rank + 1)}
        ours = LatestValues(processes, torch.device("cpu"))
        ours.extend([own], names)
        objects = partial(gathered, (own, names), processes)
        yield _row(f"{number} values of 2 batches", objects, partial(ours.exchange, own, names))


def _row(name: str, plain: Callable[[], Any], ours: Callable[[], Any]) -> _Row:
    of_plain, of_ours = _in_turn(plain, ours)
    return name, of_plain, of_ours


def _in_turn(*calls: Callable[[], Any]) -> list[list[float]]:
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


def _steps(folder: Path) -> list[_Row]:
    times = {(strategy, elastic): list[float]() for strategy in ("DDP", "FSDP2") for elastic in ("samples", "bits")}
    for attempt in range(2):
        for (strategy, elastic), found in times.items():
            chosen = "ddp" if strategy == "DDP" else cairn.FSDP2Strategy()
            found += _fit(folder / f"{strategy}-{elastic}-{attempt}", elastic, chosen)
    name = f"a step of a GPT with 0.8 million parameters, {GLOBAL_BATCH // BATCH // PROCESSES} batches of {BATCH}"
    return [
        (f"{strategy}: {name}", times[strategy, "samples"], times[strategy, "bits"]) for strategy in ("DDP", "FSDP2")
    ]


def _fit(folder: Path, elastic: Any, strategy: Any) -> list[float]:
    seed_everything(0, verbose=False)
    tokens: Any
    tokens, steps = torch.randint(0, 256, (GLOBAL_BATCH * STEPS, 129)), _Steps()
    saving = cairn.Checkpointer(folder, every=None, triggers={"end": None}, elastic=elastic, watchdog="off")
    trainer = Trainer(
        accelerator="cpu",
        devices=PROCESSES,
        strategy=strategy,
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
