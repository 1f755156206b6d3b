"""Conditions on runs."""

import pytest
from tests.support.listed_runs import make

from cairn.errors import ConfigError
from cairn.overview import filters
from cairn.overview.facts import RunFacts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "train" / "runs" / "2026-11-01"
    tags, net = {"tags": ["dev", "big run"]}, {"model": {"lr": 1e-3, "bias": False, "sizes": [16, 32], "act": None}}
    return RunFacts(make(path, config={**tags, **net}, rows=[{"step": 1, "val/loss": 0.5, "seed": 3}], score=0.25))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("status=finished", True),
        ("status=fin*", True),
        ("status!=finished", False),
        ("task=train", True),
        ("run=*2026-11*", True),
        ("created>2026-10", True),
        ("created>2026-12", False),
        ("progress>=50%", True),
        ("progress>0.5", False),
        ("trained_s<1min", True),
        ("trained_s=10s", True),
        ("best<0.3", True),
        ("best>0.3", False),
        ("val/loss=0.5", True),
        ("val/loss=5e-1", True),
        ("model.lr=0.001", True),
        ("model.lr=1e-3", True),
        ("model.lr<1e-2", True),
        ("model.lr<1e-3", False),
        ("model.lr<=1e-3", True),
        ("model.lr!=1e-3", False),
        ("model.bias=false", True),
        ("model.bias=0", False),
        ("model.bias<1", False),
        ("model.act=null", True),
        ("model.sizes=[16,32]", True),
        ("model.sizes=16", True),
        ("model.sizes=64", False),
        ("tags=dev", True),
        ("tags=big*", True),
        ("tags!=dev", False),
        ("tags!=other", True),
        ("seed=0", True),
        ("metric.seed=3", True),
        ("config.seed=0", True),
        ("missing=1", False),
        ("missing<1", False),
        ("missing!=1", True),
        ("model.lr.more=1", False),
        ("why=", False),
    ],
)
def test_a_filter(run, text, fits):
    assert filters.parse(text)(run) is fits


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("status", "give KEY=VALUE"),
        ("=3", "give KEY=VALUE"),
        ("best<low", "best is a number, and 'low' is not"),
        ("duration_s>soon", "duration_s is a number"),
    ],
)
def test_what_is_not_a_filter_is_refused(text, why):
    with pytest.raises(ConfigError, match=why):
        filters.parse(text)
