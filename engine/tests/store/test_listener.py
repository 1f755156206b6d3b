"""Several listeners are informed as one, and an error of one affects neither the others nor the run."""

from pathlib import Path

import pytest
from tests.support.values import saved

from cairn.store import listener as module
from cairn.store.listener import Listener, Listeners

CALLS = [
    ("opened", (Path("checkpoints"), (saved(0),), {"last.ckpt": saved(0).name}, ())),
    ("committed", (saved(1), {"last.ckpt": saved(1).name})),
    ("deleting", ((saved(0).name,),)),
    ("deleted", ((saved(0).name,),)),
]


class Recorder(Listener):
    """Records each call; fails in the methods that are named."""

    def __init__(self, *failing, error=ValueError):
        self.calls, self.failing, self.error = [], failing, error

    def __getattribute__(self, name):
        if name not in ("opened", "committed", "deleting", "deleted", "close"):
            return super().__getattribute__(name)

        def call(*arguments):
            self.calls.append((name, arguments))
            if name in self.failing:
                raise self.error(f"{name} does not work.\nA second line.")

        return call


def test_every_listener_gets_every_call():
    recorders = [Recorder(), Recorder()]
    listeners = Listeners(recorders)
    for name, arguments in CALLS:
        getattr(listeners, name)(*arguments)
    assert [recorder.calls for recorder in recorders] == [CALLS, CALLS]


class Plain(Listener):
    """Overrides nothing."""


def test_a_listener_that_overrides_nothing_ignores_everything():
    listeners = Listeners([Plain()])
    for name, arguments in CALLS:
        getattr(listeners, name)(*arguments)
    listeners.close(True, 0.0)


def test_no_listener_is_needed():
    Listeners().committed(saved(0), {})


@pytest.mark.parametrize("name", [name for name, _ in CALLS])
def test_an_error_of_one_is_logged_once_and_the_others_are_informed(caplog, name):
    broken, other = Recorder(name), Recorder()
    listeners = Listeners([broken, other])
    for _ in range(3):
        for called, arguments in CALLS:
            getattr(listeners, called)(*arguments)
    assert other.calls == broken.calls == 3 * CALLS
    assert caplog.messages == [
        f"Recorder.{name} failed: ValueError: {name} does not work. Training continues; this message is logged once."
    ]


def test_each_kind_of_error_is_logged(caplog):
    listeners = Listeners([Recorder("deleted", "deleting"), Recorder("deleted", error=OSError)])
    for _ in range(2):
        listeners.deleting(["a"])
        listeners.deleted(["a"])
    assert len(caplog.messages) == 3


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        Listeners([Recorder("close", error=KeyboardInterrupt)]).close(True, 1.0)


def test_the_listeners_share_the_time_to_close(monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s[0])

    class Slow(Recorder):
        def __getattribute__(self, name):
            if name == "close":
                now_s[0] += 4.0
            return super().__getattribute__(name)

    listeners = [Slow(), Slow(), Slow()]
    Listeners(listeners).close(False, 6.0)
    assert [item.calls for item in listeners] == [[("close", (False, left_s))] for left_s in (6.0, 2.0, 0.0)]
