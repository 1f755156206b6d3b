"""Code of the user that fails on one rank ends a save on all ranks, wherever it is called."""

import itertools
import multiprocessing
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tests.support import failing_ranks
from tests.support.failing_ranks import two_ranks

from cairn.lightning import collect

pytestmark = pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="forks ranks")
FITS = list(itertools.product(("ddp", "fsdp2"), (False, True), (False, True)))
"""Strategy, manual optimization, shards."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each save has come to on each of two ranks, in all fits, which the same two processes do."""
    with two_ranks(partial(failing_ranks.fits, tmp_path_factory.mktemp("ranks"), FITS)) as answers:
        said = answers()
    assert not any(isinstance(one, str) for one in said.values()), said
    return said


@pytest.mark.parametrize("number", range(len(FITS)), ids=["-".join(map(str, fit)) for fit in FITS])
def test_what_fails_on_one_rank_fails_on_all_and_the_ranks_stay_together(found, number):
    first, second = found[0][number], found[1][number]
    assert len(first) == len(second) == len(list(failing_ranks.cases())) + 1
    for (*case, on_0), (*_, on_1) in zip(first[:-1], second[:-1], strict=True):
        failed, other = (on_0, on_1) if case[2] == 0 else (on_1, on_0)
        kind = {"raises": "Fault: no disk", "function": "UnsafeStateError", "cycle": "RecursionError"}[case[1]]
        assert failed.startswith(kind), (case, failed, other)
        assert other.startswith("ConfigError: The state of another rank could not be saved"), (case, failed, other)
    assert (first[-1][3], second[-1][3]) == ("saved", "saved")


def test_the_states_of_a_zero_redundancy_optimizer_are_collected_before_any_hook_is_called():
    calls = []

    class Parted(torch.optim.SGD):
        def consolidate_state_dict(self, to=0):
            calls.append(to)

    optimizer = Parted([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with collect._consolidated(SimpleNamespace(optimizers=[optimizer])):
        assert calls == [0]
        optimizer.consolidate_state_dict()
        assert calls == [0], "Lightning asks once more, when hooks have been called on some ranks only"
    optimizer.consolidate_state_dict(to=1)
    assert calls == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "manual", "hook", "rank"),
    [
        ("ddp", False, "on_before_optimizer_step", 1),
        ("fsdp2", True, "on_before_optimizer_step", 0),
        ("fsdp2", False, "on_after_backward", 1),
        ("fsdp2", True, "on_train_batch_end", 1),
    ],
)
def test_what_fails_on_one_rank_in_a_step_ends_both(tmp_path, strategy, manual, hook, rank):
    fails = failing_ranks.FailsIn(hook, rank)
    with two_ranks(partial(failing_ranks.fit_with, tmp_path, strategy, manual, fails)) as answers:
        said = answers()
    assert said[rank] == "Fault: no disk"
    assert isinstance(said[1 - rank], str), "its connection to the other rank ends"
