"""Errors of torch about weights are explained only where a file was loaded."""

import pytest
from tests.support.faults import Net

from cairn.errors import ModelError
from cairn.hydra.run.mismatch import RESUME, explained


def test_an_error_without_a_file_stays_as_it_is():
    model = Net()
    with (
        pytest.raises(ModelError, match=r"a\.ckpt holds the weights of another model"),
        explained("a.ckpt", model, RESUME),
    ):
        model.load_state_dict({})
    with pytest.raises(RuntimeError, match="Missing key") as raised, explained(None, model, RESUME):
        model.load_state_dict({})
    assert not isinstance(raised.value, ModelError)
