"""A search is refused if its trials would have no score at their first stop."""

import pytest

from cairn.errors import ConfigError
from cairn.hydra.search import first_score
from cairn.search.rungs import END

GROUP = {"monitor": "val/loss", "mode": "min"}
DEFAULT = {"check_val_every_n_epoch": 1, "val_check_interval": 1.0}


def trainer(**keys):
    return {**DEFAULT, **keys}


@pytest.mark.parametrize(
    ("stop", "keys"),
    [
        ("0.5ep", {}),
        ("1ep", {"check_val_every_n_epoch": 2}),
        ("1.25ep", {"check_val_every_n_epoch": 2, "val_check_interval": 0.5}),
        ("0.25ep", {"val_check_interval": 0.5}),
        ("199ba", {"val_check_interval": 200}),
        ("199ba", {"val_check_interval": 200, "check_val_every_n_epoch": None}),
        ("49st", {"val_check_interval": 200, "accumulate_grad_batches": 4}),
    ],
)
def test_a_stop_before_the_first_validation_is_refused(stop, keys):
    with pytest.raises(ConfigError, match=rf"^rungs: .* no val/loss at their first stop, {stop},.*trainer"):
        first_score.check(stop, trainer(**keys), GROUP, "val/loss")


@pytest.mark.parametrize(
    ("stop", "keys"),
    [
        ("1ep", {}),
        ("2ep", {"check_val_every_n_epoch": 2}),
        ("1.5ep", {"check_val_every_n_epoch": 2, "val_check_interval": 0.5}),
        ("0.5ep", {"val_check_interval": 0.5}),
        ("200ba", {"val_check_interval": 200}),
        ("50st", {"val_check_interval": 200, "accumulate_grad_batches": 4}),
        ("10ba", {}),  # the length of an epoch is not known
        ("0.1ep", {"val_check_interval": 200}),
        ("1s", {"val_check_interval": 200}),
        (END, {}),
        ("1ep", {"check_val_every_n_epoch": "${x}", "val_check_interval": "00:10:00"}),
    ],
)
def test_other_stops_pass(stop, keys):
    first_score.check(stop, trainer(**keys), GROUP, "val/loss")


def test_only_metrics_of_a_validation_need_one():
    first_score.check("0.5ep", DEFAULT, GROUP, "train/loss")
    first_score.check("1ep", {}, {}, "val/loss")
    for metric, group in (("val/acc", {}), ("score", {"monitor": "score"})):
        with pytest.raises(ConfigError, match=rf"no {metric} at their first stop, 0.5ep"):
            first_score.check("0.5ep", {}, group, metric)


def test_a_run_that_never_validates_has_no_score():
    with pytest.raises(ConfigError, match="limit_val_batches=0 leaves trials without a score"):
        first_score.check(END, trainer(limit_val_batches=0), GROUP, "val/loss")
