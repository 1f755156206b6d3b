"""The command that extends a run names the callback that has stopped it."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from cairn.hydra.run.ending import _override_for_patience

STOPS = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "patience": 3}
OTHER = {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor", "patience": 9}


@pytest.mark.parametrize(
    ("nodes", "patience", "expected"),
    [
        ({"other": OTHER, "stops": STOPS}, [3], "callbacks.stops.patience=6"),
        ({"stops": STOPS}, [0], "callbacks.stops.patience=1"),
        ({"stops": STOPS}, [3, 3], ""),
        ({"stops": STOPS, "more": STOPS}, [3], ""),
        ({"other": OTHER}, [3], ""),
        ({"stops": STOPS}, [], ""),
    ],
)
def test_only_the_callback_that_stopped_the_run_gets_more_patience(nodes, patience, expected):
    trainer = SimpleNamespace(early_stopping_callbacks=[EarlyStopping("a", patience=number) for number in patience])
    start = SimpleNamespace(settings=SimpleNamespace(callbacks=nodes))
    assert _override_for_patience(start, trainer) == expected
