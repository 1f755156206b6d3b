"""Objects of the configuration: an error names the node, and the key that a user has set."""

import pytest
from omegaconf import OmegaConf

from cairn.errors import ConfigError, DataError
from cairn.hydra.parse.objects import build_object, errors_at, target_of
from cairn.policy.keep import Latest


@pytest.mark.parametrize(
    ("group", "key", "message", "expected"),
    [
        ("checkpoint", "save_interval", "save_interval=0 must be more", "checkpoint.save_interval=0 must be more"),
        ("checkpoint", "keep_last", "count=-2 must be 0", "checkpoint.keep_last: count=-2 must be 0"),
        ("checkpoint.artifacts", "queue", "'2XB' is not a size", "checkpoint.artifacts.queue: '2XB' is not a size"),
        ("checkpoint", "", "mode='up' must be min", "checkpoint.mode='up' must be min"),
        ("checkpoint", "", "no directory", "checkpoint: no directory"),
        ("checkpoint", "", "the mode a=b is wrong", "checkpoint: the mode a=b is wrong"),
    ],
)
def test_a_message_names_the_key_of_the_configuration(group, key, message, expected):
    with pytest.raises(ConfigError) as error, errors_at(group, key):
        raise ValueError(message)
    assert str(error.value) == expected


@pytest.mark.parametrize("node", [None, 3, "text", {"lr": 0.1}, {"_target_": None}])
def test_a_node_that_describes_no_object_is_one_sentence(node):
    with pytest.raises(ConfigError, match="model has no _target_: set it to the class to build"):
        build_object("model", OmegaConf.create(node) if isinstance(node, dict) else node)


def test_an_object_is_built_with_the_arguments_of_its_node_and_more():
    node = OmegaConf.create({"_target_": "cairn.policy.keep.Latest", "count": 1})
    assert build_object("checkpoint.keep.last", node).count == 1
    assert build_object("checkpoint.keep.last", node, count=3).count == 3


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "cairn.policy.keep.Latest", "number": 1}, "keep.last: .*unexpected keyword argument 'number'"),
        ({"_target_": "cairn.policy.keep.Latest", "count": -7}, "keep.last.count=-7"),
    ],
)
def test_wrong_arguments_are_one_sentence_that_names_the_node(node, message):
    with pytest.raises(ConfigError, match=message) as error:
        build_object("keep.last", OmegaConf.create(node))
    assert "\n" not in str(error.value)


def test_an_error_of_ours_stays_as_it_is(monkeypatch):
    def fail():
        raise DataError("There are no samples.")

    monkeypatch.setattr("cairn.policy.keep.Fails", fail, raising=False)
    with pytest.raises(DataError, match=r"^There are no samples\.$"):
        build_object("data", {"_target_": "cairn.policy.keep.Fails"})


def test_a_target_is_a_class_or_a_sentence():
    assert target_of("keep.last", {"_target_": "cairn.policy.keep.Latest"}) is Latest
    with pytest.raises(ConfigError, match=r"keep\.last has no _target_"):
        target_of("keep.last", {})
    with pytest.raises(ConfigError, match=r"keep\.last\._target_=nothing\.Here cannot be imported"):
        target_of("keep.last", {"_target_": "nothing.Here"})


def test_a_wrong_argument_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"'counts'\. Did you mean checkpoint\.keep\.last\.count\? HYDRA_FULL_ERROR"):
        build_object("checkpoint.keep.last", OmegaConf.create({"_target_": "cairn.policy.keep.Latest", "counts": 1}))
