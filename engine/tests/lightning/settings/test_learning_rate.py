"""A new run whose schedule differs from that of its checkpoint trains at the rates of a run from the start."""

import logging
from types import SimpleNamespace

import pytest
import torch
from tests.support.configured import BATCHES, Net, cosine, fit, one_cycle
from torch.optim import AdamW, lr_scheduler

from cairn.errors import ConfigError
from cairn.lightning.settings import learning_rate, schedules

FOLLOWS, KEEPS = "run follows its configuration, not its checkpoint: ", "run keeps settings of its checkpoint: "


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, "cairn")


def linear(steps):
    return lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, steps)


def sequential(milestone, steps):
    def make(optimizer, _):
        inner = [linear(milestone)(optimizer), lr_scheduler.CosineAnnealingLR(optimizer, steps)]
        return lr_scheduler.SequentialLR(optimizer, inner, [milestone])

    return make


def chained(steps, gamma):
    return lambda o, _: lr_scheduler.ChainedScheduler([linear(steps)(o), lr_scheduler.ExponentialLR(o, gamma)])


def nested(milestone, gamma):
    def make(optimizer, net):
        inner = [sequential(milestone, 20)(optimizer, net), lr_scheduler.ExponentialLR(optimizer, gamma)]
        return lr_scheduler.ChainedScheduler(inner)

    return make


def cyclic(up, **options):
    return lambda o, _: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=up, cycle_momentum=False, **options)


class Halves(lr_scheduler.LRScheduler):
    """A scheduler of a user, which computes each rate from the one before, and counts by itself."""

    def __init__(self, optimizer, every):
        self.every, self.num_halved = every, 0
        super().__init__(optimizer)

    def get_lr(self):
        halve = self.last_epoch > 0 and self.last_epoch % self.every == 0
        self.num_halved += halve
        return [group["lr"] * (0.5 if halve else 1.0) for group in self.optimizer.param_groups]


CHANGES = {
    "sequential": (sequential(2, 4), sequential(4, 20)),
    "sequential, which was at its end": (sequential(2, 6), sequential(9, 20)),
    "chained": (chained(3, 0.9), chained(9, 0.5)),
    "nested": (nested(3, 0.9), nested(5, 0.5)),
    "restarts": (
        lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
        lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    ),
    "cyclic": (cyclic(2), cyclic(3, mode="exp_range", gamma=0.9)),
    "exponential": (
        lambda o, _: lr_scheduler.ExponentialLR(o, 0.5),
        lambda o, _: lr_scheduler.ExponentialLR(o, 0.9),
    ),
    "multiplicative": (
        lambda o, _: lr_scheduler.MultiplicativeLR(o, (lambda f: lambda _: f)(0.5)),
        lambda o, _: lr_scheduler.MultiplicativeLR(o, (lambda f: lambda _: f)(0.9)),
    ),
    "of a user": (lambda o, _: Halves(o, 2), lambda o, _: Halves(o, 3)),
    "other parts of a sequence": (
        sequential(3, 6),
        lambda o, _: lr_scheduler.SequentialLR(o, [linear(3)(o), lr_scheduler.StepLR(o, 2, 0.5)], [3]),
    ),
}


def some_fast(names, fast):
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.slow]) for name in names]


def as_from_the_start(directory, before, after, epochs=3):
    """Train with `before`, then in a new run with `after`, and return its rates and those of a run from the start."""
    old = fit(directory / "old", Net(**before))
    whole = fit(directory / "whole", Net(**after), epochs=epochs)
    run = fit(directory / "new", Net(**after), old.path(), epochs=epochs)
    assert len(run.net.rates) == (epochs - 2) * BATCHES
    return run, whole


@pytest.mark.parametrize("name", some_fast(CHANGES, {"sequential", "restarts", "of a user"}))
def test_a_changed_schedule_is_where_it_would_be(tmp_path, name, caplog):
    before, after = CHANGES[name]
    run, whole = as_from_the_start(tmp_path, {"schedule": before}, {"schedule": after})
    assert run.net.rates == whole.net.rates[2 * BATCHES :]
    assert caplog.text.count(f"The new {FOLLOWS}") == 1
    assert KEEPS not in caplog.text
    ends = [trainer.lr_scheduler_configs[0].scheduler.state_dict() for trainer in (run.trainer, whole.trainer)]
    assert repr(ends[0]) == repr(ends[1]) or "function" in repr(ends)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"interval": "epoch"}, {"interval": "step"}, "StepLR: interval=step (epoch in the checkpoint)"),
        pytest.param(
            *({"interval": "step"}, {"interval": "epoch"}, "StepLR: interval=epoch (step in the checkpoint)"),
            marks=pytest.mark.slow,
        ),
        ({}, {"frequency": 2}, "StepLR: frequency=2 (1 in the checkpoint)"),
        pytest.param(
            *({}, {"interval": "epoch", "frequency": 2}, "StepLR: frequency=2 (1 in the checkpoint)"),
            marks=pytest.mark.slow,
        ),
        ({"schedule": None}, {}, "StepLR (not in the checkpoint)"),
        pytest.param(
            *({"schedule": None}, {"interval": "epoch"}, "StepLR (not in the checkpoint)"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_schedule_that_is_new_or_takes_other_steps_is_where_it_would_be(tmp_path, before, after, said, caplog):
    schedule = lambda o, _: lr_scheduler.StepLR(o, 1, 0.9)  # noqa: E731
    old, new = ({"schedule": schedule, **options} for options in (before, after))
    run, whole = as_from_the_start(tmp_path, old, new)
    assert run.net.rates == whole.net.rates[2 * BATCHES :]
    assert said in caplog.text
    number = run.trainer.lr_scheduler_configs[0].scheduler.last_epoch - (BATCHES if whole.net.interval == "step" else 1)
    if whole.net.frequency == 1:
        assert f"the learning rate is where StepLR would be after {number} steps of the schedule" in caplog.text


@pytest.mark.slow
def test_inside_an_epoch_the_steps_of_the_epoch_so_far_count(tmp_path):
    schedule = lambda o, _: lr_scheduler.StepLR(o, 1, 0.9)  # noqa: E731
    for number, (interval, frequency) in enumerate([("step", 1), ("step", 2), ("epoch", 1)]):
        after = {"schedule": schedule, "interval": interval, "frequency": frequency}
        old = fit(tmp_path / f"old{number}", Net())
        whole = fit(tmp_path / f"whole{number}", Net(**after), epochs=3)
        saved = old.checkpoints.saved[3]
        assert 0 < saved.position.batch < BATCHES
        run = fit(tmp_path / f"new{number}", Net(**after), old.path(3), epochs=3)
        assert run.net.rates == whole.net.rates[saved.position.total_batches :]


def test_one_cycle_of_another_length_also_follows_its_momentum(tmp_path):
    options = {"optimizer": AdamW}
    run, whole = as_from_the_start(
        tmp_path, {"schedule": one_cycle(40), **options}, {"schedule": one_cycle(20), **options}
    )
    assert run.net.rates == whole.net.rates[2 * BATCHES :]
    assert run.group["betas"] == whole.group["betas"]


def test_a_cycle_that_is_over_already_is_refused(tmp_path):
    old = fit(tmp_path / "old", Net(schedule=one_cycle(40), momentum=0.9))
    net = Net(schedule=one_cycle(6), momentum=0.9)
    with pytest.raises(ConfigError, match="OneCycleLR ends after 6 steps, and the training has 15"):
        fit(tmp_path / "new", net, old.path(), epochs=3)
    assert net.rates == []


class Stepless(lr_scheduler.StepLR):
    """A scheduler that only its owner can advance."""

    def step(self, epoch=None):
        if self._step_count > 0 and epoch is None:
            raise TypeError("step() needs an epoch")
        self._step_count += 1
        self._update_lr(epoch)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_schedule_that_cannot_be_advanced_is_named(tmp_path, caplog):
    class Own(Net):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step(self.global_step)

    net = lambda gamma, lr: Own(schedule=lambda o, _: Stepless(o, 5, gamma), lr=lr)  # noqa: E731
    old = fit(tmp_path / "old", net(0.5, 0.1))
    fit(tmp_path / "new", net(0.5, 0.2), old.path(), epochs=3)
    assert (
        "keeps settings of its checkpoint: the progress of Stepless (TypeError: step() needs an epoch)" in caplog.text
    )


def test_a_schedule_that_depends_on_a_metric_keeps_its_state(tmp_path, caplog):
    plateau = lambda patience: lambda o, _: lr_scheduler.ReduceLROnPlateau(o, patience=patience, factor=0.5)  # noqa: E731
    old = fit(tmp_path / "old", Net(schedule=plateau(0), interval="epoch"), epochs=5)
    run = fit(tmp_path / "new", Net(schedule=plateau(9), interval="epoch", lr=0.2), old.path(), epochs=6)
    assert {*run.net.rates} == {2 * old.group["lr"]}
    assert KEEPS not in caplog.text


def test_without_a_change_the_state_of_the_checkpoint_stays(tmp_path, caplog):
    class Own(Net):
        """Does not take all steps."""

        def lr_scheduler_step(self, scheduler, metric):
            if self.global_step % 2:
                scheduler.step()

    old = fit(tmp_path / "old", Own(schedule=sequential(2, 30)))
    whole = fit(tmp_path / "whole", Own(schedule=sequential(2, 30)), epochs=3)
    run = fit(tmp_path / "new", Own(schedule=sequential(2, 30)), old.path(), epochs=3)
    assert run.net.rates == whole.net.rates[2 * BATCHES :]
    assert FOLLOWS not in caplog.text


def test_a_resumed_run_names_a_schedule_that_is_new_or_takes_other_steps(tmp_path, caplog):
    fit(tmp_path / "a", Net(schedule=cosine(40), interval="epoch"))
    fit(tmp_path / "a", Net(schedule=cosine(40)), "resume", epochs=3)
    assert f"The resumed {FOLLOWS}CosineAnnealingLR: interval=step (epoch in the checkpoint)" in caplog.text
    fit(tmp_path / "b", Net())
    fit(tmp_path / "b", Net(schedule=cosine(40)), "resume", epochs=3)
    assert f"The resumed {FOLLOWS}CosineAnnealingLR (not in the checkpoint)" in caplog.text


def test_several_schedulers_take_their_steps_in_turn():
    def make():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
        return optimizer, [
            lr_scheduler.StepLR(optimizer, 2, 0.5),
            lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
            lr_scheduler.ExponentialLR(optimizer, 0.5),
        ]

    optimizer, every = make()
    optimizer.step()
    for number in range(12):
        for scheduler in every if number % 4 == 3 else every[:2]:
            scheduler.step()
    other, built = make()
    learning_rate.Schedule(other, built).move_to([12, 12, 3])
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_a_rate_in_a_tensor_stays_in_it():
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=rate, capturable=True)
    schedule = learning_rate.Schedule(optimizer, [lr_scheduler.StepLR(optimizer, 1, 0.5)])
    schedule.move_to([2])
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(0.025)


class ComputedForEachGroup(lr_scheduler.CosineAnnealingLR):
    """A scheduler that is not known to treat groups alike."""


def of_groups(make, rates=(0.1, 0.1, 0.02, 0.1, 0.02)):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    optimizer.step()
    return optimizer, learning_rate.Schedule(optimizer, [make(optimizer)])


def ends_of(optimizer, schedule):
    groups = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
    return groups, schedule.schedulers[0].state_dict()


def test_groups_with_the_same_rate_are_computed_once_and_end_equal():
    calls = []
    shape = lambda step: calls.append(step) or 1 / (1 + step)  # noqa: E731
    schedule = of_groups(lambda optimizer: lr_scheduler.LambdaLR(optimizer, shape))[1]
    calls.clear()
    schedule.move_to([7])
    assert len(calls) == 2 * 7  # two kinds of groups, and not five groups
    ends = []
    for kind in (lr_scheduler.CosineAnnealingLR, ComputedForEachGroup):
        optimizer, schedule = of_groups(lambda optimizer, kind=kind: kind(optimizer, 9))
        schedule.move_to([7])
        ends.append(ends_of(optimizer, schedule))
    assert ends[0] == ends[1]
    assert [len(group) for group in (ends[0][0], ends[0][1]["base_lrs"], ends[0][1]["_last_lr"])] == [5, 5, 5]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
        lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=50),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=3, mode="exp_range", gamma=0.9),
    ],
)
def test_of_many_steps_a_function_of_the_step_takes_the_last_one_only(make, monkeypatch):
    ends = []
    for limit in (1000, 10):
        monkeypatch.setattr(learning_rate, "_MANY_STEPS", limit)
        optimizer, schedule = of_groups(make)
        schedule.move_to([17])
        ends.append(ends_of(optimizer, schedule))
    assert repr(ends[0]) == repr(ends[1])


def test_beyond_the_limit_other_schedules_are_named_and_keep_their_progress(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(learning_rate, "_MOST_STEPS", 5)
    old = fit(tmp_path / "old", Net(schedule=cosine(40)))
    run = fit(tmp_path / "new", Net(schedule=cosine(40), lr=0.2), old.path(), epochs=3)
    assert run.net.rates[0] == pytest.approx(2 * old.group["lr"])
    words = "the progress of CosineAnnealingLR (10 steps for 1 kind of parameter groups take too long to repeat)"
    assert f"The new {KEEPS}{words}" in caplog.text


def test_a_long_schedule_is_announced(caplog, monkeypatch):
    monkeypatch.setattr(learning_rate, "_MANY_STEPS", 5)
    of_groups(lambda optimizer: lr_scheduler.StepLR(optimizer, 2))[1].move_to([6])
    assert "Repeating 6 steps of StepLR, to find the learning rate of this run." in caplog.text


@pytest.mark.parametrize(
    ("interval", "frequency", "window", "position", "expected"),
    [
        ("step", 1, 1, (1, 3, 8), 8),
        ("step", 2, 1, (1, 3, 8), 3),  # batches 2, 4 and 2
        ("step", 2, 2, (1, 2, 4), 3),
        ("step", 5, 2, (1, 2, 4), 1),  # the last batch of an epoch ends a window
        ("epoch", 1, 1, (1, 3, 8), 1),
        ("epoch", 1, 1, (1, 5, 10), 2),
        ("epoch", 2, 1, (3, 0, 15), 1),
    ],
)
def test_the_steps_of_a_schedule_follow_from_the_position(interval, frequency, window, position, expected):
    module = SimpleNamespace(automatic_optimization=True)
    counts = {"accumulate_grad_batches": window, "num_training_batches": 5}
    trainer = SimpleNamespace(lightning_module=module, **counts, fit_loop=SimpleNamespace(epoch_loop=None))
    ours = {
        "position": dict(zip(("epoch", "batch", "step"), position, strict=True)),
        "place": "batch",
        "settings": {"limits": {"max_epochs": 9, "max_steps": -1, "batches": 5}},
    }
    assert schedules.steps_taken(trainer, ours, interval, frequency) == expected
    trainer.num_training_batches = float("inf")
    if frequency == 1:
        assert schedules.steps_taken(trainer, ours, interval, frequency) == expected
    module.automatic_optimization = False
    assert schedules.steps_taken(trainer, ours, interval, frequency) is None
