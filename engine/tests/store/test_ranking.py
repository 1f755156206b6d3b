"""Scores of two metrics are never compared, also where a manifest of an earlier version does not name its metric."""

import json
from pathlib import Path

import pytest
from tests.support.values import draft, saved

from cairn.errors import ConfigError
from cairn.store import manifest, ranking

LOSS = {"val/loss": 0.5, "val/acc": 0.8}

FITS = {
    "the same metric": saved(score=0.5, monitor="val/loss"),
    "no score": saved(metrics=LOSS),
    "an earlier manifest with the value": saved(score=0.5, metrics=LOSS),
    "an earlier manifest with two equal values": saved(score=0.5, metrics={"val/acc": 0.5, "val/loss": 0.5}),
    "an earlier manifest whose value was logged again": saved(score=0.4, metrics=LOSS),
}
DIFFERS = {
    "another metric": saved(score=0.8, monitor="val/acc"),
    "another metric with an equal value": saved(score=0.5, monitor="val/acc", metrics=LOSS),
    "an earlier manifest with a value of another metric": saved(score=0.8, metrics=LOSS),
    "a checkpoint that is being written": draft(score=0.8, monitor="val/acc"),
}


@pytest.mark.parametrize("item", FITS.values(), ids=FITS)
def test_scores_of_one_metric_are_ranked(item):
    ranking.check(Path("runs"), [saved(3), item], "val/loss")


@pytest.mark.parametrize("item", DIFFERS.values(), ids=DIFFERS)
def test_a_score_of_another_metric_is_refused_by_name(item):
    words = r"^monitor='val/loss' cannot rank .* in runs: .* of 'val/acc'\. Keep 'val/acc', or start a new run "
    with pytest.raises(ConfigError, match=words) as caught:
        ranking.check(Path("runs"), [saved(3), item], "val/loss")
    assert caught.value.parameter == "monitor"
    ranking.check(Path("runs"), [item], None)


def test_a_manifest_names_the_metric_and_one_without_it_is_read():
    item = saved(score=0.5, monitor="val/loss")
    fields = json.loads(manifest.dump(item, {}))
    assert manifest.load(json.dumps(fields)) == item
    del fields["monitor"], fields["checksum"]
    assert manifest.load(json.dumps(fields)) == saved(score=0.5)
