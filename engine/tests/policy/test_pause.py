"""Where a run pauses: points of its full schedule."""

import pytest
from tests.support.values import at, moment

from cairn.errors import ConfigError
from cairn.policy.pause import AtPause, parse
from cairn.policy.when import OnStop

PER_EPOCH = 8
REACHED = [
    # point, position, complete epochs, seconds, whether it is reached
    ("2ep", at(8, epoch=1, total=16), 2, 0.0, True),
    ("2ep", at(7, epoch=1, total=15), 1, 0.0, False),
    ("2ep", at(0, epoch=2, total=12), 2, 0.0, True),  # an epoch has ended early
    ("1.5ep", at(4, epoch=1, total=12), 1, 0.0, True),
    ("1.5ep", at(3, epoch=1, total=11), 1, 0.0, False),
    ("1.5ep", at(0, epoch=2, total=9), 2, 0.0, True),
    ("0.1ep", at(1), 0, 0.0, True),
    ("12st", at(13, step=12), 0, 0.0, True),
    ("12st", at(13, step=11), 0, 0.0, False),
    ("12ba", at(1, epoch=9, total=13), 9, 0.0, True),
    (12, at(11, epoch=9, total=11), 9, 0.0, False),
    ("90s", at(1), 0, 90.0, True),
    ("1.5min", at(1), 0, 89.9, False),
    ("2h", at(1), 0, 7200.5, True),
]


@pytest.mark.parametrize(("point", "position", "num_epochs", "elapsed_s", "expected"), REACHED)
def test_a_point_is_reached_there_and_after_it(point, position, num_epochs, elapsed_s, expected):
    assert parse(point).is_reached(position, num_epochs, elapsed_s, PER_EPOCH) is expected


def test_whole_epochs_need_no_length_of_the_data():
    assert parse("2ep").is_reached(at(5, epoch=1), 2, 0.0, None)
    assert not parse("2ep").is_reached(at(5, epoch=1), 1, 0.0, None)


def test_a_part_of_an_epoch_needs_one():
    with pytest.raises(ConfigError, match=r"pause_at='1.5ep' lies inside of an epoch.* no length"):
        parse("1.5ep").is_reached(at(5, epoch=1), 1, 0.0, None)


@pytest.mark.parametrize(
    "value", ["", "auto", "0ep", "0", "-1ep", "1.5st", "1.5", "3 epochs", "ep", "1e3", True, 1.5, "3ep 2ep", "3d4"]
)
def test_what_is_not_a_point_is_refused(value):
    with pytest.raises(ConfigError, match="is not a point of a run after its beginning: give '3ep'"):
        parse(value)


@pytest.mark.parametrize(("value", "text"), [("3ep", "3ep"), (" 3 ep ", "3ep"), (50, "50"), ("0.5h", "0.5h")])
def test_a_point_keeps_its_text(value, text):
    assert str(parse(value)) == text


def test_only_the_trigger_of_the_pause_is_due_there():
    here = moment(at(8), stop="pause")
    assert AtPause(parse("1ep")).due(here, [])
    assert not OnStop().due(here, [])
    assert not AtPause(parse("1ep")).due(moment(at(8), stop="SIGTERM"), [])
