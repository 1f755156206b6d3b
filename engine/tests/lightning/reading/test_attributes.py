"""What the audit of plain attributes sees: each place where state can be, and nothing that a library does."""

from __future__ import annotations

import array
import collections
import contextlib
import csv
import ctypes
import dataclasses
import functools
import io
import itertools
import logging
import multiprocessing
import queue
import random
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, LearningRateMonitor, Timer
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Sampler, Subset, TensorDataset
from torch.utils.data import DataLoader as TorchLoader
from torchmetrics import MeanMetric
from tqdm import tqdm

import cairn
from cairn.lightning.audited.values import differing
from cairn.lightning.reading import attributes, parts

LEVEL = {"now": 1.0}
RNG = np.random.default_rng(0)
COUNT = 0


class Net(LightningModule):
    """Linear model with dropout; a test adds what it is about."""

    num_shared = 0
    shared: list[float] = []  # noqa: RUF012  # a mistake that people make

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.CrossEntropyLoss())
        for name, value in values.items():
            setattr(self, name, value)

    def training_step(self, batch: Tensor) -> Tensor:
        return helper(batch)

    def cached(self, value: int, known: list[int] = []) -> None:  # noqa: B006  # the same
        known.append(value)


def helper(batch: Tensor) -> Tensor:
    """Function that the model names, with what it names."""
    return scaled(batch * LEVEL["now"] * RNG.random() * COUNT)


def scaled(batch: Tensor, known: list[int] = []) -> Tensor:  # noqa: B006  # a mistake that people make
    """Function that a function names."""
    known.append(1)
    return batch * len(known)


class Points(Dataset):
    """Data set with a level."""

    def __init__(self) -> None:
        self.level, self.rng = 1.0, np.random.default_rng(0)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        return torch.ones(4) * self.level


class Held:
    """Object of the user in an attribute."""

    total = 0

    def __init__(self, value: Any = 1.0) -> None:
        self.value = value

    def step(self) -> None:
        self.value *= 0.9


@dataclasses.dataclass(slots=True)
class Slotted:
    """Object without a dictionary."""

    value: float = 1.0


def connected(
    module: LightningModule,
    train: Any = None,
    callbacks: tuple[Callback, ...] = (),
    val: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
) -> Trainer:
    """Return a trainer in the state that it has in a fit."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=list(callbacks), enable_checkpointing=False, **quiet)
    trainer.strategy.connect(module)
    trainer.fit_loop._combined_loader = CombinedLoader(train if train is not None else cairn_loader(Points()))
    trainer.fit_loop.epoch_loop.val_loop._combined_loader = CombinedLoader(val) if val is not None else None
    trainer.strategy.optimizers = [optimizer or torch.optim.AdamW(module.parameters(), 0.1)]
    trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler)] if scheduler is not None else []
    return trainer


def changed(trainer: Trainer, change: Callable[[], Any]) -> list[str]:
    """Return the attributes that `change` changes."""
    before = attributes.of_trainer(trainer)
    assert list(differing(before, attributes.of_trainer(trainer))) in ([], UNREADABLE)
    change()
    return list(differing(before, attributes.of_trainer(trainer)))


UNREADABLE = ["Net.it"]
"""What always seems to have changed: an iterator whose position cannot be read."""


def closure() -> Callable[[], float]:
    factor = 1.0

    def step() -> float:
        nonlocal factor
        factor *= 0.9
        return factor

    return step


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    calls = [0]

    @functools.wraps(function)
    def counting(*arguments: Any) -> Any:
        calls[0] += 1
        return function(*arguments)

    return counting


class Decorated(Net):
    """Model with a decorator that counts."""

    @counted
    def forward(self, x: Any) -> Any:
        return x


def generating() -> Iterator[float]:
    factor = 1.0
    while True:
        factor *= 0.9
        yield factor


def keyed() -> tuple[Net, Callable[[], Any]]:
    key = nn.Linear(1, 1)
    net = Net(table=weakref.WeakKeyDictionary({key: [1.0]}))
    return net, lambda: net.table[key].append(2.0)


def deep(value: Any) -> Any:
    for _ in range(7):
        value = {"inner": [value]}
    return value


def teacher_in_lambda() -> tuple[Net, Callable[[], Any]]:
    teacher = nn.Linear(2, 2)
    return Net(get=lambda: teacher), lambda: teacher.weight.data.mul_(0.9)


def hooked() -> tuple[Net, Callable[[], Any]]:
    net, norms = Net(), [0.0]
    net.layers[0].register_forward_hook(lambda *_: norms.append(1.0))
    return net, lambda: norms.append(1.0)


def partial() -> tuple[Net, Callable[[], Any]]:
    values = [1.0]
    return Net(function=functools.partial(helper, values)), lambda: values.append(2.0)


def text_file(path: Path) -> Path:
    path.write_text("line\n" * 5000)
    return path


def setting(**values: Any) -> Callable[[Net], Any]:
    return lambda net: [setattr(net, name, value) for name, value in values.items()]


IN_ATTRIBUTES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "object": (Held, Held.step),
    "slots": (Slotted, lambda value: setattr(value, "value", 0.9)),
    "class attribute of an object": (Held, lambda value: setattr(Held, "total", Held.total + 1)),
    "bound method": (lambda: Held().step, lambda value: value()),
    "closure": (closure, lambda value: value()),
    "attribute of a function": (lambda: lambda: 1, lambda value: setattr(value, "calls", 1)),
    "iterator of a list": (lambda: iter([1, 2, 3]), next),
    "iterator of a dict": (lambda: iter({1: 2, 3: 4}), next),
    "zip": (lambda: zip(iter([1, 2]), iter([3, 4]), strict=True), next),
    "enumerate": (lambda: enumerate([1, 2]), next),
    "map": (lambda: map(abs, [1, 2]), next),
    "cycle": (lambda: itertools.cycle([1.0, 0.5, 0.25]), next),
    "count": (itertools.count, next),
    "chain": (lambda: itertools.chain([1, 2], [3]), next),
    "islice": (lambda: itertools.islice([1, 2, 3], 2), next),
    "generator": (generating, next),
    "generator that ends": (lambda: (number for number in [1]), list),
    "csv": (lambda: csv.reader(["1,2", "3,4"]), next),
    "iterator of torch's loader": (lambda: iter(TorchLoader(Points(), 3)), next),
    "iterator of cairn's loader": (lambda: iter(cairn.DataLoader(Points(), batch_size=3, seed=0)), next),
    "metric in a list": (lambda: [MeanMetric()], lambda value: value[0].update(1.0)),
    "metric in a dict": (lambda: {"loss": MeanMetric()}, lambda value: value["loss"].update(1.0)),
    "shared value": (lambda: multiprocessing.Value("d", 1.0), lambda value: setattr(value, "value", 0.5)),
    "shared array": (lambda: multiprocessing.Array("d", 3), lambda value: value.__setitem__(1, 0.5)),
    "ctypes": (lambda: ctypes.c_double(1.0), lambda value: setattr(value, "value", 0.5)),
    "array": (lambda: array.array("d", [1.0]), lambda value: value.append(2.0)),
    "bytes": (lambda: bytearray(3), lambda value: value.append(1)),
    "queue": (queue.Queue, lambda value: value.put(1.0)),
    "full deque": (lambda: collections.deque([0.0] * 1000, maxlen=1000), lambda value: value.append(0.5)),
    "long dict": (lambda: dict.fromkeys(range(1000), 1.0), lambda value: value.update({900: 0.5})),
    "longer dict": (lambda: dict.fromkeys(range(100_000), 1.0), lambda value: value.update({99_900: 0.5})),
    "nested": (lambda: deep([1.0]), lambda value: value["inner"][0]["inner"].append(1.0)),
    "at the bottom": (lambda: deep(BOTTOM), lambda value: BOTTOM.append(1.0)),
    "user dict": (collections.UserDict, lambda value: value.update(a=1)),
    "counter": (collections.Counter, lambda value: value.update("a")),
    "namespace": (lambda: types.SimpleNamespace(a=1), lambda value: setattr(value, "a", 2)),
    "thread-local": (threading.local, lambda value: setattr(value, "a", 2)),
    "bit generator": (lambda: np.random.PCG64(0), lambda value: value.random_raw()),
    "sparse tensor": (lambda: torch.eye(2).to_sparse(), lambda value: value._values().mul_(2)),
    "nested tensor": (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), lambda value: value.mul_(2)),
    "conjugated tensor": (lambda: torch.ones(2, dtype=torch.cfloat).conj(), lambda value: value.mul_(2)),
    "object array": (lambda: np.array([1.0, None], dtype=object), lambda value: value.__setitem__(0, 2.0)),
    "transposed tensor": (lambda: torch.zeros(1000, 1000).t(), lambda value: value.add_(1)),
    "non-persistent buffer": (
        lambda: [nn.BatchNorm1d(2)],
        lambda value: value[0].running_mean.add_(1),
    ),
    "dropout in a list": (lambda: [nn.Dropout(0.5)], lambda value: setattr(value[0], "p", 0.4)),
    "optimizer": (
        lambda: torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1),
        lambda value: value.param_groups[0].update(lr=0.2),
    ),
    "scheduler": (
        lambda: torch.optim.lr_scheduler.ExponentialLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), 0.9),
        lambda value: setattr(value, "last_epoch", 3),
    ),
}
BOTTOM = [1.0]


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.parametrize("kind", IN_ATTRIBUTES)
def test_state_in_an_attribute_is_named_once(kind: str) -> None:
    make, change = IN_ATTRIBUTES[kind]
    net = Net(it=make())
    assert changed(connected(net), lambda: change(net.it)) == ["Net.it"]


def test_the_position_of_a_file_that_training_reads_is_named(tmp_path: Path) -> None:
    with open(text_file(tmp_path / "a")) as read, open(tmp_path / "a", "rb") as raw, open(tmp_path / "b", "w") as log:
        net = Net(read=read, raw=raw, log_file=log)

        def change() -> None:
            read.readline(), raw.read(3), log.write("line")

        assert changed(connected(net), change) == ["Net.read", "Net.raw"]


def test_a_text_file_that_is_iterated_is_named_although_it_hides_its_position(tmp_path: Path) -> None:
    with open(text_file(tmp_path / "a")) as file:
        assert changed(connected(Net(it=file)), lambda: [next(file) for _ in range(3000)]) == ["Net.it"]


IN_MODULES: dict[str, tuple[Callable[[], tuple[Net, Callable[[], Any]]], str]] = {
    "hook": (hooked, "Net.layers.0._forward_hooks"),
    "lambda with a teacher": (teacher_in_lambda, "Net.get"),
    "partial": (partial, "Net.function"),
    "weak keys": (keyed, "Net.table"),
    "class number": (lambda: (Net(), lambda: setattr(Net, "num_shared", Net.num_shared + 1)), "Net.num_shared"),
    "class list": (lambda: (Net(), lambda: Net.shared.append(1.0)), "Net.shared"),
    "default argument": (lambda: (Net(), lambda: Net().cached(3)), "Net.cached"),
    "decorator": (lambda: (Decorated(), lambda: Decorated()(1)), "Decorated.forward"),
    "global dict": (lambda: (Net(), lambda: LEVEL.update(now=LEVEL["now"] * 0.9)), f"{__name__}.LEVEL"),
    "global generator": (lambda: (Net(), RNG.random), f"{__name__}.RNG"),
    "default argument of a function": (lambda: (Net(), lambda: scaled(torch.ones(1))), f"{__name__}.scaled"),
    "attribute of a function": (lambda: (Net(), lambda: setattr(scaled, "num_calls", 1)), f"{__name__}.scaled"),
    "global number": (lambda: (Net(), lambda: globals().update(COUNT=COUNT + 1)), f"{__name__}.COUNT"),
}


@pytest.mark.parametrize("kind", IN_MODULES)
def test_state_around_a_model_is_named_once(kind: str) -> None:
    net, change = IN_MODULES[kind][0]()
    assert changed(connected(net), change) == [IN_MODULES[kind][1]]


SETTINGS: dict[str, Callable[[Net], Any]] = {
    "Net.layers.1.p": lambda net: setattr(net.layers[1], "p", 0.4),
    "Net.layers.2.momentum": lambda net: setattr(net.layers[2], "momentum", 0.3),
    "Net.layers.3.label_smoothing": lambda net: setattr(net.layers[3], "label_smoothing", 0.3),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_a_layer_that_training_changes_is_named(name: str) -> None:
    net = Net()
    assert changed(connected(net), lambda: SETTINGS[name](net)) == [name]


class Annealed(nn.Dropout):
    """Dropout that the user has derived."""


def test_a_setting_of_a_derived_layer_is_named() -> None:
    net = Net(noise=Annealed(0.5))
    assert changed(connected(net), lambda: setattr(net.noise, "p", 0.4)) == ["Net.noise.p"]


class Stream(IterableDataset):
    """Iterable with a position in its state, and a level that training changes."""

    def __init__(self) -> None:
        self.level, self.next, self.epoch = 1.0, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.next < 4:
            self.next += 1
            yield torch.ones(4) * self.level

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["position"]


class Curriculum(Sampler):
    """Sampler with a limit that training raises."""

    def __init__(self, data_source: Any = None) -> None:
        self.limit, self.epoch, self.order = 4, 0, [0]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.limit

    def __iter__(self) -> Iterator[int]:
        self.order = list(range(self.limit))
        return iter(self.order)


class Collate:
    """Collate function that counts."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, samples: list[Tensor]) -> Tensor:
        self.num_calls += 1
        return torch.stack(samples)


def lower(data: Any) -> None:
    data.level *= 0.9


def cairn_loader(data: Any, **options: Any) -> Any:
    return cairn.DataLoader(data, **{"batch_size": 4, "seed": 0, **options})


def torch_loader(data: Any, **options: Any) -> Any:
    return TorchLoader(data, **{"batch_size": 4, **options})


points, stream, collate, sampler = Points(), Stream(), Collate(), Curriculum()
labels, tail = TensorDataset(torch.zeros(6)), Subset(points, [0, 1, 2])
collate_closure = closure()
IN_DATA: dict[str, tuple[Callable[[Any], Any], Callable[[], Any], str]] = {
    "data set": (lambda loader: loader(points), lambda: lower(points), "Points.level"),
    "subset": (lambda loader: loader(Subset(points, [0, 1])), lambda: lower(points), "Points.level"),
    "joined": (lambda loader: loader(ConcatDataset([labels, points])), lambda: lower(points), "Points.level"),
    "indices": (lambda loader: loader(tail), lambda: setattr(tail, "indices", [*tail.indices, 3]), "Subset.indices"),
    "tensors": (lambda loader: loader(labels), lambda: labels.tensors[0].add_(1), "TensorDataset.tensors"),
    "iterable": (lambda loader: loader(stream), lambda: lower(stream), "Stream.level"),
    "collate": (
        lambda loader: loader(points, collate_fn=collate),
        lambda: collate([torch.ones(1)]),
        "Collate.num_calls",
    ),
    "collate of an iterable": (
        lambda loader: loader(stream, collate_fn=collate),
        lambda: collate([torch.ones(1)]),
        "Collate.num_calls",
    ),
    "closure of collate": (
        lambda loader: loader(points, collate_fn=collate_closure),
        collate_closure,
        "step.factor",
    ),
    "sampler": (
        lambda loader: loader(points, sampler=sampler),
        lambda: setattr(sampler, "limit", sampler.limit + 1),
        "Curriculum.limit",
    ),
    "batch sampler": (
        lambda loader: loader(points, batch_sampler=torch.utils.data.BatchSampler(sampler, 2, False), batch_size=1),
        lambda: setattr(sampler, "limit", sampler.limit + 1),
        "Curriculum.limit",
    ),
}


@pytest.mark.parametrize("loader", [cairn_loader, torch_loader])
@pytest.mark.parametrize("kind", IN_DATA)
def test_state_of_the_data_is_named_once(kind: str, loader: Callable[..., Any]) -> None:
    make, change, name = IN_DATA[kind]
    assert changed(connected(Net(), make(loader)), change) == [name]


def test_the_data_of_a_validation_is_looked_at_once_it_is_known() -> None:
    held_out = Points()
    trainer = connected(Net(), val=cairn_loader(held_out))
    assert changed(trainer, lambda: lower(held_out)) == ["Points 2.level"]
    trainer = connected(Net())
    late = CombinedLoader(cairn_loader(Points()))
    assert changed(trainer, lambda: setattr(trainer.fit_loop.epoch_loop.val_loop, "_combined_loader", late)) == []


class Decaying(torch.optim.SGD):
    """Optimizer with a counter outside of its state."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)
        self.num_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.num_steps += 1
        return super().step(closure)


class Lookahead(torch.optim.Optimizer):
    """Optimizer that wraps another one, and saves its state only."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base, self.num_steps = base, 0
        self.param_groups, self.defaults, self.state = base.param_groups, base.defaults, base.state
        self.slow = [[param.detach().clone() for param in group["params"]] for group in self.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.base.step(closure)
        self.num_steps += 1
        for param in self.slow[0]:
            param.add_(1)

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()


class SavesItsCounter(Decaying):
    """Optimizer that saves all of its state."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "num_steps": self.num_steps}


class Schedule:
    """Scheduler whose state is empty."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.num_steps = optimizer, 0

    def step(self) -> None:
        self.num_steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {}


OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "counter": (lambda params: Decaying(params, 0.1), ["Decaying.num_steps"]),
    "lookahead": (lambda params: Lookahead(torch.optim.Adam(params, 0.1)), ["Lookahead.num_steps", "Lookahead.slow"]),
    "saved": (lambda params: SavesItsCounter(params, 0.1), []),
    "torch": (lambda params: torch.optim.SGD(params, 0.1, momentum=0.9), []),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_the_state_of_an_optimizer_lacks_is_named(kind: str) -> None:
    net = Net()
    optimizer = OPTIMIZERS[kind][0](net.parameters())
    trainer = connected(net, optimizer=optimizer)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(trainer.optimizers[0], 10)
    trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler)]

    def step() -> None:
        net.layers[0](torch.ones(4)).sum().backward()
        optimizer.step(), scheduler.step()

    step()
    assert changed(trainer, step) == OPTIMIZERS[kind][1]


def test_an_attribute_that_a_hook_sets_on_an_optimizer_is_named() -> None:
    trainer = connected(Net())
    trainer.optimizers[0].noise = 1.0
    assert changed(trainer, lambda: setattr(trainer.optimizers[0], "noise", 0.9)) == ["AdamW.noise"]


def test_what_the_state_of_a_scheduler_lacks_is_named() -> None:
    net, factor = Net(), closure()
    schedule = Schedule(None)
    assert changed(connected(net, scheduler=schedule), schedule.step) == ["Schedule.num_steps"]
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    of_lambda = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor())
    trainer = connected(net, optimizer=optimizer, scheduler=of_lambda)
    optimizer.step()
    assert changed(trainer, of_lambda.step) == ["LambdaLR.lr_lambdas"]


def test_attributes_of_the_trainer_are_looked_at() -> None:
    trainer = connected(Net())
    trainer.num_user_steps = 0

    def change() -> None:
        trainer.gradient_clip_val, trainer.num_user_steps, trainer.should_stop = 0.5, 1, True

    assert changed(trainer, change) == ["Trainer.gradient_clip_val", "Trainer.num_user_steps"]


def test_the_functions_of_a_callback_of_a_library_are_looked_at() -> None:
    rows: list[int] = [0]
    callback = LambdaCallback(on_train_batch_end=lambda *_: rows.append(1))
    assert changed(connected(Net(), callbacks=(callback,)), lambda: rows.append(1)) == [
        "LambdaCallback.on_train_batch_end"
    ]


class Records(Callback):
    """Writes records into a list of its module, and draws from a generator there."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        RECORDS.append(float(CHANCE.random()))


RECORDS: list[float] = []
CHANCE = random.Random(0)


def test_records_of_a_callback_in_its_module_are_quiet_and_its_generator_is_not() -> None:
    callback = Records()
    found = changed(connected(Net(), callbacks=(callback,)), callback.on_train_batch_end)
    assert found == [f"{__name__}.CHANCE"]


class CountsInAList(Callback):
    """Reads a list of its module, on which the training depends."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        COUNTS[0] += 1


COUNTS = [0]


def test_a_list_in_the_module_of_a_callback_that_it_reads_is_named() -> None:
    callback = CountsInAList()
    found = changed(connected(Net(), callbacks=(callback,)), callback.on_train_batch_end)
    assert found == [f"{__name__}.COUNTS"]


class Seeks:
    """Reads a file at places of its own."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, index: int) -> Any:
        self.file.seek(index)
        return self.file.read(1)


@functools.lru_cache
def squared(number: int) -> int:
    return number**2


def quiet_objects(path: Path, stack: contextlib.ExitStack) -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Objects that change in a training without being its state, each with that change."""
    profiler = SimpleProfiler()
    data = stack.enter_context(text_file(path).open("rb"))
    return {
        "text": (logging.getLogger(__name__), lambda value: value.setLevel(logging.ERROR)),
        "lock": (threading.Lock(), lambda value: value.acquire()),
        "thread": (threading.Thread(target=print), lambda value: value.join if value.start() else None),
        "profiler": (profiler, lambda value: value.start("a")),
        "bar": (tqdm(total=3, file=io.StringIO()), lambda value: value.update(1)),
        "log": (io.StringIO(), lambda value: value.write("a")),
        "file with places": (Seeks(data), lambda value: value.read(7)),
        "handle": (nn.Linear(1, 1).register_forward_hook(print), lambda value: value.remove()),
        "cache": (squared, lambda value: value(3)),
        "stream": (io.BytesIO(), lambda value: value.write(b"a")),
        "event": (threading.Event(), lambda value: value.set()),
        "weak reference": (weakref.ref(points), lambda value: value()),
    }


def test_objects_of_libraries_are_quiet(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        objects = quiet_objects(tmp_path / "file", stack)
        net = Net(**{name.replace(" ", "_"): item for name, (item, _) in objects.items()})
        net.metric, net.compiled = MeanMetric(), torch.compile(nn.Linear(2, 2), backend="eager")
        net.view, net.optimizer = net.layers[0].weight.detach()[0], torch.optim.SGD(net.parameters(), 0.1)

        def change() -> None:
            for item, use in objects.values():
                use(item)
            net.metric.update(1.0), net.compiled(torch.ones(2))
            net.layers[0].weight.data.add_(1)

        trainer = connected(net, callbacks=(LearningRateMonitor(), EarlyStopping("a"), Timer()))
        net.back = trainer
        assert changed(trainer, change) == []


def test_what_iterating_does_is_quiet() -> None:
    data, order, iterable = Points(), Curriculum(), Stream()
    loaders = [cairn_loader(data, sampler=order), cairn_loader(iterable)]
    trainer = connected(Net(), loaders)
    assert changed(trainer, lambda: [list(loaders[0]), data.rng.random(), order.set_epoch(2), list(iterable)]) == []


def test_a_lazy_layer_that_gets_its_size_is_quiet() -> None:
    net = Net(lazy=nn.LazyLinear(3))
    assert (
        changed(
            connected(net, optimizer=torch.optim.SGD(net.layers.parameters(), 0.1)), lambda: net.lazy(torch.ones(2))
        )
        == []
    )


class Raises:
    """Object that raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError


class Counts(dict):
    """Containers of the user, whose methods have side effects."""

    calls = 0

    def _count(self, *_: Any) -> Any:
        Counts.calls += 1
        raise RuntimeError

    __iter__ = __len__ = __getitem__ = keys = values = items = __repr__ = __bool__ = _count


class CountsList(list):
    """The same of a list."""

    __iter__ = __len__ = __getitem__ = __repr__ = __bool__ = Counts._count


def cyclic() -> list[Any]:
    items: list[Any] = [1]
    items.append(items)
    return items


ODD: dict[str, Callable[[], Any]] = {
    "long number": lambda: 10**5000,
    "long numbers": lambda: [10**5000, {10**5000}, {10**5000: 1}],
    "raises": Raises,
    "raises in a set": lambda: {Raises()},
    "raises in a list": lambda: [Raises(), Raises],
    "dict": lambda: Counts(a=1),
    "list": lambda: CountsList([1]),
    "cycle": cyclic,
    "mock": MagicMock,
    "meta": lambda: torch.empty(3, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "compressed": lambda: torch.eye(2).to_sparse_csr(),
    "float8": lambda: torch.ones(2).to(torch.float8_e4m3fn),
    "structured": lambda: np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
    "dates": lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
    "texts": lambda: np.array(["a", "bc"]),
    "lazy parameter": lambda: [nn.UninitializedParameter()],
    "memory": lambda: memoryview(bytearray(8))[::2],
    "surrogate": lambda: "\ud800",
    "error": lambda: ValueError("a"),
    "proxy": lambda: types.MappingProxyType({"a": 1}),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:torch.quantize")
@pytest.mark.parametrize("kind", ODD)
def test_no_object_stops_the_audit_or_is_used_by_it(kind: str) -> None:
    before = Counts.calls
    net = Net()
    net.__dict__["it"] = ODD[kind]()
    assert changed(connected(net), lambda: None) == []
    assert Counts.calls == before


class Surrounded(Net):
    """Model whose class and whose module hold such an object."""

    odd = Raises()

    def forward(self, x: Any) -> Any:
        return ODD_ONE


ODD_ONE = Raises()


def test_objects_in_classes_and_modules_do_not_stop_the_audit() -> None:
    assert changed(connected(Surrounded()), lambda: None) == []


def test_closed_files_do_not_stop_the_audit(tmp_path: Path) -> None:
    file = open(text_file(tmp_path / "a"))  # noqa: SIM115
    file.close()
    assert changed(connected(Net(it=file)), lambda: None) == []


def test_an_iterator_that_cannot_be_read_is_named_with_a_cure() -> None:
    net = Net(it=np.nditer(np.arange(3)), numbers=generating(), other=1)
    trainer = connected(net)
    assert changed(trainer, lambda: None) == ["Net.it"]
    text = "save its position, and build it again from there"
    assert attributes.advice(trainer, ["Net.it"]) == f"Net.it is an iterator, which cannot be saved: {text}. "
    assert "Net.numbers is a generator" in attributes.advice(trainer, ["Net.numbers"])
    assert attributes.advice(trainer, ["Net.other"]) == ""


@functools.lru_cache
def drawn(width: int) -> Tensor:
    return torch.randn(width)


@functools.lru_cache
def computed(width: int) -> Tensor:
    return torch.arange(width)


@functools.lru_cache
def repeated(seed: int) -> Any:
    return np.random.default_rng(seed).random(3)


@pytest.mark.parametrize(("function", "counts"), [(drawn, True), (computed, False), (repeated, False)])
def test_results_that_a_function_has_drawn_and_keeps_are_seen(function: Any, counts: bool) -> None:
    before = attributes.value_of(function)
    function(3)
    assert (attributes.value_of(function) != before) is counts


class HasMethods:
    def forward(self):
        return 1

    def other(self):
        return 2


def test_a_method_that_a_framework_has_set_again_is_not_state():
    """Lightning leaves `forward` of the class on the object, with DDP."""
    item = HasMethods()
    item.forward, item.swapped = item.forward, item.other
    assert [name for name, _ in parts.own(item)] == ["swapped"]
    item.forward = item.other
    assert {name for name, _ in parts.own(item)} == {"swapped", "forward"}
