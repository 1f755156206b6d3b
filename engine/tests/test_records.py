"""A record is read with the types that its class declares, and nothing but a RecordError is raised."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn import records
from cairn.records import RecordError


@dataclass(frozen=True)
class Inner:
    count: int
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    maybe: Inner | None = None
    free: Any = None
    flag: bool = False


LEAST = {"name": "x", "inner": {"count": 1}}


def test_fields_become_what_the_class_declares():
    full = {**LEAST, "kind": "b", "names": ["p"], "values": {"v": 1}, "maybe": {"count": 2, "share": 1}, "flag": True}
    assert records.read(Outer, full) == Outer("x", Inner(1), "b", ("p",), {"v": 1}, Inner(2, 1), None, True)
    assert records.read(Outer, LEAST) == Outer("x", Inner(1))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": 3}, "name is 3, expected a text"),
        ({"name": None}, "name is None, expected a text"),
        ({"inner": []}, r"inner is \[\], expected fields"),
        ({"inner": {}}, "inner.count is missing"),
        ({"inner": {"count": True}}, "inner.count is True, expected an integer"),
        ({"inner": {"count": 1.0}}, "inner.count is 1.0, expected an integer"),
        ({"inner": {"count": 10**30}}, "inner.count is 1000000000000000000000000000000, expected an integer"),
        ({"inner": {"count": 1, "share": "1"}}, "inner.share is '1', expected a number"),
        ({"inner": {"count": 1, "parsecs": 2}}, "'inner.parsecs' is unknown"),
        ({"kind": "c"}, "kind is 'c', expected one of a, b"),
        ({"names": "abc"}, "names is 'abc', expected a list"),
        ({"names": [1]}, "names is 1, expected a text"),
        ({"values": {"v": None}}, "values.v is None, expected a number"),
        ({"flag": 1}, "flag is 1, expected true or false"),
        ({"name": ["x" * 99]}, r"name is \['x+\.\.\., expected a text"),
    ],
)
def test_another_type_is_one_sentence(changed, why):
    with pytest.raises(RecordError, match=f"^{why}$"):
        records.read(Outer, {**LEAST, **changed})


@pytest.mark.parametrize("value", [None, 3, "text", [], [LEAST]])
def test_a_value_that_is_not_a_mapping(value):
    with pytest.raises(RecordError, match="expected fields"):
        records.read(Outer, value)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, '{"a":' * 200_000, "[" * 80 + "]" * 80, b"\xff", "9" * 5000])
def test_a_text_that_is_not_a_record(text):
    with pytest.raises(RecordError):
        records.parse(text)


def test_a_key_that_appears_twice_is_refused():
    with pytest.raises(RecordError, match="a key appears twice"):
        records.parse('{"a": 1, "b": {"c": 1, "c": 2}}')


def test_times_are_finite_and_counts_are_not_negative():
    record = Inner(-1, math.nan)
    with pytest.raises(RecordError, match="count is -1, expected 0 or more"):
        records.require_counts(record, "count")
    with pytest.raises(RecordError, match="share is nan, expected a finite number"):
        records.require_finite(record, "share")
    records.require_counts(Inner(0), "count")
    records.require_finite(Inner(0, None), "share")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "inner", "count", "values"]), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_value_is_a_record_or_a_record_error(value):
    try:
        assert isinstance(records.read(Outer, value), Outer)
    except RecordError:
        pass
