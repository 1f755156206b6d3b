"""A call with a limit returns, raises what the function raised, or says that the time is over."""

import threading

import pytest

from cairn.errors import RemoteError
from cairn.remote import address, bounded

HERE = address.parse("memory://bounded/run")


def test_a_result_and_an_error_are_passed_on():
    assert bounded.call(lambda: 3, HERE, 30.0) == 3
    with pytest.raises(ZeroDivisionError):
        bounded.call(lambda: 1 / 0, HERE)


def test_a_call_that_hangs_is_given_up():
    release = threading.Event()
    with pytest.raises(RemoteError, match="memory://bounded/run does not answer within 0 s") as caught:
        bounded.call(release.wait, HERE, 0.0)
    release.set()
    assert caught.value.kind == "unavailable"
