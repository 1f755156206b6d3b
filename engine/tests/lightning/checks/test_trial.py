"""What the first save would refuse is refused before the first batch, and the trial leaves no trace."""

import enum
import functools
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import IterableDataset

import cairn
from cairn.errors import ConfigError
from cairn.lightning.checks import trial
from cairn.store import names


class Mode(enum.Enum):
    FAST = "fast"


class Model(LightningModule):
    """Counts its batches; options of a test are its attributes."""

    optimizer, scheduler = functools.partial(torch.optim.AdamW, lr=0.1), None

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.num_batches = 0

    def training_step(self, batch, batch_idx):
        self.num_batches += 1
        return self.net(batch + torch.rand(1)).square().mean()

    def configure_optimizers(self):
        optimizer = type(self).optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}


class Remembers(Callback):
    """Saves what it is given, and takes it back."""

    def __init__(self, value):
        self.value, self.loaded = value, None

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state_dict):
        self.loaded = state_dict["value"]


def fit(path, model=Model, callbacks=(), data=None, steps=2, loaders=None, every=1, **options):
    seed_everything(3, verbose=False)
    checkpoints = cairn.Checkpointer(path / "checkpoints", every, writing=cairn.Writing(writer="sync"), **options)
    trainer = Trainer(
        max_steps=steps,
        callbacks=[*callbacks, checkpoints],
        logger=cairn.CSVLogger(path / "csv"),
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        log_every_n_steps=1,
    )
    model = model() if isinstance(model, type) else model
    if loaders is None and data is None:
        loaders = cairn.DataLoader(torch.ones(8, 2), batch_size=2)
    trainer.fit(model, loaders, datamodule=data, ckpt_path=checkpoints.resume())
    return trainer, model


class LogsInASave(Model):
    """Logs in a hook in which Lightning refuses it, and takes no for an answer."""

    def on_save_checkpoint(self, checkpoint):
        try:
            self.log("saves", 1.0)
        except MisconfigurationException as error:
            checkpoint["refused"] = str(error)


def test_what_lightning_refuses_in_a_save_it_refuses_in_the_trial(tmp_path):
    trainer, model = fit(tmp_path, LogsInASave)
    assert "saves" not in trainer.logged_metrics | trainer.callback_metrics
    assert model._current_fx_name is None


# Refused at the start


class KeyedByClass(Remembers):
    """The key that callbacks had before Lightning 1.5, which examples still show."""

    @property
    def state_key(self):
        return type(self)


def test_a_callback_whose_key_is_a_class_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="the state_key of the callback KeyedByClass: return a string there"):
        fit(tmp_path, callbacks=[KeyedByClass(1)])


class Objects:
    pass


class WithFunctions(torch.optim.SGD):
    """Keeps a function among the options of its groups."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)
        self.param_groups[0]["decay"] = lambda step: 0.9**step


class MakesObjects(torch.optim.SGD):
    """Puts an object into its state in its first step."""

    def __init__(self, params):
        super().__init__(params, lr=0.1)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["seen"] = Objects()
            parameter -= 0.1 * parameter.grad
        return loss


class Chained(torch.optim.lr_scheduler.StepLR):
    """Hands on to another scheduler, which its state contains."""

    def __init__(self, optimizer):
        super().__init__(optimizer, 2)
        self.after = torch.optim.lr_scheduler.StepLR(optimizer, 3)


class Extra(Model):
    def get_extra_state(self):
        return {"object": Objects()}

    def set_extra_state(self, state):
        pass


class InHook(Model):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["mine"] = Objects()


class CallbackHook(Callback):
    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["mine"] = Objects()


class Data(LightningDataModule):
    def train_dataloader(self):
        return cairn.DataLoader(torch.ones(8, 2), batch_size=2)

    def state_dict(self):
        return {"vocabulary": Objects()}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.ones(8, 2))

    def state_dict(self):
        return {"reader": Objects()}

    def load_state_dict(self, state):
        pass


class Sampler:
    def __len__(self):
        return 8

    def __iter__(self):
        return iter(range(8))

    def state_dict(self):
        return {"weights": Objects()}

    def load_state_dict(self, state):
        pass


def model(**attributes):
    return type("Changed", (Model,), attributes)()


REFUSED = {
    "callback": (
        lambda: {"callbacks": [Remembers({"deep": [Objects()]})]},
        r"checkpoint\['callbacks'\]\['Remembers'\]\['value'\]\['deep'\]\[0\] is a .*Objects: .*callback Remembers",
    ),
    "a callback that contains itself": (
        lambda: {"callbacks": [Remembers(loop := []), loop.append(loop) or Callback()]},
        "contains itself",
    ),
    "hook of a callback": (lambda: {"callbacks": [CallbackHook()]}, r"checkpoint\['mine'\] is a .*on_save_checkpoint"),
    "hook of the model": (
        lambda: {"model": InHook()},
        r"checkpoint\['mine'\] is a .*on_save_checkpoint\(\) of the model",
    ),
    "extra state": (lambda: {"model": Extra()}, r"\['_extra_state'\]\['object'\] is a .*get_extra_state"),
    "options of an optimizer": (
        lambda: {"model": model(optimizer=WithFunctions)},
        r"\['param_groups'\]\[0\]\['decay'\] is a builtins\.function: .*optimizer WithFunctions",
    ),
    "state of an optimizer": (
        lambda: {"model": model(optimizer=MakesObjects)},
        r"\['optimizer_states'\]\[0\]\['state'\]\[0\]\['seen'\] is a .*optimizer MakesObjects",
    ),
    "scheduler": (
        lambda: {"model": model(scheduler=lambda self, optimizer: Chained(optimizer))},
        r"\['lr_schedulers'\]\[0\]\['after'\] is a torch.optim.lr_scheduler.StepLR: .*scheduler Chained: give it a",
    ),
    "data module": (lambda: {"data": Data()}, r"checkpoint\['Data'\]\['vocabulary'\] is a .*data module Data"),
    "data set": (
        lambda: {"loaders": cairn.DataLoader(Stream(), batch_size=2)},
        r"\['reader'\] is a .*training data set",
    ),
    "sampler": (
        lambda: {"loaders": cairn.DataLoader(torch.ones(8, 2), batch_size=2, sampler=Sampler())},
        r"\['weights'\] is a .*training data set or its sampler",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_first_save_would_refuse_is_refused_before_the_first_batch(tmp_path, name):
    arguments, words = REFUSED[name]
    given = {"model": Model(), **arguments()}
    with pytest.raises(ConfigError, match=words):
        fit(tmp_path, **given)
    assert given["model"].num_batches == 0
    assert list((tmp_path / "checkpoints").glob("*.ckpt")) == []


def test_nothing_is_tried_where_nothing_is_saved(tmp_path):
    fit(tmp_path, InHook(), every=None, triggers={"stop": None, "end": None})


# Accepted


class Late(Callback):
    """What it saves exists only after the first batch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.last = batch_idx

    def state_dict(self):
        return {"last": self.last}


def test_a_hook_whose_state_does_not_exist_yet_does_not_end_the_run(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, logger="cairn"):
        trainer, _ = fit(tmp_path, callbacks=[Late()])
    assert trainer.global_step == 2
    assert "Late.state_dict cannot be called before the first batch" in caplog.text
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["Late"] == {"last": 1}


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3.0),
        np.float32(0.1),
        Path("a"),
        Mode.FAST,
        {1, 2},
        frozenset({1}),
        torch.Size([2]),
        torch.float16,
        b"a",
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_callback_gets_back_what_it_has_saved(tmp_path, value):
    fit(tmp_path, callbacks=[Remembers({"x": (value,)})])
    resumed = Remembers({"x": (value,)})
    fit(tmp_path, callbacks=[resumed], steps=3)
    (found,) = resumed.loaded["x"]
    assert type(found) is type(value)
    assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value


class NumpyFloats(torch.optim.lr_scheduler.LRScheduler):
    """Keeps its rate in a number of numpy."""

    def __init__(self, optimizer):
        self.rate = np.float32(0.1)
        super().__init__(optimizer)

    def get_lr(self):
        self.rate = self.rate * np.float32(0.9)
        return [float(self.rate) for _ in self.optimizer.param_groups]


class Ramp:
    def __call__(self, epoch):
        return 1 / (1 + epoch)


lr_scheduler = torch.optim.lr_scheduler
SCHEDULERS = {
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "object": lambda optimizer: lr_scheduler.LambdaLR(optimizer, Ramp()),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], [2]
    ),
    "chained": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], optimizer
    ),
    "cyclic": lambda optimizer: lr_scheduler.CyclicLR(
        optimizer, 0.01, 0.1, 2, scale_fn=lambda x: 0.5, cycle_momentum=False
    ),
    "numbers of numpy": NumpyFloats,
    "milestones of numpy": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, np.arange(2, 5)),
    "rates of numpy": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: np.float64(0.9)),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_resumes_exactly(tmp_path, name):
    kind = type("Scheduled", (Model,), {"scheduler": lambda self, optimizer: SCHEDULERS[name](optimizer)})
    _, whole = fit(tmp_path / "whole", kind, steps=6)
    fit(tmp_path / "stopped", kind, steps=3)
    _, resumed = fit(tmp_path / "stopped", kind, steps=6)
    assert resumed.num_batches == 3
    assert torch.equal(whole.net.weight, resumed.net.weight)
    once = fit(tmp_path / "other", Model, steps=6)[1]
    assert not torch.equal(whole.net.weight, once.net.weight), "the scheduler changes something"


def test_averaged_weights_are_tried_too(tmp_path):
    trainer, _ = fit(tmp_path, callbacks=[EMAWeightAveraging()])
    assert trainer.global_step == 2


# Without a trace


class Restless(Callback):
    """Its hooks draw random numbers and count."""

    def __init__(self):
        self.saves, self.names, self.by_kind, self.seen = 0, [], {}, set()

    def _touch(self):
        torch.rand(1), np.random.rand(), random.random()
        self.saves += 1
        self.names.append("save")
        self.by_kind["save"] = self.saves
        self.seen.add(self.saves)

    def state_dict(self):
        self._touch()
        return {"saves": self.saves}

    def load_state_dict(self, state_dict):
        self.saves = state_dict["saves"]

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self._touch()


def test_the_trial_leaves_no_trace(tmp_path):
    found = []

    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            found.append(facts(trainer))

        def on_train_epoch_start(self, trainer, pl_module):
            found.append(facts(trainer))

    def facts(trainer):
        module = trainer.lightning_module
        return (
            *(torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()),
            {name: value.tolist() for name, value in module.state_dict().items()},
            [parameter.grad for parameter in module.parameters()],
            trainer.optimizers[0].state_dict(),
            (restless.saves, list(restless.names), dict(restless.by_kind), set(restless.seen)),
            sorted(str(path) for path in tmp_path.rglob("*") if path.name not in (names.CLAIM, names.LOCK)),
        )

    restless = Restless()
    fit(tmp_path, callbacks=[restless, Look()], every=None)
    assert found[0] == found[1]
    assert restless.saves > 0, "it was saved at the end"


class Counting(Callback):
    """Counts how often it is saved."""

    saves = 0

    def state_dict(self):
        self.saves += 1
        return {"saves": self.saves}

    def load_state_dict(self, state_dict):
        self.saves = state_dict["saves"]


def test_a_count_of_saves_resumes_exactly(tmp_path):
    fit(tmp_path, callbacks=[counting := Counting()])
    assert counting.saves == 2
    fit(tmp_path, callbacks=[counting := Counting()], steps=4)
    assert counting.saves == 4


# Several processes


class Rank:
    """Agreement of one rank with another one that is not there."""

    def __init__(self, leads, other=""):
        self.leads, self.other, self.num_calls = leads, other, 0

    def largest(self, number):
        self.num_calls += 1  # first whether there was an error that is not a refusal
        return [number or (self.num_calls > 1 and bool(self.other))]

    def gather(self, value):
        self.mine = value
        return [value, self.other] if self.leads else []

    def share(self, value):
        return value if self.leads else self.other or f"Rank 1: {self.mine}"


@pytest.mark.parametrize(
    ("rank", "metadata", "words"),
    [
        (Rank(leads=True), {"bad": Objects()}, r"checkpoint\['cairn'\]\['config'\]\['bad'\]"),
        (Rank(leads=False, other="message of rank 0"), {}, "^message of rank 0"),
        (Rank(leads=False), {"bad": Objects()}, r"^Rank 1: [\s\S]*checkpoint\['cairn'\]\['config'\]\['bad'\]"),
        (Rank(leads=True, other="message of rank 1"), {}, "^Rank 1: message of rank 1"),
    ],
    ids=["rank 0", "not rank 0, but rank 0", "not rank 0", "rank 0, of another"],
)
def test_all_ranks_stop_if_one_has_to(tmp_path, rank, metadata, words):
    trainer, _ = fit(tmp_path)
    with pytest.raises(ConfigError, match=words):
        trial.check(trainer, rank, metadata)
    trial.check(trainer, Rank(leads=rank.leads), {})
