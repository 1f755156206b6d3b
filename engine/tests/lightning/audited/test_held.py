"""A counter of our own loader does not hold an attribute of the user that has its name or its value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from tests.lightning.audited.test_audit import Net, Pairs, messages

import cairn
from cairn.lightning.audited import held


class Counted(Pairs):
    def __init__(self) -> None:
        super().__init__()
        self.epoch = self.shown = 0


class Counts(Callback):
    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        trainer.train_dataloader.dataset.dataset.shown += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.train_dataloader.dataset.dataset.epoch += 1


@pytest.mark.parametrize(("stop", "named"), [(2, "Counted.shown"), (3, "Counted.epoch")])
def test_counters_of_the_loader_are_not_those_of_the_user(stop: int, named: str, tmp_path: Path) -> None:
    assert any(named in text for text in messages(tmp_path, Net(), (Counts(),), Counted(), max_steps=stop))


class Order:
    """A sampler that saves its state."""

    def __init__(self) -> None:
        self.stride = 1

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Any:
        return iter([number * self.stride % 12 for number in range(12)])

    def state_dict(self) -> dict[str, Any]:
        return {"stride": self.stride}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stride = state["stride"]


def test_the_state_of_a_sampler_in_our_loader_holds_what_it_saves() -> None:
    order = Order()
    loader = cairn.DataLoader(Pairs(), batch_size=4, sampler=order, seed=0)
    iter(loader)
    order.stride = 5
    contents = {"state_dict": {}, "loops": {"fit_loop": {"state_dict": {"combined_loader": [loader.state_dict()]}}}}
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(Net())
    assert held.holds(contents, (order, "stride"), 5, trainer)
    for name in ("epoch", "batch", "seed"):
        assert not held.holds(contents, (order, name), 7, trainer)
