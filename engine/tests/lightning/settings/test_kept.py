"""A checkpoint does not change what a user has configured without a word: in a new run, and in a resumed one."""

import logging
import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BaseFinetuning, EarlyStopping, Timer
from lightning.pytorch.callbacks import GradientAccumulationScheduler as Accumulates
from tests.support.configured import BATCHES, Net, cosine, fit, one_cycle
from torch.optim import Adam, AdamW, lr_scheduler
from torch.utils.data import TensorDataset

import cairn
from cairn.errors import ConfigError
from cairn.lightning.settings import parts
from cairn.lightning.settings.kept import Settings

FOLLOWS, KEEPS = "run follows its configuration, not its checkpoint: ", "run keeps settings of its checkpoint: "


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, "cairn")


@pytest.fixture(params=["this version", pytest.param("an earlier version", marks=pytest.mark.slow)])
def saved_by(request, monkeypatch):
    """Save a checkpoint with this version, or one that does not say what was configured."""

    def save(directory, net, **options):
        with pytest.MonkeyPatch.context() as patch:
            if request.param == "an earlier version":
                patch.setattr(Settings, "state", lambda self: {})
            return fit(directory, net, **options)

    return save


def new(directory, net, old, number=-1, **options):
    """Start a new run from a checkpoint of an old one, and train up to three epochs."""
    return fit(directory / "new", net, old.path(number), **{"epochs": 3, **options})


# A new run


@pytest.mark.parametrize(
    ("before", "after", "name", "value"),
    [
        ({"lr": 0.1}, {"lr": 0.5}, "lr", 0.5),
        ({"weight_decay": 0.0}, {"weight_decay": 0.3}, "weight_decay", 0.3),
        ({"momentum": 0.5}, {"momentum": 0.9}, "momentum", 0.9),
        ({"optimizer": AdamW, "betas": (0.9, 0.9)}, {"optimizer": AdamW, "betas": (0.8, 0.9)}, "betas", (0.8, 0.9)),
        ({"optimizer": Adam}, {"optimizer": AdamW, "lr": 0.2}, "lr", 0.2),
    ],
)
def test_a_new_run_follows_the_options_of_its_optimizer(tmp_path, saved_by, before, after, name, value, caplog):
    run = new(tmp_path, Net(**after), saved_by(tmp_path / "old", Net(**before)))
    assert run.group[name] == value
    assert f"The new {FOLLOWS}" in caplog.text
    assert len(run.net.rates) == BATCHES


def test_without_a_change_nothing_is_said(tmp_path, saved_by, caplog):
    net = lambda: Net(schedule=cosine(100), optimizer=AdamW)  # noqa: E731
    old = saved_by(tmp_path / "old", net())
    whole = fit(tmp_path / "whole", net(), epochs=3)
    run = new(tmp_path, net(), old)
    assert run.net.rates == whole.net.rates[2 * BATCHES :]
    assert FOLLOWS not in caplog.text
    assert KEEPS not in caplog.text


SCHEDULES = {
    "lr of a cosine": ({"schedule": cosine(40)}, {"schedule": cosine(40), "lr": 0.2}),
    "length of a cosine": ({"schedule": cosine(40)}, {"schedule": cosine(80)}),
    "length of one cycle": ({"schedule": one_cycle(), "momentum": 0.9}, {"schedule": one_cycle(), "momentum": 0.9}),
    "factor of steps": (
        {"schedule": lambda o, _: lr_scheduler.StepLR(o, 2, 0.5)},
        {"schedule": lambda o, _: lr_scheduler.StepLR(o, 2, 0.9)},
    ),
    "milestones": (
        {"schedule": lambda o, _: lr_scheduler.MultiStepLR(o, [2, 4])},
        {"schedule": lambda o, _: lr_scheduler.MultiStepLR(o, [30])},
    ),
    "a function": (
        {"schedule": lambda o, _: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step))},
        {"schedule": lambda o, _: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)), "lr": 0.3},
    ),
}


FAST = {"length of a cosine", "length of one cycle"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in SCHEDULES]
)
def test_a_new_run_is_where_its_own_schedule_would_be(tmp_path, saved_by, name):
    before, after = SCHEDULES[name]
    old = saved_by(tmp_path / "old", Net(**before))
    whole = fit(tmp_path / "whole", Net(**after), epochs=3)
    done = old.checkpoints.saved[1].position.total_batches
    run = new(tmp_path, Net(**after), old, 1)
    assert run.net.rates == pytest.approx(whole.net.rates[done:])


def test_a_schedule_of_another_kind_continues_at_the_same_step(tmp_path, caplog):
    old = fit(tmp_path / "old", Net(schedule=lambda o, _: lr_scheduler.StepLR(o, 2, 0.5)))
    whole = fit(tmp_path / "whole", Net(schedule=cosine(40)), epochs=3)
    run = new(tmp_path, Net(schedule=cosine(40)), old)
    assert run.net.rates == pytest.approx(whole.net.rates[2 * BATCHES :])
    assert "CosineAnnealingLR in place of StepLR" in caplog.text


def test_without_its_schedule_a_new_run_has_its_configured_rate(tmp_path, saved_by):
    run = new(tmp_path, Net(), saved_by(tmp_path / "old", Net(schedule=cosine(32))))
    assert {*run.net.rates} == {0.1}


def test_a_plateau_keeps_its_rate_and_follows_its_options(tmp_path):
    plateau = lambda patience: lambda o, _: lr_scheduler.ReduceLROnPlateau(o, patience=patience, factor=0.5)  # noqa: E731
    old = fit(tmp_path / "old", Net(schedule=plateau(0), interval="epoch"), epochs=5)
    run = new(tmp_path, Net(schedule=plateau(100), interval="epoch"), old, epochs=7)
    assert len({*run.net.rates}) == 1  # with its old patience, it would fall in each epoch
    assert run.net.rates[0] < 0.1


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        ({"momentum": 0.9}, {"optimizer": AdamW}, ("SGD", "AdamW")),
        (
            {"schedule": cosine(9)},
            {"schedule": lambda o, _: lr_scheduler.LambdaLR(o, lambda step: 1.0)},
            ("CosineAnnealingLR", "LambdaLR"),
        ),
    ],
)
def test_a_state_of_another_class_is_refused_before_the_first_batch(tmp_path, before, after, names):
    old, net = fit(tmp_path / "old", Net(**before)), Net(**after)
    with pytest.raises(
        ConfigError, match="the state of {}, and this run has {}, .*from the weights alone".format(*names)
    ):
        new(tmp_path, net, old)
    assert net.rates == []


@pytest.mark.parametrize("freeze", [True, False])
def test_a_new_run_freezes_what_it_is_configured_to_freeze(tmp_path, saved_by, freeze):
    old = saved_by(tmp_path / "old", Net(freeze=not freeze))
    run = new(tmp_path, Net(freeze=freeze), old, 2)
    assert [p.requires_grad for p in run.net.parameters()] == [not freeze, not freeze, True, True]
    same = torch.equal(run.net.a.weight, torch.load(old.path(2), weights_only=True)["state_dict"]["a.weight"])
    assert same == freeze


class Unfreeze(BaseFinetuning):
    """Unfreezes a part of the model in the second epoch."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.a)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.make_trainable(pl_module.a)


def test_what_training_has_unfrozen_stays_so_in_a_new_run(tmp_path):
    old = fit(tmp_path / "old", Net(), callbacks=[Unfreeze()])
    run = new(tmp_path, Net(), old, callbacks=[Unfreeze()])
    assert all(parameter.requires_grad for parameter in run.net.parameters())


def test_a_metric_with_other_settings_starts_empty(tmp_path, saved_by, caplog):
    old = saved_by(tmp_path / "old", Net(threshold=0.5))
    net = Net(threshold=0.9)
    run = new(tmp_path, net, old, 2, epochs=2)  # in the middle of the second epoch
    assert net.accuracy.threshold == 0.9
    left = 2 * BATCHES - old.checkpoints.saved[2].position.total_batches
    states = torch.load(run.path(), weights_only=True)["cairn"]["ranks"][0]["metrics"]["accuracy"]["states"]
    assert sum(int(value) for value in states.values()) in (0, 2 * left)  # 0: after the end of the epoch
    assert "accuracy (a metric) starts empty: threshold=0.9 (0.5 in the checkpoint)" in caplog.text


def test_a_metric_that_a_new_run_does_not_have_is_left_out(tmp_path):
    class Without(Net):
        def __init__(self):
            super().__init__()
            del self.accuracy

        def training_step(self, batch, batch_idx):
            self.epochs.append(self.current_epoch)
            return self.b(self.a(batch[0])).square().mean()

    run = new(tmp_path, Without(), fit(tmp_path / "old", Net()), 2)
    assert run.net.epochs[-1] == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"accumulate_grad_batches": 1}, {"accumulate_grad_batches": 4}),
        (
            {"callbacks": [Accumulates({0: 2})]},
            {"callbacks": [Accumulates({0: 4})]},
        ),
        ({"callbacks": [Accumulates({0: 2})]}, {"accumulate_grad_batches": 4}),
    ],
)
def test_a_new_run_accumulates_as_it_is_configured(tmp_path, before, after):
    run = new(tmp_path, Net(), fit(tmp_path / "old", Net(), **before), 0, **after)
    assert run.trainer.accumulate_grad_batches == 4


class Anneals(Callback):
    """Callback that saves its arguments with its state; training changes one of them."""

    def __init__(self, rate=1.0, temperature=1.0):
        self.rate, self.temperature = rate, temperature

    def on_train_batch_end(self, *args):
        self.temperature *= 0.5

    def state_dict(self):
        return {"rate": self.rate, "temperature": self.temperature}

    def load_state_dict(self, state_dict):
        vars(self).update(state_dict)


def test_arguments_of_callbacks_follow_unless_training_has_changed_them(tmp_path, caplog):
    old = fit(tmp_path / "old", Net(), callbacks=[Anneals()])
    changed = Anneals(2.0, 3.0)
    new(tmp_path, Net(), old, callbacks=[changed])
    assert (changed.rate, changed.temperature) == (2.0, 0.5 ** (3 * BATCHES))
    assert "Anneals: rate=2.0 (1.0 in the checkpoint)" in caplog.text
    assert f"Anneals: temperature={0.5 ** (2 * BATCHES)} (3.0 is configured)" in caplog.text


# A resumed run


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"lr": 0.1}, {"lr": 0.5}, "SGD: lr=0.1 (0.5 is configured)"),
        ({"schedule": cosine(40)}, {"schedule": cosine(80)}, "CosineAnnealingLR: T_max=40 (80 is configured)"),
        ({"threshold": 0.5}, {"threshold": 0.6}, "BinaryAccuracy: threshold=0.5 (0.6 is configured)"),
        ({"freeze": False}, {"freeze": True}, "frozen parameters (a.bias, a.weight)"),
    ],
)
def test_a_resumed_run_keeps_its_settings_and_says_which_each_time(tmp_path, before, after, said, caplog):
    whole = fit(tmp_path / "whole", Net(**before), epochs=4)
    rates = fit(tmp_path / "run", Net(**before)).net.rates
    for epochs in (3, 4):
        caplog.clear()
        run = fit(tmp_path / "run", Net(**after), "resume", epochs=epochs)
        rates += run.net.rates
        assert f"The resumed {KEEPS}" in caplog.text
        assert said in caplog.text
    assert rates == whole.net.rates
    weights = whole.net.state_dict()
    assert {n: p.requires_grad for n, p in run.net.named_parameters()} == {
        n: p.requires_grad for n, p in whole.net.named_parameters()
    }
    if "schedule" not in before:
        assert weights.keys() == run.net.state_dict().keys()


def test_a_resumed_run_without_a_change_says_nothing(tmp_path, caplog):
    options = {"schedule": cosine(40), "optimizer": AdamW}
    fit(tmp_path, Net(**options), callbacks=[Anneals(), EarlyStopping("val/loss", patience=9)], max_steps=7)
    run = fit(tmp_path, Net(**options), "resume", [Anneals(), EarlyStopping("val/loss", patience=9)], max_steps=10)
    assert len(run.net.rates) == 3
    assert [record for record in caplog.records if record.name.startswith("cairn")] == []


# Early stopping

# Lightning's own, when a callback of the checkpoint is removed.
removed = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")

EARLY = 5
"""Epochs until `EarlyStopping` with patience 2 stops: the loss falls until the third one."""


def early(patience=2, at_epoch_end=True, **options):
    return [EarlyStopping("val/loss", patience=patience, check_on_train_epoch_end=at_epoch_end, **options)]


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["end of epoch", "validation"])
def at_epoch_end(request):
    return request.param


def test_a_run_that_has_stopped_early_stays_stopped(tmp_path, at_epoch_end, caplog):
    fit(tmp_path, Net(), callbacks=early(2, at_epoch_end), epochs=20)
    run = fit(tmp_path, Net(), "resume", early(2, at_epoch_end), epochs=20)
    assert (run.net.epochs, run.trainer.current_epoch) == ([], EARLY)
    assert "Nothing remains to be trained: the run stopped early. To train on, raise max_epochs" in caplog.text


@removed
@pytest.mark.parametrize(
    ("callbacks", "epochs", "end"),
    [
        (lambda at: early(2, at), 30, EARLY + 2),  # more epochs: patience begins again
        (lambda at: early(4, at), 20, EARLY + 2),  # as if patience had been 4 from the beginning
        (lambda at: early(2, at, min_delta=0.1), 20, EARLY + 2),
        (lambda at: [], 8, 8),
    ],
)
def test_a_run_that_has_stopped_early_trains_on_when_it_is_asked_to(
    tmp_path, at_epoch_end, callbacks, epochs, end, caplog
):
    saved_epochs = 20 if epochs != 8 else 8
    fit(tmp_path, Net(), callbacks=early(2, at_epoch_end), epochs=saved_epochs)
    net = Net()
    run = fit(tmp_path, net, "resume", callbacks(at_epoch_end), epochs=epochs)
    assert [*dict.fromkeys(net.epochs)] == list(range(EARLY, end))
    assert "The run had stopped early, and now trains on" in caplog.text
    assert run.trainer.current_epoch == end


@pytest.mark.slow
def test_more_patience_ends_where_a_run_with_that_patience_ends(tmp_path):
    whole = fit(tmp_path / "whole", Net(), callbacks=early(4), epochs=20)
    torch.manual_seed(0)
    run = tmp_path / "run"
    fit(run, Net(), callbacks=early(2), epochs=20)
    after = fit(run, Net(), "resume", early(4), epochs=20)
    assert after.trainer.current_epoch == whole.trainer.current_epoch
    assert after.checkpoints.newest.position == whole.checkpoints.newest.position


@pytest.mark.slow
@removed
def test_a_stop_inside_an_epoch_is_withdrawn_there(tmp_path):
    options = {"val_check_interval": 2}
    old = fit(tmp_path, Net(), callbacks=early(2, False), epochs=6, **options)
    batches = old.checkpoints.newest.position.batch
    assert 0 < batches < BATCHES
    run = fit(tmp_path, Net(), "resume", epochs=7, **options)
    assert len(run.net.epochs) == 7 * BATCHES - old.checkpoints.newest.position.total_batches


def test_a_new_run_decides_afresh(tmp_path, at_epoch_end, caplog):
    old = fit(tmp_path / "old", Net(), callbacks=early(2, at_epoch_end), epochs=20)
    (stopping,) = early(3, at_epoch_end)
    new(tmp_path, Net(), old, callbacks=[stopping], epochs=20)
    # The first check of the new run is an improvement over nothing.
    assert (stopping.wait_count, stopping.patience, stopping.stopped_epoch) == (3, 3, EARLY + 3)
    assert "stopped early" not in caplog.text


def test_an_earlier_version_also_lets_early_stopping_follow_its_arguments(tmp_path, saved_by):
    old = saved_by(tmp_path / "old", Net(), callbacks=early(2), epochs=4)
    (stopping,) = early(7)
    fit(tmp_path / "old", Net(), "resume", [stopping], epochs=5)
    assert stopping.patience == 7
    assert old.net.epochs


@removed
def test_a_run_of_an_earlier_version_that_has_stopped_early_trains_on_without_the_callback(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "state", lambda self: {})
        fit(tmp_path, Net(), callbacks=early(2), epochs=20)
    assert fit(tmp_path, Net(), "resume", early(2), epochs=20).net.epochs == []
    assert fit(tmp_path, Net(), "resume", epochs=6).net.epochs == [5] * BATCHES


def test_a_timer_begins_at_zero_in_a_new_run(tmp_path):
    old = fit(tmp_path / "old", Net(), callbacks=[Timer(duration={"seconds": 1000})])
    state = torch.load(old.path(), weights_only=True)["callbacks"]
    assert any("time_elapsed" in value for value in state.values())
    timer = Timer(duration={"seconds": 1000})
    timer._offset = -5
    new(tmp_path, Net(), old, callbacks=[timer])
    assert timer._offset == -5  # not the time of the old run


# Nothing remains


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 2}, "the checkpoint has completed 2 epochs, and max_epochs=2: raise max_epochs to train on"),
        (
            {"max_steps": 10, "epochs": 9},
            "the checkpoint has taken 10 steps, and max_steps=10: raise max_steps to train on",
        ),
    ],
)
@pytest.mark.parametrize("resumes", [True, False])
def test_a_fit_with_nothing_to_train_says_so(tmp_path, options, said, resumes, caplog):
    old = fit(tmp_path / "old", Net())
    run = fit(tmp_path / ("old" if resumes else "new"), Net(), "resume" if resumes else old.path(), **options)
    assert run.net.rates == []
    assert f"Nothing remains to be trained: {said}" in caplog.text


# Plain values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, 0.1),
        ((1, "a", None), [1, "a", None]),
        ({2: 1}, [[2, 1]]),
        (torch.tensor(2.0), 2.0),
        (parts.Part, "refused"),
        (torch.zeros(3), "refused"),
        (range(3), "refused"),
        ([0] * 1001, "refused"),
        ("x" * 1001, "refused"),
    ],
)
def test_a_setting_is_a_number_a_string_or_a_short_list(value, expected):
    try:
        found = parts.plain(value)
    except parts._Other:
        found = "refused"
    assert found == expected


def test_not_a_number_equals_itself():
    assert parts.same(math.nan, math.nan)
    assert not parts.same(math.nan, 0.0)
    assert parts.same(1, 1.0)


# What training exchanges


class Exchanges(Callback):
    """Callback that exchanges the optimizer at the start of the second epoch."""

    def __init__(self, kind):
        self.kind = kind

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            trainer.strategy.optimizers = [self.kind(module.parameters(), lr=0.1)]


def test_an_optimizer_that_a_hook_exchanges_is_named_at_the_next_save_and_at_a_resume(tmp_path, caplog):
    run = fit(tmp_path, Net(), callbacks=[Exchanges(AdamW)])
    assert caplog.text.count("Training has exchanged SGD for AdamW.") == 1
    fit(tmp_path / "first epoch", Net(), run.path(1), callbacks=[Exchanges(AdamW)])
    with pytest.raises(ConfigError, match="Training had exchanged SGD for AdamW before this checkpoint was saved"):
        fit(tmp_path, Net(), "resume", epochs=3, callbacks=[Exchanges(AdamW)])
    fit(tmp_path, Net(optimizer=AdamW), "resume", epochs=3)


def test_a_new_optimizer_of_the_same_class_is_refused_only_if_it_leaves_a_scheduler_behind(tmp_path, caplog):
    fit(tmp_path / "a", Net(), callbacks=[Exchanges(torch.optim.SGD)])
    fit(tmp_path / "a", Net(), "resume", epochs=3)
    assert "exchanged" not in caplog.text
    fit(tmp_path / "b", Net(schedule=cosine(40)), callbacks=[Exchanges(torch.optim.SGD)])
    assert "Training has exchanged SGD for one that does not follow CosineAnnealingLR." in caplog.text
    with pytest.raises(ConfigError, match="Training had exchanged SGD for one that does not follow"):
        fit(tmp_path / "b", Net(schedule=cosine(40)), "resume", epochs=3)


class Raises(Callback):
    """Callback that raises `max_epochs` in the second epoch."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.current_epoch == 1:
            trainer.fit_loop.max_epochs = 4


@pytest.mark.parametrize("number", [0, 4, 5, 9])
def test_a_resume_keeps_the_limits_that_training_has_raised(tmp_path, number):
    whole = fit(tmp_path / "whole", Net(), callbacks=[Raises()])
    assert whole.net.epochs[-1] == 3
    at = whole.checkpoints.saved[number]
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "whole").glob(f"{at.name.removesuffix('.ckpt')}.*"):
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    run = fit(tmp_path / "run", Net(), "resume", callbacks=[Raises()])
    assert run.net.epochs == whole.net.epochs[at.position.total_batches :]
    again = fit(tmp_path / "run", Net(), "resume", callbacks=[Raises()])
    assert again.net.epochs == []


def test_a_limit_that_the_user_sets_counts(tmp_path):
    fit(tmp_path, Net(), callbacks=[Raises()])
    assert fit(tmp_path, Net(), "resume", epochs=5).net.epochs == [4] * BATCHES
    with pytest.raises(ConfigError, match="max_epochs=3 ends the training before the checkpoint, which has completed"):
        fit(tmp_path, Net(), "resume", epochs=3)


class Dies(Callback):
    """Callback that ends the process, so to say, at the fourth batch of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, 3):
            raise InterruptedError


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_script_that_trains_on_in_a_second_fit_can_be_started_again(tmp_path, epoch):
    def script(dies_in=None):
        net = Net()
        try:
            run = fit(tmp_path, net, "resume", callbacks=[Dies(dies_in)])
            run.trainer.fit_loop.max_epochs = 4
            run.trainer.fit(net, loader(), loader())
        except InterruptedError:
            pass
        return net.epochs

    def loader():
        return cairn.DataLoader(TensorDataset(torch.randn(2 * BATCHES, 2)), 2, shuffle=True, seed=0)

    script(dies_in=epoch)
    saved = (epoch * BATCHES + 3) // 2 * 2
    assert script() == [number for number in range(4) for _ in range(BATCHES)][saved:]
