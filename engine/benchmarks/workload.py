"""What is trained: models with a state (weights and Adam's moments) of known size, on synthetic text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cairn.targets import build

PROJECT = next((Path(__file__).resolve().parents[2] / "src").glob("*/__init__.py")).parent.name  # `make rename`
VOCAB_SIZE = 256  # bytes
WIDTH = 16  # numbers in one of the many small tensors
TEXT_BYTES = 4_000_000  # no run comes to the end of an epoch


class ManyTensors(nn.Module):
    """A bigram model whose matrix is cut into very many small parameters.

    Args:
        num_tensors: Number of parameters, each float32 (16,); Adam adds two tensors and a counter to each.
    """

    def __init__(self, num_tensors: int) -> None:
        super().__init__()
        self.pieces = nn.ParameterList(nn.Parameter(0.02 * torch.randn(WIDTH)) for _ in range(num_tensors))
        self.width = num_tensors * WIDTH // VOCAB_SIZE

    def forward(self, tokens: Tensor) -> Tensor:
        """Map int64 (batch, length) to logits (batch, length, 256)."""
        table = torch.cat(list(self.pieces))[: VOCAB_SIZE * self.width].view(VOCAB_SIZE, self.width)
        return nn.functional.linear(table[tokens], table)


@dataclass(frozen=True)
class Size:
    """A model and its batches; a batch is short compared with the time to write the state."""

    name: str
    net: Mapping[str, Any]
    """Specification of the network."""
    batch_size: int
    seq_len: int
    least_interval: int = 4
    """Fewest batches between two saves: even small files take their writer some batches."""
    most_saves: int | None = None
    """Most saves in a window: some peers take half a minute to save many small tensors."""
    optimizer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_gpt(self) -> bool:
        """True for a GPT; False for the model of many small tensors."""
        return self.net["_target_"].endswith("GPT")


def _gpt(name: str, num_layers: int, embed_dim: int, batch_size: int = 1, seq_len: int = 32) -> Size:
    net = {
        "_target_": f"{PROJECT}.models.gpt.GPT",
        "vocab_size": VOCAB_SIZE,
        "seq_len": seq_len,
        "num_layers": num_layers,
        "num_heads": 4,
        "embed_dim": embed_dim,
    }
    return Size(name, net, batch_size, seq_len)


def _many(name: str, num_tensors: int) -> Size:
    # foreach: one call for all tensors. The default on the CPU, a loop over them, would be most of the batch.
    net = {"_target_": "benchmarks.workload.ManyTensors", "num_tensors": num_tensors}
    return Size(name, net, batch_size=4, seq_len=32, least_interval=10, most_saves=3, optimizer={"foreach": True})


SIZES = {
    size.name: size
    for size in (
        _gpt("tiny", num_layers=2, embed_dim=64),  # for the tests: 1 MB
        _gpt("0.1", num_layers=5, embed_dim=384, batch_size=4),
        _gpt("0.5", num_layers=24, embed_dim=384),  # as many tensors as a deep model has
        _gpt("1.5", num_layers=40, embed_dim=512),
        _gpt("4", num_layers=28, embed_dim=1024, batch_size=8, seq_len=256),  # for a GPU
        _many("tensors", num_tensors=20_000),
    )
}
"""Sizes by the gigabytes of the state; `tensors` is small but has 60,000 tensors, not counting step counters."""


def write_text(path: Path) -> Path:
    """Write random bytes as the text to train on."""
    if not path.exists():
        seeded = torch.Generator().manual_seed(0)
        numbers = torch.randint(VOCAB_SIZE, (TEXT_BYTES,), generator=seeded, dtype=torch.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numbers.numpy().tobytes())
    return path


def optimizer_spec(size: Size) -> dict[str, Any]:
    """Return the optimizer's part of the model's configuration."""
    return {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-4, **size.optimizer}


def overrides(size: Size, text: Path) -> list[str]:
    """Return overrides for the same model and data in this repository's `train.py`."""
    return [
        "model=gpt",
        "~model.net",
        f"+model.net={_hydra(size.net)}",
        "~model.optimizer",
        f"+model.optimizer={_hydra(optimizer_spec(size))}",
        "model.scheduler=null",
        "data=text",
        f"data.files={text}",
        f"data.cache_dir={text.parent}/cache",
        f"data.batch_size={size.batch_size}",
        f"data.seq_len={size.seq_len}",
    ]


def model(size: Size) -> Any:
    """The LightningModule."""
    module = import_module(f"{PROJECT}.models.language_model")
    torch.manual_seed(0)
    return module.LanguageModel(build(size.net), build(optimizer_spec(size)))


def data(size: Size, text: Path) -> Any:
    """The datamodule."""
    module = import_module(f"{PROJECT}.data.text")
    return module.Text(str(text), f"{text.parent}/cache", size.batch_size, seq_len=size.seq_len)


def state_tensors(size: Size) -> list[Tensor]:
    """Return tensors with the shapes of weights and moments, without step counters (4 bytes each)."""
    return [torch.rand(parameter.shape) for parameter in model(size).parameters() for _ in range(3)]


def num_state_bytes(tensors: list[Tensor]) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _hydra(spec: Mapping[str, Any]) -> str:
    values = {key: str(value).lower() if isinstance(value, bool) else value for key, value in spec.items()}
    return "{" + ",".join(f"{key}:{value}" for key, value in values.items()) + "}"
