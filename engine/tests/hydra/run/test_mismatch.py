"""Errors of torch about weights are explained only where a file was loaded."""

import pytest
import torch
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


def test_shapes_that_differ_under_other_names_are_shown(tmp_path):
    model = Net()
    weights = {f"_orig_mod.{name}": value[:1] for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "a.ckpt")
    with (
        pytest.raises(ModelError, match=r"only those in the file have '_orig_mod\.'; .* is \(1.* in the file and \("),
        explained(str(tmp_path / "a.ckpt"), model, RESUME),
    ):
        model.load_state_dict(weights)
