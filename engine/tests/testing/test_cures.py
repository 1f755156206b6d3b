"""Cures are code that can be typed: whatever the attribute is called, and wherever it lies."""

import re
from types import SimpleNamespace

import pytest
from torch import nn

from cairn.testing import cures, facts, path


class Net(nn.Module):
    """A module with state in all places that a walk finds."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1)))
        self.net[1].scale = 1.0
        self.net[1][0].count = 1
        self.parts = nn.ModuleDict({"a-b": nn.Linear(1, 1), "class": nn.Linear(1, 1)})
        self.parts["a-b"].seen = self.parts["class"].seen = 1
        self.teacher = [nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))]
        self.table = {"it's": [1], "a]b": [2], ("x", 1): [3], None: [4], "a.b": {"c": [5]}}
        self.slots = Slots()
        self.own = SimpleNamespace(state_dict=dict)
        self._Net__private = 1
        count = [0]

        def function():
            return count[0]

        self.function = function
        setattr(self, "with space", 1)
        self.lambda_ = 1
        self.plain = 1


class Slots:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 1


READABLE = [
    "plain",
    "lambda_",
    "_Net__private",
    "with space",
    "net.1.scale",
    "net.1.0.count",
    "parts.a-b.seen",
    "parts.class.seen",
    "teacher[0].1.weight",
    'table["it\'s"][0]',
    "table['a]b'][0]",
    "table[('x', 1)]",
    "table[None][0]",
    "table['a.b']['c']",
    "slots.n",
    "own.state_dict()",
]
NOT_READABLE = ["function.count[0]", "table[<object at 0x7f>]", "table[7]", "teacher[0]..x", ""]


@pytest.mark.parametrize("name", READABLE)
def test_code_reads_the_attribute(name):
    model = Net()
    eval(compile(path.code(name), "cure", "eval"), {"self": model})
    assert path.is_readable(model, name)


@pytest.mark.parametrize("name", NOT_READABLE)
def test_what_no_code_reads_is_known(name):
    assert not path.is_readable(Net(), name)


def cure(name, role="model", owner="Net", value=1.0):
    """The cure for an attribute that a run has lost."""
    model = Net()
    trainer = SimpleNamespace(lightning_module=model, datamodule=None, callbacks=[model])
    full = f"{owner}.{name}"
    start = {"1": {"attribute": {full: value}}}
    whole = {"roles": {owner: role}, "starts": start, "hidden": facts.hidden(trainer, [full])}
    return cures.advice("attribute", full, whole).cure


@pytest.mark.parametrize("value", [1.0, "<Tensor>", "[1, 2]"])
@pytest.mark.parametrize("name", [*READABLE, *NOT_READABLE])
def test_each_line_of_a_cure_for_a_model_can_be_typed(name, value):
    text = cure(name, value=value)
    line = re.search(r"as (checkpoint\[.* = .*), and set it in on_load_checkpoint", text)
    if name in READABLE:
        compile(line[1], "cure", "exec")
    else:
        assert line is None
        assert "which a hook cannot set: keep it in a buffer of Net (register_buffer)" in text


@pytest.mark.parametrize("name", [*READABLE, *NOT_READABLE])
def test_each_line_of_a_cure_for_a_callback_can_be_typed(name):
    text = cure(name, role="callback")
    line = re.search(r"which returns (\{.*\}), and load_state_dict", text)
    if name in READABLE:
        compile(line[1], "cure", "eval")
    else:
        assert line is None
        assert "save that in state_dict() and set it in load_state_dict(state)" in text


def test_an_attribute_of_a_part_is_read_from_the_whole_model():
    assert "checkpoint['net.1.scale'] = getattr(self.net, '1').scale, and set it" in cure("scale", owner="Net.net.1")
