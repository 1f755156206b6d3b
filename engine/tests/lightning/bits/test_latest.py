"""Latest values of all virtual ranks come in one exchange of numbers, if each of them has a place."""

import pytest
import torch

from cairn.lightning.bits import latest
from cairn.lightning.bits.latest import LatestValues
from cairn.lightning.bits.tree import Layout

CPU = torch.device("cpu")
LIVE = ["loss", "rare"]
FIRST = {0: {"loss": torch.tensor(0.1)}, 1: {"loss": torch.tensor(float("nan")), "rare": torch.tensor(2.0).bfloat16()}}
SECOND = {2: {"loss": torch.tensor(0.3)}}


@pytest.fixture
def two(monkeypatch):
    """A function that exchanges values of two processes, and returns what each of them gets."""
    both = [LatestValues(Layout(2, rank, 2), CPU) for rank in (0, 1)]

    def exchange(*own, live=(LIVE, LIVE)):
        given = list(zip(both, own, live, strict=True))
        is_known = both[0]._live is not None
        sent = [one._packed(values, set(names)) for one, values, names in given] if is_known else []
        monkeypatch.setattr(latest, "all_gather", lambda mine, number: torch.stack(sent))
        found = [one.exchange(values, names) for one, values, names in given]
        for one in both if found[0] is None else ():
            one.extend(own, live[0])
        return found

    return exchange


def same(found, expected):
    assert found.keys() == expected.keys()
    for virtual, values in expected.items():
        assert found[virtual].keys() == values.keys()
        for name, value in values.items():
            assert found[virtual][name].dtype == value.dtype
            assert torch.equal(found[virtual][name].nan_to_num(7), value.nan_to_num(7))


def test_once_the_form_is_known_values_come_as_they_are(two):
    assert two(FIRST, SECOND) == [None, None]
    for found in two(FIRST, SECOND):
        same(found, FIRST | SECOND)
    for found in two(SECOND, {}):
        same(found, SECOND)


@pytest.mark.parametrize(
    "new",
    [
        {2: {"loss": torch.tensor(0.3), "other": torch.tensor(1.0)}},
        {2: {"loss": torch.tensor(0.3).double()}},
        {2: {"loss": torch.tensor([0.3])}},
        {2: {"loss": torch.tensor(3)}},
        {number: {"loss": torch.tensor(0.3)} for number in (2, 3, 4)},
    ],
)
def test_what_has_no_place_is_left_to_an_exchange_of_objects_on_all_processes(two, new):
    two(FIRST, SECOND)
    assert two(FIRST, new) == [None, None]
    for found in two(FIRST, SECOND):
        same(found, FIRST | SECOND)


def test_a_new_name_has_a_place_from_then_on(two):
    two(FIRST, SECOND)
    new = {2: {"other": torch.tensor(1.0)}}
    two(FIRST, new)
    same(two(FIRST, new)[0], FIRST | new)


def test_so_is_what_only_one_process_has_logged_for_the_first_time(two):
    two(FIRST, SECOND)
    assert two(FIRST, SECOND, live=(LIVE, [*LIVE, "other"])) == [None, None]


def test_one_process_exchanges_nothing():
    assert LatestValues(Layout(1), CPU).exchange(FIRST, LIVE) is FIRST
