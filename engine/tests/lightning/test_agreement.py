"""All ranks leave a boundary with the same decision, whichever rank has asked for it."""

import multiprocessing
import pickle
import signal
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from tests.support.thread_ranks import on_threads
from torch import distributed

from cairn.lightning import agreement as agreement_module
from cairn.lightning.agreement import TIME_LIMIT, Alone, Ranks, first_error, together
from cairn.types import PAUSE

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks ranks")


def _rank(talk, rank, num_ranks, folder):
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=num_ranks)
    found = talk(Ranks(SimpleNamespace(is_global_zero=rank == 0)), rank)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    distributed.destroy_process_group()


def on_ranks(folder, talk, num_ranks=2):
    """Return what a function of (agreement, rank) returns on each rank."""
    forks = multiprocessing.get_context("fork")
    ranks = [forks.Process(target=_rank, args=(talk, rank, num_ranks, folder)) for rank in range(num_ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(num_ranks)]


STOPS = [*(item.name for item in signal.Signals), TIME_LIMIT, PAUSE]
MEETINGS = [
    ([(None, False), (None, False), (None, False)], (None, False)),
    ([(None, False), ("SIGTERM", False), (None, False)], ("SIGTERM", False)),
    ([("SIGUSR1", False), (None, False), (None, False)], ("SIGUSR1", False)),
    ([(None, True), (None, False), (None, False)], (None, True)),
    ([(None, True), ("SIGINT", False), (None, False)], ("SIGINT", True)),
    ([(PAUSE, False), ("SIGTERM", False), (PAUSE, False)], ("SIGTERM", False)),  # it is requeued, and pauses then
    *(([(None, False), (None, False), (stop, False)], (stop, False)) for stop in STOPS),
]
"""What each of three ranks says, and what all of them decide."""


def test_all_ranks_get_the_same_decision(tmp_path):
    found = on_ranks(tmp_path, lambda agreement, rank: [agreement.meet(*said[rank]) for said, _ in MEETINGS], 3)
    assert found == [[decision for _, decision in MEETINGS]] * 3


def test_numbers_and_values(tmp_path):
    def talk(agreement, rank):
        largest = agreement.largest(rank, 5 - rank, 1 << 62)
        return largest, agreement.share(["rank", rank]), agreement.gather({"rank": rank}), agreement.leads

    expected = [1, 5, 1 << 62], ["rank", 0]
    assert on_ranks(tmp_path, talk) == [
        (*expected, [{"rank": 0}, {"rank": 1}], True),
        (*expected, [], False),
    ]


def test_news_of_any_rank_are_heard_by_all_one_boundary_later(tmp_path):
    def talk(agreement, rank):
        heard = [agreement.has_news(rank == 1 and boundary == 3) for boundary in range(5)]
        # After news, the ranks start again: nothing is left of the boundary at which they were heard.
        return heard, [agreement.has_news(False) for _ in range(3)], agreement.meet(None, rank == 1)

    heard = [False, False, False, False, True]
    assert on_ranks(tmp_path, talk) == [(heard, [False] * 3, (None, True))] * 2


def test_what_is_said_last_before_an_event_does_not_reach_the_next_succession(tmp_path):
    def talk(agreement, rank):
        agreement.has_news(rank == 0)
        agreement.end_of_news()
        return [agreement.has_news(False), agreement.has_news(False)]

    assert on_ranks(tmp_path, talk) == [[False, False]] * 2


def test_a_rank_does_not_wait_for_an_answer(tmp_path):
    """A rank passes a boundary before another one has reached it."""

    def talk(agreement, rank):
        agreement.share(None)  # makes the group
        passed = folder / "passed"
        if rank == 0:
            agreement.has_news(True)
            passed.touch()
        else:
            while not passed.exists():
                threading.Event().wait(0.01)
            agreement.has_news(False)
        return agreement.has_news(False)

    folder = tmp_path
    assert on_ranks(tmp_path, talk) == [True, True]


def test_one_process_agrees_with_itself():
    assert Alone().meet("SIGTERM", True) == ("SIGTERM", True)
    assert Alone().largest(3, 1) == [3, 1]
    assert [Alone().has_news(True), Alone().has_news(False)] == [True, False]
    assert Alone().share(3) == 3
    assert Alone.leads


def test_all_ranks_fail_if_one_does(caplog):
    """The rank that fails says why before the others learn of it: a launcher kills it when one of them has ended."""
    said = []

    def talk(agreement, rank):
        failed = agreement.failed
        agreement.failed = lambda *numbers: (said.append(caplog.text), failed(*numbers))
        with together(agreement, "It", "done"):
            if rank == 1:
                raise ZeroDivisionError("no zero")

    first, second = on_threads(talk)
    assert isinstance(second, ZeroDivisionError)
    (before,) = said
    assert "It of this rank could not be done: ZeroDivisionError: no zero" in before
    assert str(first) == "It of another rank could not be done; the message of that rank says why."


@pytest.mark.parametrize(
    ("errors", "expected"),
    [(["", "no disk", "no memory"], "Rank 1: no disk"), (["no memory", "", ""], "no memory")],
)
def test_the_first_error_is_that_of_all_ranks(errors, expected):
    assert on_threads(lambda agreement, rank: first_error(agreement, errors[rank]), 3) == [expected] * 3


def test_a_rank_that_fails_does_not_wait_for_one_that_waits_for_it(tmp_path, monkeypatch):
    """Code of the user may be collective: the other rank is in it until the process of this one ends."""
    monkeypatch.setattr(agreement_module, "_OTHERS", timedelta(seconds=0.01))

    def talk(agreement, rank):
        agreement.share(None)  # makes the group
        try:
            with together(agreement, "It", "done"):
                if rank == 1:
                    raise ZeroDivisionError
                distributed.barrier()
        except Exception as error:
            return type(error).__name__

    assert on_ranks(tmp_path, talk) == ["RuntimeError", "ZeroDivisionError"]
