"""Only what training reads before it sets it is reported: a descriptor notes the first access after each boundary."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tests.lightning.audited.test_audit import Net, Pairs, messages
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cairn.lightning.audited.accesses import Accesses
from cairn.lightning.audited.watched import Watched


class EpochTimer(Callback):
    def on_train_epoch_start(self, *arguments: Any) -> None:
        self.begun = time.time()

    def on_train_epoch_end(self, *arguments: Any) -> None:
        self.took = time.time() - self.begun


class BatchTimer(Callback):
    def on_train_batch_start(self, *arguments: Any) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.took = time.perf_counter() - self.begun


class Swaps(Callback):
    """Keeps the weights during the end of a batch."""

    def __init__(self) -> None:
        self.kept: list[Tensor] | None = None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        self.kept = [weight.detach().clone() for weight in pl_module.parameters()]

    def on_train_batch_end(self, *arguments: Any) -> None:
        assert self.kept is not None
        self.norm = sum(float(weight.norm()) for weight in self.kept)


class Shows(Callback):
    """Sets an attribute of the module, and reads it at the end of the epoch, as a callback that draws an image does."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        pl_module.shown = batch.mean(1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen = float(pl_module.shown.sum())


class Stashes(Net):
    """Keeps what a batch has computed, in itself and in a part."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.loss, self.weights_before = Attends(), None, None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.loss = super().training_step(batch, batch_idx)
        self.weights_before = [weight.detach().clone() for weight in self.parameters()]
        return self.loss

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.total = float(self.loss.detach()) + float(self.layer.map.sum()) + float(self.weights_before[0].sum())


class Attends(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 1)

    def forward(self, input: Tensor) -> Tensor:
        self.map = input.softmax(1).detach()
        return super().forward(input)


class Validated(Net):
    def val_dataloader(self) -> DataLoader:
        return DataLoader(Pairs(), batch_size=6)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.layer(batch).square().mean())


class Validates(Callback):
    def on_validation_start(self, *arguments: Any) -> None:
        self.begun = time.time()

    def on_validation_end(self, *arguments: Any) -> None:
        self.took = time.time() - self.begun


HARMLESS: dict[str, Callable[[], tuple[LightningModule, tuple[Callback, ...]]]] = {
    "epoch timer": lambda: (Net(), (EpochTimer(),)),
    "batch timer": lambda: (Net(), (BatchTimer(),)),
    "validation timer": lambda: (Validated(), (Validates(),)),
    "weights kept in a batch": lambda: (Net(), (Swaps(),)),
    "image set by a callback": lambda: (Net(), (Shows(),)),
    "stashed loss and attention": lambda: (Stashes(), ()),
}


@pytest.mark.parametrize("case", HARMLESS)
@pytest.mark.parametrize("stop", [2, 3])
def test_what_is_set_before_it_is_read_is_not_reported(case: str, stop: int, tmp_path: Path) -> None:
    """Not at a save, not at a resume inside an epoch or at its end, and `error` does not end the run."""
    module, callbacks = HARMLESS[case]()
    assert messages(tmp_path, module, callbacks, max_steps=stop, audit="error") == []
    module, callbacks = HARMLESS[case]()
    assert messages(tmp_path, module, callbacks, audit="error") == []


class AnnealsInHook(Net):
    def on_train_epoch_start(self) -> None:
        self.temperature *= 0.7


class CountsInHook(Callback):
    def __init__(self) -> None:
        self.num_epochs = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.num_epochs += 1
        pl_module.temperature = 1 / self.num_epochs


class AnnealsCompiled(AnnealsInHook):
    def __init__(self) -> None:
        super().__init__()
        self.layer.compile(backend="eager")


class CountsOnTheClass(Net):
    num_epochs = 0

    def on_train_epoch_start(self) -> None:
        self.num_epochs += 1


class AnnealsHyperparameters(Net):
    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters("beta")

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.hparams["beta"] *= 0.9
        return super().training_step(batch, batch_idx)


class AnnealsHyperparametersInHook(AnnealsHyperparameters):
    training_step = Net.training_step

    def on_train_epoch_start(self) -> None:
        self.hparams["beta"] *= 0.9


class AnnealsALayer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)

    def on_train_epoch_start(self) -> None:
        self.dropout.p += 0.1


NUM_EPOCHS = 5


class CountsInTheModule(Net):
    def on_train_epoch_start(self) -> None:
        global NUM_EPOCHS
        NUM_EPOCHS += 1


class DrawsInHook(Net):
    def on_train_epoch_start(self) -> None:
        self.temperature = float(self.rng.random())


class CountsInAHelper(Net):
    def on_train_epoch_start(self) -> None:
        self.helper.seen += 1


class Ordered(Pairs):
    """Data set with an order of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.order, self.epoch = list(range(12)), 0

    def __getitem__(self, index: int) -> Tensor:
        return super().__getitem__(self.order[index])


class ShufflesData(Callback):
    """Shuffles the data at the start of each epoch: on from the order of the last one, or again from the epoch."""

    def __init__(self, data: Ordered, goes_on: bool) -> None:
        self.data, self.goes_on = data, goes_on

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.data.epoch = trainer.current_epoch
        if self.goes_on:
            random.Random(self.data.epoch).shuffle(self.data.order)
        else:
            self.data.order = random.Random(self.data.epoch).sample(range(12), 12)


class SetsInHook(Net):
    """Reads in each batch what the hook sets: in the second epoch, to the value of a new object."""

    def on_train_epoch_start(self) -> None:
        self.temperature = 0.5 * (1 + self.current_epoch)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * self.temperature


class ReadsLate(Net):
    """Reads in the second epoch what each batch before has set."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 1.0

    def on_train_epoch_start(self) -> None:
        self.scale = self.last if self.current_epoch else 1.0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx) * self.scale
        self.last = float(loss)
        return loss


class ReadsItsDict(Net):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.temperature = vars(self)["temperature"] * 0.9
        return super().training_step(batch, batch_idx)


class Gathers(Net):
    def on_train_start(self) -> None:
        self.outputs: list[float] = []

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.outputs.append(float(self.layer.bias))


@pytest.mark.parametrize(
    ("module", "callbacks", "name", "stop"),
    [
        (AnnealsInHook, (), "AnnealsInHook.temperature", 1),
        (Net, (CountsInHook,), "CountsInHook.num_epochs", 1),
        (AnnealsCompiled, (), "AnnealsCompiled.temperature", 1),
        (CountsOnTheClass, (), "CountsOnTheClass.num_epochs", 1),
        (CountsInAHelper, (), "CountsInAHelper.helper", 1),
        (CountsInTheModule, (), f"{__name__}.NUM_EPOCHS", 1),
        (AnnealsHyperparameters, (), "AnnealsHyperparameters.hparams", 2),
        (AnnealsHyperparametersInHook, (), "AnnealsHyperparametersInHook.hparams", 1),
        (AnnealsALayer, (), "AnnealsALayer.dropout.p", 1),
        (DrawsInHook, (), "DrawsInHook.rng", 1),
        (Gathers, (), "Gathers.outputs", 2),
        (ReadsItsDict, (), "ReadsItsDict.temperature", 2),
        (ReadsLate, (), "ReadsLate.last", 5),
    ],
)
def test_what_is_read_before_it_is_set_is_reported(
    module: type[Net], callbacks: tuple[type[Callback], ...], name: str, stop: int, tmp_path: Path
) -> None:
    (message,) = messages(tmp_path, module(), tuple(kind() for kind in callbacks), max_steps=stop)
    assert message.startswith(f"Training changes {name}, ")
    assert ("does not load the hyperparameters" in message) is name.endswith(".hparams")


def test_data_that_a_hook_changes_on_from_the_last_epoch_is_reported(tmp_path: Path) -> None:
    before = dict(vars(Ordered))
    for goes_on in (True, False):
        data = Ordered()
        texts = messages(tmp_path / str(goes_on), Net(), (ShufflesData(data, goes_on),), data=data, max_steps=1)
        assert [text.partition(",")[0] for text in texts] == ["Training changes Ordered.order"] * goes_on
    assert vars(Ordered) == before


def test_a_hook_that_sets_what_each_batch_reads_is_not_reported(tmp_path: Path) -> None:
    assert messages(tmp_path, SetsInHook(), max_steps=3) == []
    assert messages(tmp_path, SetsInHook(), max_steps=4) == []
    assert messages(tmp_path, SetsInHook()) == []


class CountsInTheEpoch(Net):
    """Counts batches from the start of each epoch, or only of the first one."""

    epochs = range(9)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch in self.epochs:
            self.num_batches = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.num_batches += 1
        return super().training_step(batch, batch_idx) * self.num_batches


def test_what_each_epoch_sets_to_zero_is_not_reported_between_epochs(tmp_path: Path) -> None:
    assert messages(tmp_path / "ends", CountsInTheEpoch(), max_epochs=1, every="1ep") == []
    assert messages(tmp_path / "ends", CountsInTheEpoch(), every="1ep") == []
    (inside,) = messages(tmp_path / "inside", CountsInTheEpoch(), max_steps=2)
    assert inside.startswith("Training changes CountsInTheEpoch.num_batches, ")


def test_what_only_the_first_epoch_sets_is_reported_by_the_resume_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CountsInTheEpoch, "epochs", range(1))
    assert messages(tmp_path, CountsInTheEpoch(), max_epochs=1, every="1ep") == []
    resumed = CountsInTheEpoch()
    resumed.num_batches = 0
    (message,) = messages(tmp_path, resumed, every="1ep")
    assert message.startswith("This resume may not be exact: CountsInTheEpoch.num_batches is 0 and was 3. ")


class ReadsAfterResume(Net):
    """Sets its scale in each batch, except that a resumed run reads it first."""

    is_resumed = False

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.scale = self.scale / 2 if self.is_resumed else 1 / (2 + batch_idx)
        return super().training_step(batch, batch_idx) * self.scale


def test_a_resumed_run_that_reads_it_first_all_the_same_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert messages(tmp_path, ReadsAfterResume(), max_steps=2) == []
    monkeypatch.setattr(ReadsAfterResume, "is_resumed", True)
    (message,) = messages(tmp_path, ReadsAfterResume())
    assert message.startswith("This resume may not be exact: ReadsAfterResume.scale is 1.0 and was ")


def test_classes_are_as_before_when_the_fit_has_ended(tmp_path: Path) -> None:
    kinds = (Net, Stashes, Attends, EpochTimer)
    before = [dict(vars(kind)) for kind in kinds]
    messages(tmp_path / "ends", Stashes(), (EpochTimer(),))

    class Fails(Stashes):
        def on_train_batch_end(self, *arguments: Any) -> None:
            raise ValueError("as a test")

    with pytest.raises(ValueError, match="as a test"):
        messages(tmp_path / "fails", Fails(), (EpochTimer(),))
    after = [dict(vars(kind)) for kind in kinds]
    assert [values.keys() for values in after] == [values.keys() for values in before]


class SumsItsClass(Net):
    """Reads the defaults of its class past the attributes."""

    margin, weight = 1.0, 2.0

    def on_train_epoch_start(self) -> None:
        self.margin = sum(value for value in vars(type(self)).values() if isinstance(value, float))
        self.weight = float(self.current_epoch)


def test_a_hook_that_reads_the_dictionary_of_a_class_finds_its_values(tmp_path: Path) -> None:
    module = SumsItsClass()
    messages(tmp_path, module)
    assert module.margin == 3.0


class Raises(Callback):
    """Fails again when it learns of an error, before the other callbacks do."""

    def on_exception(self, *arguments: Any) -> None:
        raise KeyError("of the callback")


class FailsLate(Stashes):
    def on_train_batch_end(self, *arguments: Any) -> None:
        if self.global_step == 2:
            raise ValueError("as a test")


def watched_names(*kinds: type) -> list[str]:
    return [name for kind in kinds for base in kind.__mro__ for name, value in vars(base).items() if is_watched(value)]


def is_watched(value: Any) -> bool:
    return isinstance(value, Watched)


def test_an_error_in_another_callback_leaves_no_descriptor(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="of the callback"):
        messages(tmp_path, FailsLate(), (Raises(), EpochTimer()))
    assert watched_names(FailsLate, Attends, EpochTimer, Raises) == []


class Lists(Callback):
    """Looks at the module as an inspecting tool does."""

    def __init__(self) -> None:
        self.strange: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *arguments: Any) -> None:
        for item in (pl_module, pl_module.layer):
            self.strange |= {name for name in dir(item) if not hasattr(item, name)}
            self.strange |= type(item).__dict__.keys() - item.__dict__.keys() - KNOWN[type(item)]


KNOWN = {kind: {*vars(kind)} for kind in (Stashes, Attends)}


def test_an_attribute_that_does_not_exist_yet_is_not_seen(tmp_path: Path) -> None:
    lists = Lists()
    messages(tmp_path, Stashes(), (lists,))
    assert lists.strange == set()


class Part(nn.Module):
    """Module with attributes of each kind."""

    default = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.number, self.default = nn.Linear(2, 2), 0.5, 2.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) * self.number
        self.stash = y.detach()
        return y


@pytest.fixture
def watched() -> Any:
    accesses, part = Accesses(), Part()
    accesses.watch({"Part": part})
    assert isinstance(vars(Part)["number"], Watched)
    yield accesses, part
    accesses.close()
    assert not any(isinstance(value, Watched) for value in vars(Part).values())


def test_a_watched_object_behaves_as_before(watched: tuple[Accesses, Part]) -> None:
    _, part = watched
    assert not hasattr(part, "stash")
    assert getattr(part, "stash", 3) == 3
    with pytest.raises(AttributeError, match="'Part' object has no attribute 'stash'"):
        _ = part.stash
    with pytest.raises(AttributeError, match="type object 'Part' has no attribute 'number'"):
        _ = Part.number
    part.number = 0.25
    assert vars(part)["number"] == part.number == copy.deepcopy(part).number == 0.25
    del part.number
    assert not hasattr(part, "number")
    with pytest.raises(AttributeError):
        del part.number
    part.number = nn.Parameter(torch.ones(()))  # a module may register it later
    assert "number" in dict(part.named_parameters())
    assert (part.default, Part.default) == (2.0, 1.0)
    del part.default
    assert part.default == 1.0


def test_the_first_access_after_a_boundary_decides(watched: tuple[Accesses, Part]) -> None:
    accesses, part = watched
    part.stash, part.number = 1, part.number + 1
    assert part.stash == 1
    assert accesses.boundary()  # number
    assert [accesses.verdict(part, name) for name in ("stash", "number", "default")] == ["set", "read", "unknown"]
    assert "number" not in vars(Part)  # it costs nothing any more
    accesses.forget()
    part.stash = part.stash + 1
    assert accesses.boundary()
    assert accesses.verdict(part, "stash") == "read"


def test_only_an_attribute_that_code_asks_for_is_watched_before_it_exists() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.total = getattr(self, "total", 0) + x
            self.last = x
            return x

    accesses, asks = Accesses(), Asks()
    accesses.watch({"Asks": asks})
    assert watched_names(Asks) == ["total"]
    asks(torch.ones(()))
    assert accesses.boundary()
    assert [accesses.verdict(asks, name) for name in ("total", "last")] == ["read", "set"]
    assert watched_names(Asks) == ["last"]  # from here on, a read of it is possible
    accesses.close()
    assert watched_names(Asks) == []


def test_what_a_save_sets_first_is_distinguished() -> None:
    class Late(nn.Module):
        def set_all(self) -> None:
            self.by_save = self.before_watch = self.read_after = 1

    accesses, late = Accesses(), Late()
    accesses.watch({"Late": late})
    late.by_save = 1
    accesses.forget()
    late.before_watch = late.read_after = 1
    accesses.watch({"Late": late})  # as at the start of an epoch
    assert late.read_after == 1
    assert not accesses.boundary()
    names = ("by_save", "before_watch", "read_after")
    assert [accesses.verdict(late, name) for name in names] == ["unknown", "set", "set"]
    accesses.close()


def test_what_classes_of_libraries_assign_is_not_watched() -> None:
    class Own(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.mine = nn.LSTM(2, 2), 1

    class Logs(Callback):
        def on_train_start(self, *arguments: Any) -> None:
            self.log("a", 1.0)

    own, logs = Own(), Logs()
    logs.log, logs.log_dict = own.log, own.log_dict  # as Lightning does
    accesses = Accesses()
    accesses.watch({"Own": own, "Own.rnn": own.rnn, "Logs": logs})
    wanted = {"mine", "rnn"} & {*watched_names(Own)}
    assert watched_names(Own, Logs, nn.LSTM) == [*wanted] == ["mine"]
    assert accesses._absent == {}
    accesses.close()


def test_a_copy_that_reads_counts_as_well(watched: tuple[Accesses, Part]) -> None:
    accesses, part = watched
    assert copy.deepcopy(part).number == 0.5
    accesses.boundary()
    assert accesses.verdict(part, "number") == "read"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compilers_can_read_a_watched_module(watched: tuple[Accesses, Part]) -> None:
    _, part = watched
    x = torch.ones(1, 2)
    expected = part(x)
    compiled = torch.compile(part, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.jit.trace(part, x)(x), expected)


def test_a_compiled_module_is_not_watched() -> None:
    part = nn.Sequential(torch.compile(Part(), backend="eager"))
    Accesses().watch({"part": part[0], "inner": part[0]._orig_mod})
    assert "number" not in vars(Part)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_class_with_a_compiled_method_is_not_watched() -> None:
    class Compiles(Part):
        pass

    Compiles.forward = torch.compile(Part.forward, backend="eager")  # type: ignore[method-assign]
    Accesses().watch({"Compiles": Compiles()})
    assert "number" not in vars(Part)


class Sets(nn.Module):
    def set_temperature(self, value: float) -> None:
        self.temperature = value


class Default:
    temperature = 2.0


class SetsWithDefault(Sets, Default):
    """Has a default in a base that comes after the one with the descriptor."""


def test_a_default_of_another_base_is_still_found() -> None:
    accesses, item = Accesses(), SetsWithDefault()
    accesses.watch({"Sets": Sets(), "SetsWithDefault": item})
    try:
        assert item.temperature == 2.0
        assert not hasattr(Sets(), "temperature")
        item.set_temperature(3.0)
        assert item.temperature == 3.0
    finally:
        accesses.close()
