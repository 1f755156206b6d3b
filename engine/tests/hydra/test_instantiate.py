"""`instantiate` builds what Hydra's function of that name builds, but applies our rules for targets."""

import functools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import hydra.utils
import pytest
from hydra.errors import InstantiationException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from cairn.errors import SpecError
from cairn.hydra import instantiate as module
from cairn.hydra.instantiate import hydra_whitelist, instantiate

NAMES = "types.SimpleNamespace"
LEAF = {"_target_": NAMES, "x": 1}


def shape(value):
    """Return a value with the types of all its containers, for a comparison."""
    if isinstance(value, SimpleNamespace):
        return "namespace", {key: shape(item) for key, item in vars(value).items()}
    if isinstance(value, functools.partial):
        return "partial", shape(value.args), {key: shape(item) for key, item in value.keywords.items()}
    if isinstance(value, DictConfig | dict):
        return type(value).__name__, {key: shape(value[key]) for key in value}
    if isinstance(value, ListConfig | list | tuple):
        return type(value).__name__, [shape(item) for item in value]
    return value


@dataclass
class Structured:
    number: int = 3
    names: list[str] = field(default_factory=lambda: ["a"])


@dataclass
class StructuredTarget:
    _target_: str = NAMES
    inner: Structured = field(default_factory=Structured)
    missing: Any = None


@pytest.mark.parametrize("convert", [None, "none", "partial", "object", "all"])
@pytest.mark.parametrize(
    "node",
    [
        LEAF,
        {"_target_": NAMES, "a": {"b": [1, {"c": 2}]}, "leaf": LEAF, "leaves": [LEAF, 3], "deep": {"leaf": LEAF}},
        {"_target_": NAMES, "leaf": LEAF, "_recursive_": False},
        {"_target_": NAMES, "leaf": {**LEAF, "_convert_": "all", "items": [1]}, "items": [1]},
        {"_target_": NAMES, "a": None, "partial": {**LEAF, "_partial_": True, "items": {"k": [1]}}},
        {"_target_": "builtins.dict", "_args_": [[["k", 1]]], "more": {"leaf": LEAF}},
        {"leaf": LEAF, "plain": {"a": [1]}},
        {"_target_": NAMES, "structured": Structured()},
        StructuredTarget(),
        {"_target_": NAMES, "a": "${b}", "b": {"c": "${d}"}, "d": 5},
    ],
)
def test_it_builds_what_hydra_builds(node, convert):
    if convert is not None and isinstance(node, dict):
        node = {"_convert_": convert, **node}
    assert shape(instantiate(node)) == shape(hydra.utils.instantiate(node))


@pytest.mark.parametrize(
    "more",
    [
        {"x": 2},
        {"new": {"k": [1]}},
        {"leaf": LEAF},
        {"leaf": {"x": 5}},
        {"_recursive_": False},
        {"_convert_": "all"},
        {"_partial_": True},
    ],
)
def test_further_arguments_mean_what_they_mean_to_hydra(more):
    node = {"_target_": NAMES, "x": 1, "leaf": {**LEAF, "y": [2]}, "items": [1]}
    assert shape(instantiate(node, **more)) == shape(hydra.utils.instantiate(node, **more))


def test_objects_are_passed_as_they_are():
    items = [object()]
    assert instantiate(LEAF, items=items).items is items


def test_positional_arguments_take_the_place_of_args():
    assert instantiate({"_target_": "builtins.list", "_args_": [[1]]}, [2, 3]) == [2, 3]


def test_lists_and_none_are_accepted():
    assert [made.x for made in instantiate([LEAF, LEAF])] == [1, 1]
    assert isinstance(instantiate([LEAF], _convert_="all"), list)
    assert instantiate(None) is None


def test_a_node_finds_what_it_interpolates_elsewhere_and_stays_as_it_was():
    cfg = OmegaConf.create({"lr": 0.1, "node": {"_target_": NAMES, "lr": "${lr}", "half": "${.lr}"}})
    before = OmegaConf.to_yaml(cfg)
    made = instantiate(cfg.node, more=3)
    assert (made.lr, made.half, made.more) == (0.1, 0.1, 3)
    assert OmegaConf.to_yaml(cfg) == before
    with pytest.raises(InterpolationKeyError):
        instantiate({"_target_": NAMES, "lr": "${nowhere}"})


@pytest.mark.parametrize("convert", ["none", "all"])
def test_a_file_name_with_dollars_stays_as_it_is(convert):
    node = {"_target_": "builtins.dict", "file": "\\${x}", "other": "${name}", "none": None, "deep": {"a": "\\${c}"}}
    config = OmegaConf.create({"name": "a\\${b}", "path": node})
    built = instantiate(config.path, _convert_=convert)
    assert (built["file"], built["other"], built["none"], built["deep"]["a"]) == ("${x}", "a${b}", None, "${c}")


def test_a_partial_may_lack_a_value_that_it_gets_later():
    node = OmegaConf.create({"_target_": NAMES, "_partial_": True, "later": MISSING, "x": 1})
    assert vars(instantiate(node)(later=2)) == {"x": 1, "later": 2}


def test_a_class_can_be_given_as_the_target():
    assert isinstance(instantiate({"_target_": SimpleNamespace, "x": 1}), SimpleNamespace)


def test_an_error_of_a_target_is_the_cause():
    with pytest.raises(InstantiationException, match=r"^a: error in builtins\.int: ValueError") as caught:
        instantiate({"a": {"_target_": "builtins.int", "_args_": ["x"]}})
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("node", [{"a": [{"_target_": "os.system", "command": "true"}]}, {"_target_": "joblib.load"}])
def test_a_target_that_is_not_allowed_is_refused(node):
    with pytest.raises(SpecError, match="is refused"):
        instantiate(node)


@pytest.mark.parametrize(
    ("node", "error"),
    [
        ({"_target_": 3}, InstantiationException),
        ({"_target_": NAMES, "_partial_": "yes"}, TypeError),
        ({"_target_": NAMES, "_recursive_": 1}, TypeError),
        (3, InstantiationException),
    ],
)
def test_a_wrong_node_is_refused(node, error):
    with pytest.raises(error):
        instantiate(node)


def test_a_moved_target_is_built():
    made = instantiate({"_target_": "cairn.checkpoint.retention.Latest", "count": 2})
    assert type(made).__name__ == "Latest"


def test_hydra_itself_gets_the_whitelist_that_it_asks_for(monkeypatch):
    with hydra_whitelist():
        pass
    given = []
    newer = SimpleNamespace(UNSAFE_ALLOW_ALL_TARGETS="all", target_whitelist=given.append)
    monkeypatch.setattr(module, "hydra", SimpleNamespace(utils=newer))
    hydra_whitelist()
    assert given == ["all"]
