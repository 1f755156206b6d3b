"""Subclasses of Tensor are plain tensors in a file, and come back as what they were."""

import io

import pytest
import torch
from tests.support import values as support
from tests.support.quantized import Quantized
from torch import Tensor, nn

from cairn.errors import UnsafeStateError
from cairn.testing.digest import digest
from cairn.writing import forms
from cairn.writing.form_encoder import FormEncoder


class Image(Tensor):
    """The numbers of a tensor, with a method of its own."""

    def brightness(self):
        return self.mean()


class Masked(Tensor):
    """A wrapper that does not say how it is taken apart."""

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError


def quantized(number=4):
    return Quantized.of(torch.arange(number, dtype=torch.float32))


def returned(state, monkeypatch):
    """What comes back from a file, and what other programs read there."""
    monkeypatch.setattr(support, "encode", FormEncoder().encode)
    contents = torch.load(io.BytesIO(bytes(support.file_of({"cairn": {}, "mine": state}))), weights_only=True)
    plain = contents["mine"]
    found = torch.load(io.BytesIO(bytes(support.file_of({"cairn": {}, "mine": state}))), weights_only=True)
    forms.restore(found)
    return found["mine"], plain


def test_a_wrapper_comes_back_with_its_tensors(monkeypatch):
    value = quantized()
    found, plain = returned({"momentum": value}, monkeypatch)
    assert type(found["momentum"]) is Quantized
    assert torch.equal(found["momentum"].codes, value.codes)
    assert torch.equal(found["momentum"].scale, value.scale)
    assert torch.equal(plain["momentum"]["parts"]["codes"], value.codes), "plain tensors for other programs"


@pytest.mark.parametrize("make", [torch.ones, lambda size: nn.Parameter(torch.ones(size))])
def test_a_subclass_comes_back_with_its_methods(monkeypatch, make):
    value = make(3).as_subclass(Image) if make is torch.ones else nn.Parameter(torch.ones(3).as_subclass(Image))
    found, _ = returned([value], monkeypatch)
    assert type(found[0]) is Image
    assert found[0].brightness() == 1


def test_a_wrapper_of_a_wrapper(monkeypatch):
    inner = quantized()
    inner.scale = torch.tensor(2.0).as_subclass(Image)
    found, _ = returned(inner, monkeypatch)
    assert type(found.scale) is Image
    assert found.scale == 2


@pytest.mark.parametrize("make", [lambda: torch.ones(2).as_subclass(Masked), lambda: with_an_attribute(Image)])
def test_what_a_file_would_lose_is_refused_by_name(make):
    with pytest.raises(UnsafeStateError, match=r"checkpoint\['mine'\] is a tests\.writing\.test_subclasses\.\w+"):
        FormEncoder().encode({"mine": make()})


def with_an_attribute(kind):
    made = torch.ones(2).as_subclass(kind)
    made.source = "a camera"
    return made


def test_a_class_of_a_function_is_refused():
    class Local(Tensor):
        pass

    with pytest.raises(UnsafeStateError, match="Local"):
        FormEncoder().encode({"mine": torch.ones(2).as_subclass(Local)})


def test_a_class_that_is_gone_leaves_the_plain_tensors(monkeypatch, caplog):
    contents = {"cairn": {"forms": [[["mine"], "subclass", "a.module:Gone"]]}, "mine": {"how": ["whole"], "parts": {}}}
    forms.restore(contents)
    assert contents["mine"] == {"how": ["whole"], "parts": {}}
    assert "was saved as subclass" in caplog.text


@pytest.mark.parametrize("name", ["builtins:dict", "os:system", "torch.nn.modules.linear:Linear"])
def test_only_subclasses_of_tensors_are_made(caplog, name):
    contents = {"cairn": {"forms": [[["mine"], "subclass", name]]}, "mine": {"how": ["whole"], "parts": {}}}
    forms.restore(contents)
    assert contents["mine"] == {"how": ["whole"], "parts": {}}
    assert "is loaded as a plain value" in caplog.text


def test_equal_wrappers_have_equal_digests():
    assert digest(quantized()) == digest(quantized())
    assert digest(quantized()) != digest(quantized(5))
