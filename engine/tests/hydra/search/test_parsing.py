"""What a search varies, from Hydra's own syntax."""

from types import SimpleNamespace

import pytest

from cairn.errors import ConfigError
from cairn.hydra.search.parsing import parse
from cairn.search.space import Choice, Float, Int


def one(text):
    space, _ = parse({}, [text])
    return next(iter(space.parameters.values()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model=mlp,cnn", Choice(("mlp", "cnn"), ("mlp", "cnn"))),
        ("a=1,2.5,null,true", Choice((1, 2.5, None, True), ("1", "2.5", "null", "True"))),
        ("a=choice(1, true)", Choice((1, True), ("1", "True"))),
        ("a='x y',z", Choice(("x y", "z"), ("'x y'", "z"))),
        ("a=[1,2],[3]", Choice(([1, 2], [3]), ("[1,2]", "[3]"))),
        ("a={b:1},{b:2}", Choice(({"b": 1}, {"b": 2}), ("{b:1}", "{b:2}"))),
        ("a=1,1,2", Choice((1, 2), ("1", "2"))),
        ("a=shuffle(range(1,4))", Int(1, 3)),
        ("a=shuffle(choice(1,2,3,4,5))", Choice((1, 2, 3, 4, 5), ("1", "2", "3", "4", "5"))),
        ("a=range(1,8,3)", Int(1, 7, step=3)),
        ("a=range(7,0,-3)", Int(1, 7, step=3)),
        ("a=tag(log, range(1,65))", Int(1, 64, log=True)),
        ("a=range(0,0.31,0.1)", Float(0.0, 0.3, step=0.1)),
        ("a=interval(0, 0.5)", Float(0.0, 0.5)),
        ("a=interval(1, 4)", Float(1.0, 4.0)),
        ("a=int(interval(1, 4))", Int(1, 4)),
        ("a=tag(log, interval(1e-4, 1e-1))", Float(1e-4, 1e-1, log=True)),
        ("a=tag(log, int(interval(8, 256)))", Int(8, 256, log=True)),
        ("a=1.0,inf", Choice((1.0, "inf"), ("1.0", "inf"))),
        ("+a=1,2", Choice((1, 2), ("1", "2"))),
    ],
)
def test_the_syntax_of_sweeps(text, expected):
    assert one(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=interval(1, 1)", "1 is not below 1"),
        ("a=interval(2, 1)", "2 is not below 1"),
        ("a=interval(0, inf)", "0 to inf is not a range of finite numbers"),
        ("a=tag(log, interval(0, 1))", "a logarithmic scale begins above 0"),
        ("a=range(3, 3)", "this range is empty"),
        ("a=tag(log, range(1, 9, 2))", "needs integers and steps of 1"),
        ("a=tag(log, choice(1, 2))", "this is a list of values"),
        ("a=tag(big, interval(0, 1))", "the tag 'big' has no meaning"),
        ("a=1", "has nothing to vary"),
    ],
)
def test_what_cannot_be_searched_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        one(text)


def test_the_last_override_of_a_key_counts_and_the_rest_is_shared():
    params = {"lr": "interval(0, 1)", "+depth": "range(1, 4)", "model": "mlp", "clip": None}
    space, shared = parse(params, ["seed=1", "lr=0.1,0.2", "++depth=2", "~b", "seed=3"])
    assert dict(space.parameters) == {"lr": Choice((0.1, 0.2), ("0.1", "0.2"))}
    assert shared == ["model=mlp", "clip=null", "++depth=2", "~b", "seed=3"]


def test_keys_keep_what_adds_them():
    space, _ = parse({}, ["+a.b=1,2"])
    assert space.overrides({"+a.b": 2}) == ["+a.b=2"]


def test_the_options_of_a_group():
    loader = SimpleNamespace(get_group_options=lambda group, results_filter: ["cnn", "gpt", "mlp"])
    space, _ = parse({}, ["model=glob(*, exclude=g*)"], loader)
    assert space.parameters["model"] == Choice(("cnn", "mlp"), ("cnn", "mlp"))
