"""The LightningModules in real trainings: what they log, and what their checkpoints hold."""

import functools
import math

import pytest
import torch
from omegaconf import OmegaConf
from tests.template.helpers import CLASSIFIER, LANGUAGE_MODEL, PLATEAU, arguments, images, tokens, trainer

from project.models.classifier import Classifier
from project.models.language_model import LanguageModel
from project.models.mlp import MLP

CASES = [(Classifier, CLASSIFIER, images), (LanguageModel, LANGUAGE_MODEL, tokens)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("cls", "spec", "data", "names"),
    [
        (*CASES[0], {"train/loss", "train/acc", "val/loss", "val/acc"}),
        (*CASES[1], {"train/loss", "val/loss", "val/bpb"}),
    ],
)
def test_what_is_logged(tmp_path, cls, spec, data, names):
    fit = trainer(tmp_path)
    fit.fit(cls(**arguments(spec)), data(), data())
    steps = {"train/loss_step", "train/loss_epoch"}
    assert set(fit.callback_metrics) == names | steps
    (tested,) = trainer(tmp_path).test(fit.lightning_module, data(), verbose=False)
    assert set(tested) == {name.replace("val", "test") for name in names if name.startswith("val")}


def test_bits_per_byte(tmp_path):
    model = LanguageModel(**arguments(LANGUAGE_MODEL))
    (values,) = trainer(tmp_path).validate(model, tokens(), verbose=False)
    assert values["val/bpb"] == pytest.approx(values["val/loss"] / math.log(2))
    assert values["val/bpb"] == pytest.approx(8, abs=0.1), "an untrained model guesses among 256 bytes"


@pytest.mark.parametrize("wrap", [dict, OmegaConf.create])
@pytest.mark.parametrize(("cls", "spec", "data"), CASES)
def test_a_checkpoint_is_plain_and_enough(tmp_path, cls, spec, data, wrap):
    specs = {key: wrap(value) if isinstance(value, dict) else value for key, value in arguments(spec).items()}
    fit, path = trainer(tmp_path), tmp_path / "some.ckpt"
    fit.fit(cls(**specs), data(), data())
    fit.save_checkpoint(path)
    hyper_parameters = torch.load(path, weights_only=True)["hyper_parameters"]
    assert hyper_parameters == arguments(spec)
    loaded = cls.load_from_checkpoint(path)
    for name, value in fit.lightning_module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_live_objects_stay_out_of_the_checkpoint(tmp_path):
    net, optimizer = MLP(4, [5], 3), functools.partial(torch.optim.SGD, lr=0.1)
    fit, path = trainer(tmp_path), tmp_path / "some.ckpt"
    fit.fit(Classifier(net, optimizer, num_classes=3), images())
    fit.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["hyper_parameters"] == {"scheduler": None, "num_classes": 3}
    assert Classifier.load_from_checkpoint(path, net=net, optimizer=optimizer).net is net


def test_total_steps_come_from_the_trainer(tmp_path):
    fit = trainer(tmp_path, max_epochs=3)
    fit.fit(LanguageModel(**arguments(LANGUAGE_MODEL)), tokens())
    (config,) = fit.lr_scheduler_configs
    assert config.scheduler.lr_lambdas[0].total_steps == 6
    assert config.interval == "step"


def test_a_training_without_an_end_has_no_total_steps(tmp_path):
    fit = trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ValueError, match="WarmupCosine needs total_steps"):
        fit.fit(LanguageModel(**arguments(LANGUAGE_MODEL)), tokens())


@pytest.mark.parametrize("scheduler", [PLATEAU, {"scheduler": PLATEAU}])
def test_a_plateau_scheduler_watches_the_validation_loss(tmp_path, scheduler):
    fit = trainer(tmp_path, max_epochs=3)
    fit.fit(Classifier(**arguments(CLASSIFIER | {"scheduler": scheduler})), images(), images())
    assert fit.lr_scheduler_configs[0].monitor == "val/loss"
    assert fit.optimizers[0].param_groups[0]["lr"] < 0.1


def test_an_optimizer_that_is_none_is_refused(tmp_path):
    spec = CLASSIFIER | {"optimizer": {"_target_": "os.system", "_partial_": True, "command": "true"}}
    with pytest.raises(TypeError, match=r"os\.system is refused"):
        trainer(tmp_path).fit(Classifier(**arguments(spec)), images())
