"""Which reasons a manifest gives: those of an undisturbed run, unless there are no others."""

import pytest
from tests.support.values import at, moment

from cairn import AtEnd, BestValidation, Every, OnStop
from cairn.lightning.agreement import TIME_LIMIT, Alone
from cairn.lightning.decision import Decision

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


def test_a_time_limit_of_the_run_itself_is_a_reason():
    here = moment(at(5), at(4), stop=TIME_LIMIT)
    found = Decision(TRIGGERS, may_skip=True).take(here, (), "", lambda wait: True, Alone())
    assert found.reasons == ("interval", "stop")
