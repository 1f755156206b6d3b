"""Lightning does not call hooks of a batch that do nothing."""

import copy
from collections import Counter

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

import cairn
from cairn.lightning import unused_hooks


class Counted(Callback):
    def __init__(self):
        self.calls = Counter()

    def on_train_batch_end(self, *args):
        self.calls["end"] += 1


class Derived(cairn.Checkpointer):
    def on_after_backward(self, trainer, module):
        super().on_after_backward(trainer, module)


def test_only_hooks_that_a_class_does_not_define_are_hidden():
    callback = Counted()
    unused_hooks.hide(callback)
    assert callback.on_train_batch_start is None
    assert callback.on_before_backward is None
    callback.on_train_batch_end()
    assert callback.calls["end"] == 1
    assert callable(callback.on_train_start), "called once, so that it costs nothing"
    assert callable(Counted.on_train_batch_start), "for super()"


def test_each_hook_that_is_called_for_each_batch_is_known():
    assert set(unused_hooks.PER_BATCH) >= {
        *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward"),
        *("on_after_backward", "on_validation_batch_start", "on_validation_batch_end", "on_test_batch_start"),
        *("on_test_batch_end", "on_predict_batch_start", "on_predict_batch_end"),
    }
    assert "on_before_optimizer_step" not in unused_hooks.PER_BATCH, "a Checkpointer needs it if copies overlap"


def test_a_class_that_derives_from_a_checkpointer_keeps_its_hooks(tmp_path):
    own = Derived(tmp_path)
    unused_hooks.hide(own)
    own.on_after_backward(None, None)
    assert own.on_before_backward is None
    assert copy.deepcopy(own).on_before_backward is None
    assert callable(ModelCheckpoint().on_before_backward)


def test_a_hook_that_was_set_on_the_object_is_called(tmp_path):
    own, calls = cairn.Checkpointer(tmp_path), []
    own.on_before_backward = lambda *args: calls.append("before")
    unused_hooks.hide(own)
    own.on_after_backward = lambda *args: calls.append("after")
    unused_hooks.hide(own)
    own.on_before_backward()
    own.on_after_backward()
    assert calls == ["before", "after"]
