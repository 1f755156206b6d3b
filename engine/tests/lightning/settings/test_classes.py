"""A state that an optimizer or a scheduler cannot load is refused in one sentence, before training."""

import logging

import pytest
from tests.support.configured import BATCHES, Net, cosine, fit
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler

from cairn.errors import ConfigError
from cairn.lightning.settings import classes

WAY = "start a new run from the weights alone: load its weights, and fit without ckpt_path"


class Grouped(Net):
    """Module whose optimizer has its parameters in the given groups."""

    def __init__(self, groups, kind=AdamW):
        super().__init__()
        self.groups, self.kind = groups, kind

    def configure_optimizers(self):
        named = dict(self.named_parameters())
        return self.kind([{"params": [named[name] for name in group]} for group in self.groups], lr=0.1)


ALL = ["a.weight", "a.bias", "b.weight", "b.bias"]


@pytest.mark.parametrize("resumes", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([ALL[2:]], [ALL], "1 group of 2 there, 1 group of 4 in this run; a.bias, a.weight only in this run"),
        ([ALL], [ALL[2:]], "1 group of 4 there, 1 group of 2 in this run; a.bias, a.weight only in the checkpoint"),
        ([ALL], [ALL[:2], ALL[2:]], "1 group of 4 there, 2 groups of 2 + 2 in this run"),
        ([ALL[:1], ALL[1:]], [ALL[:2], ALL[2:]], "2 groups of 1 + 3 there, 2 groups of 2 + 2 in this run"),
        # As many, but other ones: torch would give each the state of another one.
        ([ALL[2:]], [ALL[:2]], "a.bias, a.weight only in this run; b.bias, b.weight only in the checkpoint"),
        ([ALL], [ALL[::-1]], "1 group of 4 there, 1 group of 4 in this run; in another order"),
    ],
)
def test_other_parameters_are_refused_by_name(tmp_path, before, after, said, resumes):
    old, net = fit(tmp_path / "old", Grouped(before), epochs=1), Grouped(after)
    with pytest.raises(ConfigError) as error:
        fit(tmp_path / ("old" if resumes else "new"), net, "resume" if resumes else old.path(), epochs=2)
    assert said in str(error.value)
    assert WAY in str(error.value)
    assert net.rates == []


def test_in_a_hydra_run_the_way_out_is_a_key():
    net = Grouped([ALL])
    trainer = type("T", (), {"lightning_module": net, "optimizers": [net.configure_optimizers()]})
    states = [{"param_groups": [{"params": [0]}]}]
    with pytest.raises(ConfigError, match="weights alone: init_weights=FILE in place of ckpt_path=FILE"):
        classes.check_groups(trainer, {"config": {"model": {}}}, states, resumes=False)


def test_a_checkpoint_of_an_earlier_version_is_compared_by_size():
    net = Grouped([ALL[::-1]])
    trainer = type("T", (), {"lightning_module": net, "optimizers": [net.configure_optimizers()]})
    classes.check_groups(trainer, {}, [{"param_groups": [{"params": [0, 1, 2, 3]}]}], resumes=False)
    with pytest.raises(ConfigError, match="1 group of 3 there, 1 group of 4 in this run"):
        classes.check_groups(trainer, {}, [{"param_groups": [{"params": [0, 1, 2]}]}], resumes=False)


def test_a_renamed_parameter_is_the_same_one(tmp_path):
    class Renamed(Net):
        def __init__(self):
            super().__init__()
            self.head = self.b
            del self.b

        def training_step(self, batch, batch_idx):
            self.epochs.append(self.current_epoch)
            return self.head(self.a(batch[0])).square().mean()

        def on_load_checkpoint(self, checkpoint):
            weights = checkpoint["state_dict"]
            for name in [name for name in weights if name.startswith("b.")]:
                weights["head." + name[2:]] = weights.pop(name)

    run = fit(tmp_path / "new", Renamed(), fit(tmp_path / "old", Net(), epochs=1).path(), epochs=2)
    assert run.net.epochs == [1] * BATCHES


def test_an_optimizer_that_adapts_a_state_loads_it(tmp_path):
    class Adapts(AdamW):
        def load_state_dict(self, state_dict):
            number = len(self.param_groups[0]["params"])
            groups = [{**state_dict["param_groups"][0], "params": list(range(number))}]
            super().load_state_dict({"state": {}, "param_groups": groups})

    old = fit(tmp_path / "old", Grouped([ALL[2:]], Adapts), epochs=1)
    assert len(fit(tmp_path / "new", Grouped([ALL], Adapts), old.path()).net.rates) == BATCHES


def test_a_hook_of_the_optimizer_may_adapt_a_state(tmp_path):
    def adapt(optimizer: Optimizer, state):
        return {**state, "param_groups": optimizer.state_dict()["param_groups"], "state": {}}

    class Hooked(Grouped):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.register_load_state_dict_pre_hook(adapt)
            return optimizer

    old = fit(tmp_path / "old", Grouped([ALL[2:]]), epochs=1)
    assert len(fit(tmp_path / "new", Hooked([ALL]), old.path()).net.rates) == BATCHES


def warm_up(optimizer):
    return lr_scheduler.LinearLR(optimizer, total_iters=2)


SCHEDULES = {
    "CosineAnnealingLR": cosine(9),
    "SequentialLR(LinearLR, CosineAnnealingLR)": lambda o, _: lr_scheduler.SequentialLR(
        o, [warm_up(o), lr_scheduler.CosineAnnealingLR(o, 9)], [2]
    ),
    "SequentialLR(LinearLR, StepLR, CosineAnnealingLR)": lambda o, _: lr_scheduler.SequentialLR(
        o, [warm_up(o), lr_scheduler.StepLR(o, 2), lr_scheduler.CosineAnnealingLR(o, 9)], [2, 4]
    ),
    "ChainedScheduler(LinearLR, LambdaLR)": lambda o, _: lr_scheduler.ChainedScheduler(
        [warm_up(o), lr_scheduler.LambdaLR(o, lambda step: 1.0)]
    ),
    "ChainedScheduler(LinearLR, ExponentialLR)": lambda o, _: lr_scheduler.ChainedScheduler(
        [warm_up(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (0, 1),
        pytest.param(1, 0, marks=pytest.mark.slow),
        (1, 2),
        pytest.param(2, 1, marks=pytest.mark.slow),
        (4, 3),
    ],
)
def test_a_schedule_of_other_parts_is_refused_by_name(tmp_path, before, after):
    before, after = [*SCHEDULES][before], [*SCHEDULES][after]
    old, net = fit(tmp_path / "old", Net(schedule=SCHEDULES[before]), epochs=1), Net(schedule=SCHEDULES[after])
    with pytest.raises(ConfigError) as error:
        fit(tmp_path / "new", net, old.path())
    assert f"the state of {before}, and this run has {after}, which cannot continue from it" in str(error.value)
    assert net.rates == []


def test_another_number_of_optimizers_is_logged(tmp_path, caplog):
    class Two(Net):
        def __init__(self, number):
            super().__init__()
            self.number, self.automatic_optimization = number, False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            optimizers = self.optimizers()
            self.manual_backward(loss)
            for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
                optimizer.step()

        def configure_optimizers(self):
            return [SGD(part.parameters(), 0.1) for part in (self.a, self.b)][: self.number]

    caplog.set_level(logging.INFO, "cairn")
    fit(tmp_path / "new", Two(2), fit(tmp_path / "old", Two(1), epochs=1).path())
    assert "2 optimizers (1 in the checkpoint)" in caplog.text
