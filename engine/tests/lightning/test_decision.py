"""Which reasons a manifest gives: those of an undisturbed run, unless there are no others."""

import pytest
from tests.support.thread_ranks import on_threads
from tests.support.values import at, moment

from cairn import AtEnd, BestValidation, Every, OnStop
from cairn.lightning.agreement import TIME_LIMIT, Alone
from cairn.lightning.decision import Decision
from cairn.policy.pause import AtPause, parse
from cairn.types import PAUSE

TRIGGERS = {"interval": Every(5), "best": BestValidation(), "end": AtEnd(), "stop": OnStop()}


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGHUP", "job_time_limit"])
@pytest.mark.parametrize(
    ("batch", "facts", "undisturbed"),
    [
        (5, {}, ("interval",)),
        (6, {"score": 1.0}, ("best",)),
        (10, {"score": 1.0}, ("interval", "best")),
        (10, {"ends": True}, ("interval", "end")),
        (11, {"ends": True}, ("end",)),
        (7, {}, ()),
    ],
)
def test_a_signal_adds_no_reason_where_there_are_others(stop, batch, facts, undisturbed):
    def take(**more):
        here = moment(at(batch), at(batch - 1), **facts, **more)
        return Decision(TRIGGERS, may_skip=True).take(here, (), "", lambda wait: True, Alone())

    assert take().reasons == undisturbed
    assert take(stop=stop).reasons == (undisturbed or ("stop",))
    assert take(stop=stop).moment.stop == stop


def test_a_pause_is_a_reason_only_where_there_is_no_other():
    decision = Decision({**TRIGGERS, "pause": AtPause(parse("1ep"))}, may_skip=True)
    for batch, expected in ((5, ("interval",)), (6, ("pause",))):
        here = moment(at(batch), at(batch - 1), stop=PAUSE)
        waits = []
        found = decision.take(here, (), "", lambda wait, waits=waits: waits.append(wait) or True, Alone())
        assert (found.reasons, found.moment.stop, waits) == (expected, PAUSE, [True]), "it is never skipped"
        assert decision.is_lasting(found.reasons) == (batch == 5)


def test_a_time_limit_of_the_run_itself_is_a_reason():
    here = moment(at(5), at(4), stop=TIME_LIMIT)
    found = Decision(TRIGGERS, may_skip=True).take(here, (), "", lambda wait: True, Alone())
    assert found.reasons == ("interval", "stop")


def decide(agreement, can_reserve, **facts):
    """Decide on one of several ranks that each write a shard; also return whether it was asked to wait for a buffer."""
    waited = []

    def reserve(wait):
        waited.append(wait)
        return can_reserve

    here = moment(at(5 if agreement.leads else 6), at(4), **facts)  # only the moment of rank 0 counts
    decision = Decision({"interval": Every(5), "stop": OnStop()}, may_skip=True)
    return decision.take(here, (), "", reserve, agreement, each_saves=True), waited


def test_all_ranks_save_with_the_same_id():
    found = on_threads(lambda agreement, rank: decide(agreement, True), 3)
    assert [verdict.reasons for verdict, _ in found] == [("interval",)] * 3
    assert len({verdict.attempt for verdict, _ in found}) == 1
    assert all(len(verdict.attempt) == 16 for verdict, _ in found)
    assert [waited for _, waited in found] == [[False]] * 3


@pytest.mark.parametrize("busy", [0, 1, 2])
def test_one_rank_without_a_free_buffer_skips_the_save_for_all(busy):
    found = on_threads(lambda agreement, rank: decide(agreement, rank != busy), 3)
    assert [verdict.reasons for verdict, _ in found] == [()] * 3
    assert all(verdict.is_skipped for verdict, _ in found) == (busy > 0), "rank 0 counts its own"


def test_a_save_that_is_not_due_again_soon_waits_for_the_buffers_of_all_ranks():
    found = on_threads(lambda agreement, rank: decide(agreement, True, stop="SIGTERM" if rank == 1 else None), 2)
    assert [verdict.reasons for verdict, _ in found] == [("interval",)] * 2, "an undisturbed run saves here as well"
    assert found[1][1] == [False]
    late = on_threads(lambda agreement, rank: decide_late(agreement), 2)
    assert [(verdict.reasons, waited) for verdict, waited in late] == [(("stop",), [True])] * 2


def decide_late(agreement):
    waited = []
    here = moment(at(7), at(6), stop="SIGTERM")
    found = Decision({"stop": OnStop()}, True).take(
        here, (), "", lambda wait: waited.append(wait) or True, agreement, each_saves=True
    )
    return found, waited
