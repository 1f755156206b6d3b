"""Settings that a module saves itself follow the configuration of a new run."""

import logging

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from tests.support.configured import BATCHES, Net, fit
from torch import nn

FOLLOWS, KEEPS = "run follows its configuration, not its checkpoint: ", "run keeps settings of its checkpoint: "


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO, "cairn")


class Seen(Net):
    def __init__(self, temperature=1.0):
        super().__init__()
        self.temperature, self.num_batches, self.seen = temperature, 0, []

    def training_step(self, batch, batch_idx):
        self.num_batches += 1
        self.seen.append(self.value)
        return super().training_step(batch, batch_idx)

    @property
    def value(self):
        return self.temperature


class ByHand(Seen):
    """Saves a setting and a counter in its hooks."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["own"] = [self.temperature, self.num_batches]

    def on_load_checkpoint(self, checkpoint):
        self.temperature, self.num_batches = checkpoint["own"]


class Repeated(ByHand):
    """Has a hook before the first batch, for which a resume loads the checkpoint again."""

    def on_train_start(self):
        self.started = True


class Extra(Seen):
    """Saves both in an extra state."""

    def get_extra_state(self):
        return {"temperature": self.temperature, "num_batches": self.num_batches}

    def set_extra_state(self, state):
        self.temperature, self.num_batches = state["temperature"], state["num_batches"]


class Scale(nn.Module):
    """A part that saves a setting, under another name than that of its argument."""

    def __init__(self, temperature):
        super().__init__()
        self._by = {"factor": temperature}

    def get_extra_state(self):
        return self._by

    def set_extra_state(self, state):
        self._by = state


class InPart(Seen):
    def __init__(self, temperature=1.0):
        super().__init__()
        self.scale = Scale(temperature)

    @property
    def value(self):
        return self.scale._by["factor"]


class Rate(Net):
    """Saves its learning rate, with which the optimizer is built."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def on_save_checkpoint(self, checkpoint):
        checkpoint["rate"] = self.rate

    def on_load_checkpoint(self, checkpoint):
        self.rate = checkpoint["rate"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


@pytest.mark.parametrize("kind", [ByHand, Extra, InPart, pytest.param(Repeated, marks=pytest.mark.slow)])
def test_a_new_run_follows_its_module(tmp_path, kind, caplog):
    old = fit(tmp_path / "old", kind(1.0))
    run = fit(tmp_path / "new", kind(5.0), old.path(2), epochs=2)  # inside an epoch
    assert {*run.net.seen} == {5.0}
    assert f"The new {FOLLOWS}" in caplog.text
    assert "5.0" in caplog.text
    if kind is not InPart:
        assert run.net.num_batches == 2 * BATCHES  # is state
        assert f"{kind.__name__}: temperature=5.0 (1.0 in the checkpoint)" in caplog.text


def test_a_resumed_run_keeps_what_its_module_loads_and_says_so_each_time(tmp_path, caplog):
    fit(tmp_path, ByHand(1.0))
    for epochs in (3, 4):
        caplog.clear()
        run = fit(tmp_path, ByHand(5.0), "resume", epochs=epochs)
        assert {*run.net.seen} == {1.0}
        assert f"The resumed {KEEPS}ByHand: temperature=1.0 (5.0 is configured)" in caplog.text


def test_the_optimizer_is_built_with_the_settings_of_the_new_run(tmp_path, caplog):
    run = fit(tmp_path / "new", Rate(0.5), fit(tmp_path / "old", Rate(0.1)).path(), epochs=3)
    assert {*run.net.rates} == {0.5}
    assert "Rate: rate=0.5 (0.1 in the checkpoint); SGD: lr=0.5 (0.1 in the checkpoint)" in caplog.text


def test_what_training_changes_stays_in_a_new_run_and_is_named(tmp_path, caplog):
    class Cools(ByHand):
        def training_step(self, batch, batch_idx):
            self.temperature *= 0.5
            return super().training_step(batch, batch_idx)

    old = fit(tmp_path / "old", Cools(1.0))
    run = fit(tmp_path / "new", Cools(5.0), old.path(), epochs=3)
    assert run.net.temperature == 0.5 ** (3 * BATCHES)
    assert f"keeps settings of its checkpoint: Cools: temperature={0.5 ** (2 * BATCHES)} (5.0 is configured)" in (
        caplog.text
    )


def test_a_setting_that_no_checkpoint_holds_is_not_named(tmp_path, caplog):
    class Follows(Seen):
        def on_train_epoch_start(self):
            self.temperature = self.current_epoch

    run = fit(tmp_path / "new", Follows(5.0), fit(tmp_path / "old", Follows(1.0)).path(), epochs=3)
    assert {*run.net.seen} == {2}
    assert FOLLOWS not in caplog.text
    assert KEEPS not in caplog.text


class Noise(Callback):
    """Saves a setting without a `state_dict`."""

    def __init__(self, scale):
        self.scale = scale

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["noise"] = self.scale

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        self.scale = checkpoint["noise"]


def test_a_callback_that_saves_in_its_hooks_follows_its_arguments(tmp_path, caplog):
    noise = Noise(2.0)
    fit(tmp_path / "new", Net(), fit(tmp_path / "old", Net(), callbacks=[Noise(1.0)]).path(), [noise], epochs=3)
    assert noise.scale == 2.0
    assert "Noise: scale=2.0 (1.0 in the checkpoint)" in caplog.text


def test_a_new_run_follows_its_datamodule(tmp_path, caplog):
    class Data(LightningDataModule):
        def __init__(self, noise):
            super().__init__()
            self.noise = noise

        def state_dict(self):
            return {"noise": self.noise}

        def load_state_dict(self, state_dict):
            self.noise = state_dict["noise"]

    class Attached(Net):
        """Stands for a module with this datamodule."""

    old = fit(tmp_path / "old", Attached(), data=Data(1.0))
    data = Data(2.0)
    fit(tmp_path / "new", Attached(), old.path(), epochs=3, data=data)
    assert data.noise == 2.0
    assert "Data: noise=2.0 (1.0 in the checkpoint)" in caplog.text


def test_the_module_of_an_earlier_fit_is_not_freshly_built(tmp_path, caplog):
    net = ByHand(1.0)
    old = fit(tmp_path / "old", net)
    fit(tmp_path / "new", net, old.path(2), epochs=3)
    assert net.num_batches == 3 * BATCHES
    assert FOLLOWS not in caplog.text
    assert KEEPS not in caplog.text
