"""Plain attributes that training changes and no checkpoint holds are named, and only those."""

from __future__ import annotations

import random
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import Dataset

import cairn
from cairn.errors import ConfigError
from cairn.lightning.reading import attributes, fingerprint


class Pairs(Dataset):
    """Data set of random pairs, which may have more state."""

    def __init__(self) -> None:
        self.x = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


class Net(LightningModule):
    """Linear model; `change` is called in each training step."""

    def __init__(self, change: Callable[[Net], None] = lambda net: None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["change"])
        self.layer, self._change = nn.Linear(4, 1), change
        self.temperature, self.step_times, self.bank = 1.0, [0.0], {"old": torch.zeros(3)}
        self.ema = [parameter.detach().clone() for parameter in self.layer.parameters()]
        self.queue: deque[float] = deque(maxlen=3)
        self.rng, self.python_rng, self.torch_rng = np.random.default_rng(0), random.Random(0), torch.Generator()
        self.teacher = [nn.Linear(4, 1)]  # in a list: not registered
        self.own_optimizer = torch.optim.Adam(self.teacher[0].parameters(), 0.1)
        self.helper = Helper()
        self.register_buffer("counted", torch.zeros(()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._change(self)
        self.counted += 1
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.layer.parameters(), 0.01)


class Helper:
    """Object that the module uses."""

    def __init__(self) -> None:
        self.seen = 0


def anneal(net: Net) -> None:
    net.temperature *= 0.9


def average(net: Net) -> None:
    for mean, parameter in zip(net.ema, net.layer.parameters(), strict=True):
        mean.lerp_(parameter.detach() + 1, 0.1)


def step_own_optimizer(net: Net) -> None:
    net.teacher[0](torch.ones(4)).sum().backward()
    net.own_optimizer.step()


def count(net: Net) -> None:
    net.helper.seen += 1


def create(net: Net) -> None:
    net.created = getattr(net, "created", 0) + 1


CHANGES: dict[str, Callable[[Net], Any]] = {
    "temperature": anneal,
    "ema": average,
    "step_times": lambda net: net.step_times.append(1.0),
    "bank": lambda net: net.bank["old"].add_(1),
    "queue": lambda net: net.queue.append(0.5),
    "rng": lambda net: net.rng.random(),
    "python_rng": lambda net: net.python_rng.random(),
    "torch_rng": lambda net: torch.rand(1, generator=net.torch_rng),
    "teacher": step_own_optimizer,
    "helper": count,
    "created": create,
}


def fit(
    run: Path, module: LightningModule, callbacks: tuple[Callback, ...] = (), data: Any = None, **options: Any
) -> cairn.Checkpointer:
    seed_everything(3, verbose=False)
    steps, epochs, every = options.pop("max_steps", -1), options.pop("max_epochs", 2), options.pop("every", 1)
    # `sync`: no save is dropped because the ones before are still written.
    checkpoints = cairn.Checkpointer(run / "checkpoints", every=every, writing=cairn.Writing(writer="sync"), **options)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(max_epochs=epochs, max_steps=steps, callbacks=[*callbacks, checkpoints], **quiet)
    loader = cairn.DataLoader(data or Pairs(), batch_size=4, shuffle=True, seed=0)
    trainer.fit(module, loader, ckpt_path=checkpoints.resume())
    return checkpoints


def messages(run: Path, *arguments: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(run, *arguments, **options)
    texts = [str(item.message) for item in caught]
    return [text for text in texts if text.startswith(("Training changes", "This resume may not be exact"))]


@pytest.mark.parametrize("name", CHANGES)
def test_an_attribute_that_training_changes_is_named_once_and_again_at_a_resume(name: str, tmp_path: Path) -> None:
    (first,) = messages(tmp_path, Net(CHANGES[name]), max_steps=2)
    assert f"Net.{name}" in first
    assert "register_buffer" in first
    (second, *_) = messages(tmp_path, Net(CHANGES[name]))
    assert second.startswith(f"This resume may not be exact: Net.{name} ")


def test_a_number_is_shown_with_both_values(tmp_path: Path) -> None:
    messages(tmp_path, Net(anneal), max_steps=2)
    (message, *_) = messages(tmp_path, Net(anneal))
    assert "Net.temperature is 1.0 and was 0.81." in message


def test_a_module_whose_attributes_do_not_change_says_nothing(tmp_path: Path) -> None:
    assert messages(tmp_path, Net(), max_steps=2) == []
    assert messages(tmp_path, Net()) == []


class Saving(Net):
    """Saves what it changes: under another name, and in an extra state."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["annealing"] = {"t": self.temperature}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.temperature = checkpoint["annealing"]["t"]

    def get_extra_state(self) -> dict[str, Any]:
        return {"seen": self.helper.seen, "helper": 0}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.helper.seen = state["seen"]


def test_what_the_module_saves_by_itself_is_not_reported(tmp_path: Path) -> None:
    def change(net: Net) -> None:
        anneal(net), count(net)

    assert messages(tmp_path, Saving(change), max_steps=2) == []
    assert messages(tmp_path, Saving(change)) == []


class Counts(Callback):
    """Counts batches, without a state."""

    def __init__(self) -> None:
        self.num_batches = 0

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.num_batches += 1


class SavesItsCount(Counts):
    """The same, with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"num_batches": self.num_batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_batches = state_dict["num_batches"]


class Epochs(Callback):
    """Counts epochs at their end: that is seen where an epoch ends."""

    def __init__(self) -> None:
        self.num_epochs = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.num_epochs += 1


@pytest.mark.parametrize(
    ("callback", "name"),
    [(Counts, "Counts.num_batches"), (SavesItsCount, ""), (Epochs, "Epochs.num_epochs")],
)
def test_callbacks(callback: type[Callback], name: str, tmp_path: Path) -> None:
    found = messages(tmp_path, Net(), (callback(),), max_steps=4)
    assert [text.startswith(f"Training changes {name}, ") for text in found] == ([True] if name else [])
    assert bool(messages(tmp_path, Net(), (callback(),))) == bool(name)


class Growing(Pairs):
    """Data set that counts how often it was read."""

    def __init__(self) -> None:
        super().__init__()
        self.num_reads = 0

    def __getitem__(self, index: int) -> Tensor:
        self.num_reads += 1
        return super().__getitem__(index)


class Bare(LightningModule):
    """No plain attribute exists before the first epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def on_train_epoch_start(self) -> None:
        self.anchor = [parameter.detach().clone() for parameter in self.parameters()]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).square().mean() + (self.layer.weight - self.anchor[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_what_a_repeated_hook_cannot_set_again_is_named(tmp_path: Path) -> None:
    """The weights at the start of the epoch are gone."""
    assert messages(tmp_path, Bare(), max_steps=2) == []
    (message,) = messages(tmp_path, Bare())
    assert message.startswith("This resume may not be exact: Bare.anchor has another value.")


class Anchored(Net):
    """Keeps what it has at the start of the run: its weights, the epoch, and more of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: list[Tensor] = []
        self.width, self.started_at = 4, 0.0

    def on_fit_start(self) -> None:
        self.anchors.append(self.layer.weight.detach().clone())

    def on_train_start(self) -> None:
        self.first_epoch, self.started_at, self.size = self.current_epoch, time.time(), self.width * 2
        self.started_ns = time.time_ns()
        object.__setattr__(self, "teacher", [parameter.detach().clone() for parameter in self.parameters()])


@pytest.mark.parametrize(("stop", "names"), [(2, {"anchors", "teacher"}), (4, {"anchors", "teacher", "first_epoch"})])
def test_what_hooks_set_at_the_start_of_a_run_is_compared_by_a_resume(
    stop: int, names: set[str], tmp_path: Path
) -> None:
    assert messages(tmp_path, Anchored(), max_steps=stop) == []
    for end in (5, -1):  # the second time, it is compared with the first process as well
        (message,) = messages(tmp_path, Anchored(), max_steps=end)
        assert message.startswith("This resume may not be exact: Anchored.")
        found = {word.partition(" ")[0] for word in message.split("Anchored.")[1:]}
        assert names <= found <= names | {"first_epoch"}


class Draws(Net):
    """Draws a projection from the operating system: no two processes have the same."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = torch.tensor(np.random.default_rng().random(4))
        self.margin = float(np.random.default_rng().random())


def test_a_tensor_that_nothing_seeds_is_named_by_a_resume(tmp_path: Path) -> None:
    assert messages(tmp_path, Draws(), max_steps=2) == []
    (message,) = messages(tmp_path, Draws())
    assert "Draws.projection has another value" in message
    assert "Draws.margin is " in message


class Caching(Bare):
    """Fills attributes once, in its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None
        self.known: dict[str, int] = {}

    def on_train_epoch_start(self) -> None:
        self.anchor = [torch.zeros(1, 4)]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.table = torch.ones(3) if self.table is None else self.table
        self.known.setdefault("length", 3)
        return super().training_step(batch, batch_idx)


def test_a_value_that_is_filled_once_may_be_a_cache(tmp_path: Path) -> None:
    assert messages(tmp_path, Caching(), max_steps=2, audit="error") == []
    (message,) = messages(tmp_path, Caching(), audit="error")  # it may be a reference value, too
    assert "Caching.table has another value; Caching.known has another value" in message


class Phase(int):
    """A number of a class of its own, which a file cannot hold."""


def test_values_of_any_class_are_compared_and_not_saved(tmp_path: Path) -> None:
    def change(net: Any) -> None:
        net.phase = Phase(getattr(net, "phase", 0) + 1)
        net.seen = getattr(net, "seen", {str(number) for number in range(400)}) - {str(net.phase)}

    (message,) = messages(tmp_path, Net(change), max_steps=3)
    assert "Net.phase, Net.seen" in message


def test_a_set_is_compared_whatever_its_order() -> None:
    words = [f"word {number}" for number in range(400)]
    assert attributes.value_of(set(words)) == attributes.value_of({*words[200:], *words[:200]})
    assert attributes.value_of(set(words)) != attributes.value_of({*words[1:], "other"})


def test_what_is_large_is_not_read_as_a_whole(tmp_path: Path) -> None:
    text, array = "word " * 1_000_000, np.zeros(3_000_000)
    before = attributes.value_of([text]), attributes.value_of(array)
    assert attributes.value_of([text + "more"]) != before[0]
    assert attributes.value_of(array + 1) != before[1]
    array.flags.writeable = False  # torch warns of such an array, and a warning is an error here
    assert attributes.value_of(array) == before[1]
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="w+", shape=(10,))
    first = attributes.value_of(mapped)
    mapped[:] = 1  # what is in a file is not state of the training
    assert attributes.value_of(mapped) == first


def test_two_callbacks_of_a_class_are_two_owners(tmp_path: Path) -> None:
    class Waits(Counts):
        def on_train_batch_end(self, *arguments: Any) -> None:
            self.num_batches += self.starts

        def __init__(self, starts: int) -> None:
            super().__init__()
            self.starts = starts

        @property
        def state_key(self) -> str:
            return f"Waits {self.starts}"

    (message,) = messages(tmp_path, Net(), (Waits(0), Waits(1)), max_steps=2)
    assert message.startswith("Training changes Waits 2.num_batches, ")


def test_a_data_set_is_looked_at(tmp_path: Path) -> None:
    (message,) = messages(tmp_path, Net(), data=Growing(), max_steps=2)
    assert message.startswith("Training changes Growing.num_reads, ")


class Stamped(Pairs):
    """Data set that notes when it was last read."""

    def __getitem__(self, index: int) -> Tensor:
        self.read_at = time.time()
        return super().__getitem__(index)

    def __init__(self) -> None:
        super().__init__()
        self.read_at = 0.0


class Ages(Stamped):
    """Computes with it."""

    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(index) * (time.time() - self.read_at > 0)


@pytest.mark.parametrize(("kind", "is_reported"), [(Stamped, False), (Ages, True)])
def test_a_time_that_a_data_set_does_not_read_is_not_reported(
    kind: type[Stamped], is_reported: bool, tmp_path: Path
) -> None:
    texts = messages(tmp_path, Net(), data=kind(), max_steps=2)
    assert [text.partition(",")[0] for text in texts] == ["Training changes Ages.read_at"] * is_reported
    assert is_reported or messages(tmp_path, Net(), data=kind(), audit="error") == []


class Late(Net):
    """Begins to change late."""

    def __init__(self, begin: int) -> None:
        super().__init__(lambda net: anneal(net) if net.global_step >= begin else None)


@pytest.mark.parametrize(
    ("num_samples", "begin", "named"),
    [(36, 6, 8), (12, 12, 16)],
    ids=["at the saves 4, 8, 16, ...", "after the start of the next epoch"],
)
def test_a_change_that_begins_late_is_reported(num_samples: int, begin: int, named: int, tmp_path: Path) -> None:
    options = {"data": [torch.ones(4)] * num_samples, "max_epochs": 6}
    assert messages(tmp_path / "before", Late(begin), max_steps=named - 1, **options) == []
    (message,) = messages(tmp_path / "then", Late(begin), max_steps=named, **options)
    assert message.startswith("Training changes Late.temperature, ")


def test_the_check_can_be_an_error_or_off(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Training changes Net\.temperature"):
        fit(tmp_path / "error", Net(anneal), audit="error")
    assert messages(tmp_path / "off", Net(anneal), max_steps=2, audit="off") == []
    assert messages(tmp_path / "off", Net(anneal), audit="off") == []
    with pytest.raises(ConfigError, match="audit='on' must be one of warn, error, off"):
        cairn.Checkpointer(tmp_path, audit="on")  # type: ignore[arg-type]


def test_the_cost_is_bounded() -> None:
    """Of containers and tensors that are too large, a part is read: a change in that part is seen."""
    numbers, tensor = list(range(1_000_000)), torch.zeros(30_000_000)
    before = attributes.value_of(numbers), attributes.value_of(tensor)
    numbers.append(7)
    tensor += 1
    assert attributes.value_of(numbers) != before[0]
    assert attributes.value_of(tensor) != before[1]
    reader = fingerprint.Reader(set(), fingerprint.Budget())
    reader.add([[list(numbers[:1000]) for _ in range(100)] for _ in range(100)])
    assert reader.num_left == 0
