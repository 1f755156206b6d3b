"""The client of object stores is not used on both sides of a fork."""

import os

import pytest

from cairn.errors import ConfigError
from cairn.remote import address, opened
from cairn.remote.objects import Objects


def test_a_process_that_was_forked_after_the_first_use_is_refused(monkeypatch):
    where = address.parse("memory://forked/run")
    Objects(where)
    assert opened._process == os.getpid()
    monkeypatch.setattr(opened, "_process", os.getpid() + 1)  # as a child that was forked finds it
    with pytest.raises(ConfigError, match=r"was forked from process \d+ after that had used an object store"):
        Objects(where)
