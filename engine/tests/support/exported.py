"""Models and data for tests of exports, and checkpoints that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from tests.support.values import draft, file_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cairn.lightning.load_model import load_model
from cairn.store.commit import CommitPlan, write
from cairn.targets import build
from cairn.types import Saved

HERE = __name__


class Net(LightningModule):
    """A small network with a buffer; `token` stands for a secret argument."""

    def __init__(self, width: int = 3, token: str | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class WithExample(Net):
    """Brings its own example."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(width)
        self.example_input_array = torch.ones(4, width)


class Tied(WithExample):
    """The last layer has the weight of the first one; outputs are nested."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.last = nn.Linear(3, 3, bias=False)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"out": self.last(self.first(x)), "more": (x * 2, None)}


class TakesDict(Net):
    """Takes what a tokenizer returns, by name."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.net(x) if scale is None else self.net(x) * scale


class FixedBatch(WithExample):
    """Computes with the size of the batch it was traced with."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * float(x.sum() > 0) if len(x) > 3 else self.net(x)


class Counting(WithExample):
    """Keeps a number that a file of tensors cannot hold."""

    def get_extra_state(self) -> Any:
        return {"count": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class Restless(WithExample):
    """Returns something else each time."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x) + self.calls


class Pairs(LightningDataModule):
    """Pairs (x, label) for a test; `kind` chooses how a batch looks."""

    def __init__(self, rows: int = 6, kind: str = "pairs", password: str = "") -> None:
        super().__init__()
        self.rows, self.kind = rows, kind

    def setup(self, stage: str) -> None:
        assert stage == "test"
        x = torch.randn(self.rows, 3, generator=torch.Generator().manual_seed(0))
        self.test_set = TensorDataset(x, torch.zeros(self.rows))

    def test_dataloader(self) -> Any:
        collate = {"pairs": None, "dict": lambda items: {"x": torch.stack([x for x, _ in items]), "y": 1}}[self.kind]
        return DataLoader(self.test_set, batch_size=4, collate_fn=collate)


def spec(kind: type, /, **arguments: Any) -> dict[str, Any]:
    """The node of a class of this module."""
    return {"_target_": f"{HERE}.{kind.__name__}", **arguments}


def committed(
    folder: Path, model: dict[str, Any], data: Any = None, number: int = 0, config: Any = None, **facts: Any
) -> Path:
    """Commit the checkpoint of a run with this model and these data, whose weights are random; return its path.

    `config` is added to the configuration of the run, and `facts` to the manifest.
    """
    torch.manual_seed(number)
    weights = build(model).state_dict()
    for value in weights.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.uniform_(0.1, 1.0)
    position = draft(number).position
    stored = {"task_name": "toy", "model": model, "data": data, "logger": {"wandb": {"api_key": "0123456789abcdef"}}}
    ours = {"run": "0a1b2c3d", "config": {**stored, **(config or {})}, "position": dict(vars(position))}
    folder.mkdir(parents=True, exist_ok=True)
    provenance = {"world_size": 1, "seed": 5, "git": "abc123+", "torch": "2.13.0", "cairn": "0.2.0"}
    plan = CommitPlan(folder, draft(number, monitor="val/loss", **facts), provenance)
    saved: Saved = write(plan, file_of({"state_dict": weights, "cairn": ours})).saved
    return folder / saved.name


def outputs(path: Path, x: Tensor) -> Any:
    """What the model of a checkpoint, or of an exported folder, returns."""
    with torch.no_grad():
        return load_model(path)(x)


class WithVocabulary(WithExample):
    """Keeps a value in its checkpoint that is not in the state_dict; without it, forward raises an error."""

    vocabulary: list[float] | None = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.vocabulary = [float(checkpoint["cairn"]["position"]["batch"])]

    def forward(self, x: Tensor) -> Tensor:
        assert self.vocabulary is not None, "no vocabulary"
        return self.net(x) + self.vocabulary[0]


class Demanding(WithExample):
    """Cannot be built without a token."""

    def __init__(self, token: str | None) -> None:
        if token is None:
            raise LookupError("a token is needed")
        super().__init__()
