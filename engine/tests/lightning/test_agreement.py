"""All ranks leave a boundary with the same decision, whichever rank has asked for it."""

import signal
from types import SimpleNamespace

import pytest
import torch

from cairn.lightning.agreement import TIME_LIMIT, Alone, Ranks


def _ask(ranks):
    """Return what each rank gets when all of them meet with these pairs (stop, special)."""
    said = []
    for stop, special in ranks:  # the contribution of each rank
        Ranks(_strategy(lambda mine: said.append(mine) or mine)).meet(stop, special)
    together = torch.stack(said).amax(0)
    return [Ranks(_strategy(lambda mine: together)).meet(stop, special) for stop, special in ranks]


def _strategy(reduce):
    return SimpleNamespace(
        root_device=torch.device("cpu"), is_global_zero=False, reduce=lambda mine, reduce_op: reduce(mine)
    )


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([(None, False), (None, False)], (None, False)),
        ([(None, False), ("SIGTERM", False)], ("SIGTERM", False)),
        ([("SIGUSR1", False), (None, False)], ("SIGUSR1", False)),
        ([(None, True), (None, False)], (None, True)),
        ([(None, True), ("SIGINT", False), (None, False)], ("SIGINT", True)),
        ([(TIME_LIMIT, False), (None, False)], (TIME_LIMIT, False)),
    ],
)
def test_all_ranks_get_the_same_decision(ranks, expected):
    assert _ask(ranks) == [expected] * len(ranks)


@pytest.mark.parametrize("stop", [*(item.name for item in signal.Signals), TIME_LIMIT])
def test_every_reason_to_stop_reaches_all_ranks(stop):
    assert _ask([(None, False), (stop, False)]) == [(stop, False)] * 2


def test_one_process_agrees_with_itself():
    assert Alone().meet("SIGTERM", True) == ("SIGTERM", True)
    assert Alone().share(3) == 3
    assert Alone.leads
