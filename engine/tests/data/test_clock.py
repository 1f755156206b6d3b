"""The clocks of a forked process are put forward, and those of this one stay."""

import datetime
import time
from datetime import date
from time import strftime

import numpy as np
import pytest
from numpy import datetime64
from torch.utils.data import Subset

from cairn.data.clock import put_forward
from cairn.data.forked import forked


class Owner:
    """Belongs to a module that has imported clocks by their names."""


CLOCKS = {
    "time": lambda: time.time() // 3600,
    "time_ns": lambda: time.time_ns() // (3600 * 10**9),
    "localtime": lambda: time.localtime()[:4],
    "gmtime": lambda: time.gmtime(None)[:4],
    "ctime": lambda: time.ctime()[:13],
    "strftime": lambda: strftime("%d %H"),
    "datetime": lambda: datetime.datetime.now().strftime("%d %H"),
    "with a zone": lambda: datetime.datetime.now(datetime.UTC).month,
    "utcnow": lambda: datetime.datetime.utcnow().month,
    "numpy": lambda: (str(np.datetime64("now"))[:13], str(np.datetime64("today"))),
    "numpy by its name": lambda: str(datetime64("now", "h")),
    "array of numpy": lambda: str(np.array("now", dtype="M8[h]")),
    "list in an array": lambda: str(np.asarray(["2020-01-02", "today"], "M8[D]")[1]),
    "today": lambda: (date.today(), datetime.datetime.today().month),
}


def in_the_future(read):
    def trial():
        put_forward(Owner())
        first = read()
        put_forward(Owner())
        return repr((first, read()))

    return eval(forked(trial, 5.0), {"datetime": datetime})


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
@pytest.mark.parametrize("name", CLOCKS)
def test_each_clock_is_later_each_time(name):
    now = repr(CLOCKS[name]())
    first, second = in_the_future(CLOCKS[name])
    assert len({now, repr(first), repr(second)}) == 3
    assert repr(CLOCKS[name]())[:4] == now[:4]


def test_a_module_of_what_an_object_holds_is_found():
    def trial():
        put_forward(Subset(Owner(), [0]))
        return str(date is datetime.date)  # both are replaced

    before = date
    assert forked(trial, 5.0) == "True"
    assert date is before


def test_a_given_time_stays_and_classes_are_known():
    given = datetime.datetime(2020, 1, 2, 3)

    def read():
        known = isinstance(given, datetime.datetime) and isinstance(given, date)
        return known, time.gmtime(0)[:4], strftime("%d", time.gmtime(0)), datetime.datetime(2020, 1, 2, 3) == given

    expected = (True, (1970, 1, 1, 0), "01", True)
    assert in_the_future(read) == (expected, expected)


def test_dates_of_numpy_are_as_before():
    given = np.datetime64("2020-01-02")

    def read():
        array = np.array(["2020-01-02"]).astype(np.datetime64)
        is_known = isinstance(given, np.datetime64) and np.issubdtype(given.dtype, np.datetime64)
        texts = str(array.dtype), np.dtype(np.datetime64).str, str(np.datetime64(given, "h"))
        return is_known, array[0].item() == given.item(), texts

    expected = (True, True, ("datetime64[D]", "<M8", "2020-01-02T00"))
    assert read() == expected
    assert in_the_future(read) == (expected, expected)
