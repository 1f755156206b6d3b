"""A search is refused if its trials would have no score at their first stop."""

import pytest

from cairn.errors import ConfigError
from cairn.hydra.search import first_score
from cairn.search.rungs import END

GROUP = {"monitor": "val/loss", "mode": "min"}


def trainer(**keys):
    return {"max_epochs": 9, "check_val_every_n_epoch": 1, "val_check_interval": 1.0, **keys}


@pytest.mark.parametrize(
    ("stop", "keys"),
    [
        ("0.99ep", {}),
        ("1ep", {"check_val_every_n_epoch": 2}),
        ("1.2ep", {"check_val_every_n_epoch": 2, "val_check_interval": 0.5}),
        ("0.2ep", {"val_check_interval": 0.5}),
        ("1ep", {"check_val_every_n_epoch": 2, "val_check_interval": 5}),
        ("199ba", {"val_check_interval": 200}),
        ("199ba", {"val_check_interval": 200, "check_val_every_n_epoch": None}),
        (END, {"check_val_every_n_epoch": 10}),
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
        *((f"{share}ep", {"val_check_interval": share}) for share in (0.1, 0.2, 0.3, 0.5)),
        ("0.45ep", {"val_check_interval": 0.5}),  # of 7 batches, Lightning validates after the third
        ("1.1ep", {"check_val_every_n_epoch": 2, "val_check_interval": 5}),
        ("200ba", {"val_check_interval": 200}),
        ("10ba", {}),  # the length of an epoch is not known
        ("0.1ep", {"val_check_interval": 200}),
        ("1st", {"val_check_interval": 200}),  # manual optimization may accumulate
        ("1s", {"val_check_interval": 200}),
        ("0.1ep", {"val_check_interval": "00:00:10:00"}),
        ("0.1ep", {"val_check_interval": {"minutes": 10}}),
        (END, {}),
        (END, {"max_epochs": -1, "check_val_every_n_epoch": 10}),
        (END, {"max_epochs": 10, "check_val_every_n_epoch": 10}),
        (END, {"limit_val_batches": 0, "overfit_batches": 2}),
        (END, {"limit_val_batches": 0, "fast_dev_run": True}),
        (END, {"limit_val_batches": 1}),
    ],
)
def test_other_stops_pass(stop, keys):
    first_score.check(stop, trainer(**keys), GROUP, "val/loss")


def test_only_metrics_of_a_validation_need_one():
    first_score.check("0.5ep", trainer(), GROUP, "train/loss")
    first_score.check("0.5ep", trainer(limit_val_batches=0), {"monitor": "train/loss"}, "train/loss")
    first_score.check("1ep", {}, {}, "val/loss")
    for metric, group in (("val/acc", {}), ("score", {"monitor": "score"})):
        with pytest.raises(ConfigError, match=rf"no {metric} at their first stop, 0.5ep"):
            first_score.check("0.5ep", {}, group, metric)


@pytest.mark.parametrize("limit", [0, 0.0, False])
def test_a_run_that_never_validates_has_no_score(limit):
    with pytest.raises(ConfigError, match="limit_val_batches=0 leaves trials without a score"):
        first_score.check(END, trainer(limit_val_batches=limit), GROUP, "val/loss")
