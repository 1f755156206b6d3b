"""A short fit of a model of blocks on forked processes, sharded or not, and what it has saved."""

from __future__ import annotations

import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from tests.support.elastic_fit import Points
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import cairn
from cairn.lightning.fsdp.strategy import FSDP2Strategy
from cairn.store.catalog import Catalog
from cairn.writing.load import load


class Block(nn.Module):
    """A residual branch."""

    def __init__(self, dropout: float, width: int = 7) -> None:
        super().__init__()
        self.first, self.second, self.dropout = nn.Linear(6, width), nn.Linear(width, 6), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two layers make of the input."""
        return x + self.dropout(self.second(torch.tanh(self.first(x))))


class Net(LightningModule):
    """Two blocks between two layers; the dimensions are not multiples of the number of processes."""

    def __init__(
        self,
        dropout: float = 0.0,
        statistics: bool = False,
        hook: Callable[[Any], None] | None = None,
        width: int = 7,
    ) -> None:
        super().__init__()
        self.hook = hook
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 1)
        self.blocks = nn.ModuleList(Block(dropout, width) for _ in range(2))
        self.norm = nn.BatchNorm1d(6) if statistics else nn.LayerNorm(6)
        self.losses: list[float] = []
        self.num_calls = 0
        self._register_state_dict_hook(_count)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 4) to (batch, 1)."""
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x))

    def training_step(self, batch: Any) -> Tensor:
        """Return the mean squared error."""
        loss = (self(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()
        self.losses.append(loss.item())
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the same of the validation set."""
        loss = (self(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()
        self.log("val", loss, sync_dist=True, batch_size=len(batch[0]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Call the hook of a test."""
        if self.hook is not None:
            self.hook(checkpoint)

    def configure_optimizers(self) -> Any:
        """Return AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=0.05)


class ParallelNet(Net):
    """The same, with blocks that the processes of a tensor-parallel group compute together."""

    def configure_model(self) -> None:
        """Divide the first layer of each block by rows, and the second one by columns."""
        if not isinstance(self.blocks[0].first.weight, DTensor):
            plan = {"first": ColwiseParallel(), "second": RowwiseParallel()}
            for block in self.blocks:
                parallelize_module(block, self.device_mesh["tensor_parallel"], plan)


class HybridNet(Net):
    """The same, which two replicas of it have in shards."""

    def configure_model(self) -> None:
        """Shard the blocks and the rest among half of the processes."""
        if not isinstance(self.enter.weight, DTensor):
            names = ("replicate", "shard")
            mesh = init_device_mesh("cpu", (2, distributed.get_world_size() // 2), mesh_dim_names=names)
            for part in (*self.blocks, self):
                fully_shard(part, mesh=mesh)


def _count(module: nn.Module, *_: Any) -> None:
    if isinstance(module, Net):
        module.num_calls += 1


def fit(
    folder: Path, processes: int, strategy: str | dict[str, Any] = "auto", net: Any = None, **options: Any
) -> tuple[Trainer, Net]:
    """Fit in this process, one of `processes`, and go on from what is in the folder.

    Args:
        folder: Of the checkpoints.
        processes: Number of processes.
        strategy: Name of a strategy, or the arguments of an `FSDP2Strategy`.
        net: Arguments of the model, and its class as `kind`.
        **options: Further arguments of the trainer.
    """
    seed_everything(0)
    saving = cairn.Checkpointer(
        folder / "checkpoints", every=2, keep_last=-1, monitor="val", watchdog="off", **options.pop("saving", {})
    )
    common = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    common |= {"num_sanity_val_steps": 1, "max_epochs": 2, "val_check_interval": 2, "gradient_clip_val": 0.5}
    chosen = FSDP2Strategy(**strategy) if isinstance(strategy, dict) else strategy
    options = {**common, "default_root_dir": folder, "callbacks": [saving], **options}
    trainer = Trainer(devices=processes, strategy=chosen, **options)
    on_meta = isinstance(strategy, dict) and strategy.get("meta_init") and trainer.global_rank > 0
    with torch.device("meta" if on_meta else "cpu"):
        model = (net or {}).get("kind", Net)(**{key: value for key, value in (net or {}).items() if key != "kind"})
    if trainer.global_rank > 0:  # only rank 0's weights and buffers count
        seed_everything(trainer.global_rank)
    loaders = [cairn.DataLoader(Points(size), 4, global_batch_size=12, shuffle=size == 48) for size in (48, 12)]
    trainer.fit(model, *loaders, ckpt_path=saving.resume())
    return trainer, model


def start(folder: Path, processes: int, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """Fit on new processes; return what each of them has seen.

    Raises:
        RuntimeError: One of them has failed; with its error.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forks = multiprocessing.get_context("fork")
    queue: Any = forks.Queue()
    work: Callable[[int], Any] = lambda rank: _facts(*fit(folder, processes, *arguments, **options))  # noqa: E731
    started = [forks.Process(target=_rank, args=(queue, rank, processes, port, work)) for rank in range(processes)]
    for process in started:
        process.start()
    found = dict(queue.get(timeout=100) for _ in started)
    for process in started:
        process.join()
    if errors := [found[rank]["error"] for rank in sorted(found) if "error" in found[rank]]:
        raise RuntimeError("; ".join(errors))
    return [found[rank] for rank in range(processes)]


def saved(folder: Path) -> dict[str, Any]:
    """Return what the newest checkpoint holds of the training, in one plain dict."""
    directory = folder / "checkpoints"
    contents = load(directory / Catalog(directory).committed()[-1].name)
    return {name: contents[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops")}


def _rank(queue: Any, rank: int, processes: int, port: int, work: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The checkpoint was saved by .* not be bit-identical")
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    try:
        found = work(rank)
    except BaseException as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    queue.put((rank, found))
    queue.close()
    queue.join_thread()
    os._exit(0)  # nothing of the tests ends here


def _facts(trainer: Trainer, net: Net) -> dict[str, Any]:
    calls = net.num_calls
    return {
        "losses": net.losses,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "calls": calls,
        "weights": {
            name: whole.full_tensor().tolist()
            for name, whole in net.named_parameters()
            if hasattr(whole, "full_tensor")
        },
        "rows": [len(part.to_local()) for part in net.parameters() if hasattr(part, "to_local")],
    }
