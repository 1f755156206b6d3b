"""The key that was probably meant."""

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from cairn.hydra.command import suggest

CONFIG = OmegaConf.create(
    {
        "seed": 0,
        "trainer": {"max_epochs": 3, "min_epochs": None, "max_time": "${limit}"},
        "data": {"batch_size": 4},
        "logger": {"csv": {"save_dir": "x"}},
    }
)
NO_KEY = "Could not override '{}'.\nTo append to your config use +{}=3"
NO_OPTION = (
    "In 'train': Could not find 'logger/cvs'\n\nAvailable options in 'logger':\n\tcsv\n\tmany\nConfig search path:\n"
)


def answered(message, *overrides):
    error = ConfigCompositionException(message)
    suggest.add(error, overrides, lambda given: CONFIG)
    return str(error).removeprefix(message).strip()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("trainer.maxepochs", "trainer.max_epochs"),
        ("seeed", "seed"),
        ("trainr.max_epochs", "trainer.max_epochs"),
        ("data.batchsize", "data.batch_size"),
        ("logger.csv.save_dirs", "logger.csv.save_dir"),
        ("loger", "logger"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "++"])
def test_a_key_is_answered_with_the_nearest_one(prefix, typed, meant):
    assert answered(NO_KEY.format(typed, typed), "seed=1", f"{prefix}{typed}=3") == f"Did you mean {meant}=3?"


def test_the_text_of_hydra_is_kept():
    error = ConfigCompositionException("Could not override 'sed'.")
    suggest.add(error, ["sed=1"], lambda given: CONFIG)
    assert str(error) == "Could not override 'sed'.\nDid you mean seed=1?"
    suggest.add(error, ["sed=1"], lambda given: CONFIG)
    assert str(error).count("Did you mean") == 1


def test_a_deletion_and_an_option_are_answered_as_well():
    assert answered("Could not delete from config. 'sed' does not exist.", "~sed") == "Did you mean ~seed?"
    assert answered(NO_OPTION, "logger=cvs") == "Did you mean logger=csv?"


def test_nothing_similar_is_not_answered():
    assert answered(NO_KEY.format("zzz.qqq", "zzz.qqq"), "zzz.qqq=3") == ""
    assert answered(NO_OPTION.replace("cvs", "tensorboard"), "logger=tensorboard") == ""
    assert answered("Something else.", "seed=1") == ""


def test_a_second_mistake_is_left_to_hydra():
    error = ConfigCompositionException("Could not override 'sed'.")
    suggest.add(error, ["sed=1", "tariner=1"], lambda given: 1 / 0)
    assert str(error) == "Could not override 'sed'."


def test_the_key_itself_is_not_composed():
    asked = []
    error = ConfigCompositionException("Could not override 'sed'.")
    suggest.add(error, ["sed=1", "data.batch_size=3"], lambda given: asked.append(given) or CONFIG)
    assert asked == [["data.batch_size=3"]]


def test_an_argument_is_answered_with_the_nearest_one():
    message = "Trainer.__init__() got an unexpected keyword argument 'max_epoch'"
    assert suggest.for_argument(message, "trainer", ["max_epochs", "logger"]) == "Did you mean trainer.max_epochs?"
    assert suggest.for_argument("division by zero", "trainer", ["max_epochs"]) == ""
