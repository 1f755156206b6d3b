"""The LightningModules in real trainings: their metrics, their schedulers, and the contents of their checkpoints."""

import functools
import math
import warnings

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests.support.project import example
from tests.template.helpers import (
    CLASSIFIER,
    LANGUAGE_MODEL,
    PLATEAU,
    TEMPLATE_MODEL,
    images,
    model,
    tokens,
    trainer,
)

from cairn.lightning.load_model import load_model
from cairn.lightning.saved import hyperparameters
from cairn.lightning.saved.hyperparameters import plain_hyperparameters

Classifier = example("models.classifier").Classifier
LanguageModel = example("models.language_model").LanguageModel
MLP = example("models.mlp").MLP
CASES = [(CLASSIFIER, images), (LANGUAGE_MODEL, tokens)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("spec", "data", "names"),
    [
        (*CASES[0], {"train/loss", "train/acc", "val/loss", "val/acc"}),
        (*CASES[1], {"train/loss", "val/loss", "val/bpb"}),
    ],
)
def test_the_logged_metrics(tmp_path, spec, data, names):
    fit = trainer(tmp_path)
    fit.fit(model(spec), data(), data())
    steps = {"train/loss_step", "train/loss_epoch"}
    assert set(fit.callback_metrics) == names | steps
    (tested,) = trainer(tmp_path).test(fit.lightning_module, data(), verbose=False)
    assert set(tested) == {name.replace("val", "test") for name in names if name.startswith("val")}


def test_bits_per_byte(tmp_path):
    (values,) = trainer(tmp_path).validate(model(LANGUAGE_MODEL), tokens(), verbose=False)
    assert values["val/bpb"] == pytest.approx(values["val/loss"] / math.log(2))
    assert values["val/bpb"] == pytest.approx(8, abs=0.1), "an untrained model guesses among 256 bytes"


@pytest.mark.parametrize(("spec", "data"), CASES)
def test_a_checkpoint_is_plain_without_a_warning(tmp_path, spec, data):
    fit, path = trainer(tmp_path), tmp_path / "some.ckpt"
    fit.fit(instantiate(OmegaConf.create(spec), _convert_="all"), data(), data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(plain_hyperparameters(fit._checkpoint_connector.dump_checkpoint()), path)
    hyper_parameters = torch.load(path, weights_only=True).get("hyper_parameters", {})
    assert set(hyper_parameters) == {"num_classes"} & spec.keys()


def test_lightning_loads_a_checkpoint_given_the_parts(tmp_path):
    net, optimizer = MLP(4, [5], 3), functools.partial(torch.optim.SGD, lr=0.1)
    fit, path = trainer(tmp_path), tmp_path / "some.ckpt"
    fit.fit(Classifier(net, optimizer, num_classes=3), images())
    fit.save_checkpoint(path)
    loaded = Classifier.load_from_checkpoint(path, net=MLP(4, [5], 3), optimizer=optimizer, weights_only=True)
    for name, value in fit.lightning_module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_model_of_the_lightning_hydra_template_is_saved_and_loaded(tmp_path):
    fit, path = trainer(tmp_path), tmp_path / "some.ckpt"
    with pytest.warns(UserWarning, match="'net' is an instance of `nn.Module`"):  # Lightning's own advice
        module = instantiate(OmegaConf.create(TEMPLATE_MODEL), _convert_="all")
    fit.fit(module, images())
    hyperparameters._warn.cache_clear()
    with pytest.warns(UserWarning, match="leave out the hyperparameters net, optimizer, scheduler"):
        contents = plain_hyperparameters(fit._checkpoint_connector.dump_checkpoint())
    torch.save(contents | {"cairn": {"config": {"model": TEMPLATE_MODEL}}}, path)
    assert torch.load(path, weights_only=True)["hyper_parameters"] == {"compile": False}
    with pytest.warns(UserWarning, match="'net' is an instance of `nn.Module`"):
        loaded = load_model(path)
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_total_steps_come_from_the_trainer(tmp_path):
    fit = trainer(tmp_path, max_epochs=3)
    fit.fit(model(LANGUAGE_MODEL), tokens())
    (config,) = fit.lr_scheduler_configs
    assert config.scheduler.lr_lambdas[0].total_steps == 6
    assert config.interval == "step"


def test_a_training_without_an_end_has_no_total_steps(tmp_path):
    fit = trainer(tmp_path, max_epochs=-1)
    with pytest.raises(ValueError, match="WarmupCosine needs the number of optimizer steps"):
        fit.fit(model(LANGUAGE_MODEL), tokens())


@pytest.mark.parametrize(
    "scheduler",
    [PLATEAU, {"scheduler": PLATEAU}, {"scheduler": PLATEAU, "interval": "epoch", "frequency": 1}],
    ids=["a factory", "a mapping", "Lightning's lr_scheduler_config"],
)
def test_a_plateau_scheduler_watches_the_validation_loss(tmp_path, scheduler):
    fit = trainer(tmp_path, max_epochs=3)
    fit.fit(model(CLASSIFIER, scheduler=scheduler), images(), images())
    assert fit.lr_scheduler_configs[0].monitor == "val/loss"
    assert fit.optimizers[0].param_groups[0]["lr"] < 0.1


def test_another_metric_can_be_monitored(tmp_path):
    fit = trainer(tmp_path, max_epochs=2)
    scheduler = {"scheduler": PLATEAU, "monitor": "val/acc"}
    fit.fit(model(CLASSIFIER, scheduler=scheduler), images(), images())
    assert fit.lr_scheduler_configs[0].monitor == "val/acc"
