"""Which checkpoints this version can restore."""

import pytest

from cairn.errors import ResumeError
from cairn.lightning import capture
from cairn.lightning.saved import unsaved


def test_a_later_format_is_refused_with_both_numbers():
    message = rf"format {unsaved.FORMAT + 1}, but this version of Cairn reads formats up to {unsaved.FORMAT}"
    with pytest.raises(ResumeError, match=message):
        capture.check({"format": unsaved.FORMAT + 1, "ranks": [{}]})
