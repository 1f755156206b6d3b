"""What a hook sets without reading it is exact, also where no descriptor can watch it; what it may read is reported."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback
from tests.lightning.audited.test_audit import Net, messages

from cairn.lightning.audited import hook_code

LEVEL = 0.0
STEP = 0.5


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide other modules of tests, which are code of the same user: more names than can be followed."""
    found = {name: module for name, module in sys.modules.items() if name == __name__ or not name.startswith("tests.")}
    monkeypatch.setattr(hook_code, "sys", SimpleNamespace(modules=found))


class Config:
    """Settings of the user."""

    level = 0.0


class New:
    """Returns a level."""

    def __call__(self, epoch: int) -> float:
        return epoch + 1.0


class Next:
    """Returns a level, on from the last one."""

    def __call__(self, epoch: int) -> float:
        return LEVEL + 1.0


class Plain(Net):
    """Has a value in each of the places that no descriptor watches."""

    hook: Callable[[Any], Any]

    def __init__(self, level: float = 0.0, other: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.space = SimpleNamespace(level=0.0, inner=SimpleNamespace(level=0.0))
        self.new, self.next = New(), Next()
        self.by_name = functools.partial(schedule, factor=2.0)
        self.getters = [operator.attrgetter("level")]

    @property
    def last(self) -> float:
        return float(self.space.level)

    def computed(self) -> float:
        return self.current_epoch * STEP * self.hparams.other

    def on_train_epoch_start(self) -> None:
        type(self).hook(self)


def schedule(epoch: int, factor: float = 1.0) -> float:
    return (epoch + 1) * factor


def next_level() -> float:
    return LEVEL + 1.0


def set_global(net: Any) -> None:
    global LEVEL
    LEVEL = net.new(net.current_epoch) + net.computed()


def set_by_a_partial(net: Any) -> None:
    global LEVEL
    LEVEL = net.by_name(net.current_epoch)


def change_global(net: Any) -> None:
    global LEVEL
    LEVEL += 1.0


def change_by_a_function(net: Any) -> None:
    global LEVEL
    LEVEL = next_level()


def change_by_an_object(net: Any) -> None:
    global LEVEL
    LEVEL = net.next(net.current_epoch)


def change_by_globals(net: Any) -> None:
    global LEVEL
    LEVEL = globals()["LEVEL"] + 1.0


def set_key(net: Any) -> None:
    net.hparams["level"] = schedule(net.current_epoch) * net.hparams["other"]


def set_class(net: Any) -> None:
    Config.level = schedule(net.current_epoch)


def reads_all(net: Any) -> None:
    net.hparams.level = sum(SimpleNamespace(**net.hparams).__reduce__()[2].values(), 1.0)


SET: dict[str, Callable[[Any], Any]] = {
    "global": set_global,
    "global by a partial": set_by_a_partial,
    "attribute of a class": set_class,
    "hyperparameter": lambda net: setattr_of(net, schedule(net.current_epoch)),
    "key of the hyperparameters": set_key,
    "namespace": lambda net: space(net, net.current_epoch + 1.0),
    "namespace in a namespace": lambda net: inner_space(net, net.current_epoch + 1.0),
}


class Raises:
    """Object of the user that cannot be asked for anything."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


RAISES = Raises()


def setattr_of(net: Any, value: float) -> None:
    net.hparams.level = value


def space(net: Any, value: float) -> None:
    net.space.level = value


def inner_space(net: Any, value: float) -> None:
    net.space.inner.level = value


def change_space(net: Any) -> None:
    net.space.level *= 0.5
    net.space.level += 1.0


def change_by_a_property(net: Any) -> None:
    net.space.level = net.last + 1.0


def change_by_a_getter(net: Any) -> None:
    net.space.level = net.getters[0](net.space) + 1.0


def change_by_a_key(net: Any) -> None:
    key = "".join(["le", "vel"])
    net.hparams.level = net.hparams[key] + 1.0


CHANGED_ON: dict[str, tuple[Callable[[Any], Any], str]] = {
    "global": (change_global, f"{__name__}.LEVEL"),
    "global by a function": (change_by_a_function, f"{__name__}.LEVEL"),
    "global by an object": (change_by_an_object, f"{__name__}.LEVEL"),
    "global by globals()": (change_by_globals, f"{__name__}.LEVEL"),
    "attribute of a class": (lambda net: change_class(), f"{__name__}.Config.level"),
    "hyperparameter": (lambda net: setattr_of(net, net.hparams.level + 1.0), "Hooked.hparams"),
    "all hyperparameters": (reads_all, "Hooked.hparams"),
    "computed key": (change_by_a_key, "Hooked.hparams"),
    "namespace": (change_space, "Hooked.space"),
    "namespace by a property": (change_by_a_property, "Hooked.space"),
    "namespace by a getter": (change_by_a_getter, "Hooked.space"),
}


def change_class() -> None:
    Config.level += 1.0


def hooked(hook: Callable[[Any], Any]) -> type[Plain]:
    return type("Hooked", (Plain,), {"hook": staticmethod(hook), "__module__": __name__})


@pytest.fixture(autouse=True)
def _as_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "LEVEL", 0.0)
    monkeypatch.setattr(Config, "level", 0.0)


@pytest.mark.parametrize("case", SET)
def test_what_a_hook_only_sets_is_not_reported(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert messages(tmp_path, hooked(SET[case])(), max_steps=4) == []
    monkeypatch.setitem(globals(), "LEVEL", 0.0)
    monkeypatch.setattr(Config, "level", 0.0)
    assert messages(tmp_path, hooked(SET[case])()) == []


@pytest.mark.parametrize("case", CHANGED_ON)
def test_what_a_hook_may_read_is_reported(case: str, tmp_path: Path) -> None:
    hook, name = CHANGED_ON[case]
    (message,) = messages(tmp_path, hooked(hook)(), max_steps=1)
    assert message.startswith(f"Training changes {name}, ")


class Other(Callback):
    """Another hook reads what the first one sets."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen = LEVEL


@pytest.mark.parametrize("callback", [Other(), LambdaCallback(on_train_epoch_start=lambda *_: print(LEVEL))])
def test_what_another_hook_reads_is_reported(callback: Callback, tmp_path: Path) -> None:
    (message,) = messages(tmp_path, hooked(set_global)(), (callback,), max_steps=1)
    assert message.startswith(f"Training changes {__name__}.LEVEL, ")


def once(net: Any) -> None:
    if net.current_epoch == 0:
        set_global(net)


def test_what_only_the_first_epoch_sets_is_reported_by_a_resume_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert messages(tmp_path, hooked(once)(), max_steps=4) == []
    monkeypatch.setitem(globals(), "LEVEL", 0.0)
    (message,) = messages(tmp_path, hooked(once)())
    assert message.startswith(f"This resume may not be exact: {__name__}.LEVEL is 0.0 and was 1.0. ")
