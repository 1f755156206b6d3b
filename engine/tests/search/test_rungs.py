"""Where trials stop: lists and numbers."""

import pytest

from cairn.errors import ConfigError
from cairn.search.rungs import Length, parse

EPOCHS = Length.of(9, None)


@pytest.mark.parametrize(
    ("rungs", "eta", "length", "expected"),
    [
        (3, 3, EPOCHS, "1ep 3ep end"),
        (2, 3, EPOCHS, "3ep end"),
        (1, 3, Length(), "end"),
        (None, 3, EPOCHS, "1ep 3ep end"),
        (None, 2, Length.of(16, None), "1ep 2ep 4ep 8ep end"),
        (3, 3, Length.of(10, None), "1ep 3ep end"),
        (3, 2, Length.of(-1, 1000), "250st 500st end"),
        (3, 4, Length.of(20, 1000), "1ep 5ep end"),
        (4, 3, Length.of(4, None), "1ep end"),  # there is no room for more
        (3, 3, Length.of(1, None), "end"),
        (["1ep", "3ep"], 3, Length(), "1ep 3ep end"),
        (["1ep", "3ep", "end"], 3, Length(), "1ep 3ep end"),
        (["10min", "1h"], 3, Length(), "10min 1h end"),
        ([200, "500ba"], 3, Length(), "200 500ba end"),
        ([], 3, Length(), "end"),
    ],
)
def test_where_trials_stop(rungs, eta, length, expected):
    assert parse(rungs, eta, length) == tuple(expected.split())


@pytest.mark.parametrize(
    ("rungs", "eta", "length", "message"),
    [
        (3, 3, Length.of(-1, None), "needs the length of a run: set trainer.max_epochs"),
        (0, 3, EPOCHS, "must be a number, or a list"),
        (True, 3, EPOCHS, "must be a number, or a list"),
        ("1ep", 3, EPOCHS, "must be a number, or a list"),
        (["soon"], 3, EPOCHS, "must be a number, or a list"),
        (["end", "3ep"], 3, EPOCHS, "'end' comes last"),
        (["3ep", "1ep"], 3, EPOCHS, "1ep does not come after 3ep"),
        (["3ep", "3.0ep"], 3, EPOCHS, "3.0ep does not come after 3ep"),
        (["1ep", "300st"], 3, EPOCHS, "in one unit"),
        (3, 1, EPOCHS, "eta=1 must be an integer from 2"),
        (3, 2.5, EPOCHS, "eta=2.5 must be an integer from 2"),
    ],
)
def test_what_cannot_be_rungs_is_refused(rungs, eta, length, message):
    with pytest.raises(ConfigError, match=message):
        parse(rungs, eta, length)


def test_fewer_rungs_than_asked_for_are_logged(caplog):
    parse(3, 3, Length.of(2, None))
    assert "2ep have room for 2, with eta=3" in caplog.text
