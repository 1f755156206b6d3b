"""When a checkpoint is due: every trigger as a table, and how intervals are written."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.values import at, history, moment, saved

from cairn.errors import ConfigError
from cairn.policy import when
from cairn.policy.auto import Choice, Goal
from cairn.policy.when import (
    AtEnd,
    Auto,
    BestValidation,
    Every,
    EveryNBatches,
    EveryNEpochs,
    EveryNSeconds,
    EveryNSteps,
    OnStop,
    parse_interval,
)
from cairn.types import SaveCost

INTERVALS = st.integers(min_value=1, max_value=12)


def walk(trigger, positions, **facts):
    """The positions at which the trigger is due, asked at each of `positions` in turn."""
    previous, found = at(), []
    for position in positions:
        if trigger.due(moment(position, previous, **facts), ()):
            found.append(position)
        previous = position
    return found


def batches(totals):
    return [at(total) for total in totals]


def epochs(num_epochs, size):
    """Every boundary of a run: its batch in the epoch, and in the run."""
    places = [(epoch, batch) for epoch in range(num_epochs) for batch in range(1, size + 1)]
    return [at(batch, epoch=epoch, total=epoch * size + batch) for epoch, batch in places]


# Counting batches and steps


@pytest.mark.parametrize(
    ("num_batches", "boundaries", "due"),
    [
        (1, [1, 2, 3], [1, 2, 3]),
        (3, range(1, 10), [3, 6, 9]),
        (3, [4, 8, 12, 16], [4, 8, 12, 16]),  # windows of four: 3, 6, 9 or 12, 15
        (5, [4, 8, 12, 16, 20], [8, 12, 16, 20]),  # 5, 10, 15, 20
        (8, [3, 6, 8, 11, 14, 16], [8, 16]),  # an epoch's last window is smaller
        (100, [99, 100, 101, 199, 201], [100, 201]),  # longer than an epoch of eight
        (7, [6], []),
    ],
)
def test_batches(num_batches, boundaries, due):
    assert walk(EveryNBatches(num_batches), batches(boundaries)) == batches(due)


def test_batches_count_over_epochs():
    due = walk(EveryNBatches(11), epochs(3, 8))
    assert [(p.epoch, p.batch) for p in due] == [(1, 3), (2, 6)]


def test_the_end_of_an_epoch_does_not_count_as_a_batch():
    last, over = at(8, total=8), at(0, epoch=1, total=8)
    assert not EveryNBatches(8).due(moment(over, last), ())
    assert not EveryNEpochs(1).due(moment(over, last), ())


@given(INTERVALS, st.data())
def test_batches_are_due_once_per_multiple(num_batches, data):
    jumps = data.draw(st.lists(st.integers(min_value=1, max_value=num_batches), max_size=60))
    totals = [sum(jumps[: i + 1]) for i in range(len(jumps))]
    due = walk(EveryNBatches(num_batches), batches(totals))
    assert len(due) == sum(jumps) // num_batches


@given(INTERVALS, st.lists(st.integers(min_value=1, max_value=40), max_size=40))
def test_batches_are_due_once_per_window_that_contains_a_multiple(num_batches, jumps):
    totals = [sum(jumps[: i + 1]) for i in range(len(jumps))]
    windows = zip([0, *totals], totals, strict=False)
    holding = [end for start, end in windows if any(n % num_batches == 0 for n in range(start + 1, end + 1))]
    due = [position.total_batches for position in walk(EveryNBatches(num_batches), batches(totals))]
    assert due == holding
    assert len({total // num_batches for total in due}) == len(due)


@given(INTERVALS, st.integers(min_value=0, max_value=50))
def test_a_trigger_asked_twice_at_one_boundary_is_due_once(num_batches, total):
    assert not EveryNBatches(num_batches).due(moment(at(total), at(total)), ())


def test_steps_count_optimizer_steps_and_not_batches():
    windows = [at(3 * step, step=step) for step in range(1, 7)]
    assert walk(EveryNSteps(2), windows) == [windows[1], windows[3], windows[5]]


def test_two_optimizers_step_twice_per_batch():
    assert walk(EveryNSteps(3), [at(1, step=2), at(2, step=4), at(3, step=6)]) == [at(2, step=4), at(3, step=6)]


# Counting epochs


@pytest.mark.parametrize(
    ("share", "size", "due"),
    [
        ("0.25", 8, [2, 4, 6, 8]),
        ("0.25", 10, [3, 5, 8, 10]),  # the first boundary at or after 2.5, 5, 7.5, 10
        ("0.25", 7, [2, 4, 6, 7]),
        ("0.25", 3, [1, 2, 3]),  # two quarters fall on the last batch
        ("0.1", 10, list(range(1, 11))),
        ("0.3", 10, [3, 6, 9]),
        ("1", 5, [5]),
    ],
)
def test_a_fraction_of_an_epoch(share, size, due):
    found = walk(EveryNEpochs(share), epochs(1, size), batches_per_epoch=size)
    assert [position.batch for position in found] == due


@pytest.mark.parametrize("size", [3, 7, 8, 10, 13])
def test_a_fraction_is_due_at_the_same_batches_in_every_epoch(size):
    found = walk(EveryNEpochs("0.25"), epochs(4, size), batches_per_epoch=size)
    by_epoch = [[p.batch for p in found if p.epoch == epoch] for epoch in range(4)]
    assert by_epoch == [by_epoch[0]] * 4
    assert by_epoch[0][-1] == size


@pytest.mark.parametrize(
    ("num_epochs", "due"),
    [("2", [(1, 5), (3, 5), (5, 5)]), ("1.5", [(1, 3), (2, 5), (4, 3), (5, 5)])],  # after 7.5, 15, 22.5 and 30 batches
)
def test_more_than_an_epoch(num_epochs, due):
    found = walk(EveryNEpochs(num_epochs), epochs(6, 5), batches_per_epoch=5)
    assert [(p.epoch, p.batch) for p in found] == due


@given(st.integers(min_value=1, max_value=60), st.integers(min_value=1, max_value=5))
def test_ten_tenths_are_exactly_an_epoch(size, num_epochs):
    found = walk(EveryNEpochs(0.1), epochs(num_epochs, size), batches_per_epoch=size)
    assert len(found) == min(10, size) * num_epochs
    assert [p for p in found if p.batch == size] == [p for p in epochs(num_epochs, size) if p.batch == size]


def test_a_fraction_inside_a_window_is_due_at_the_end_of_the_window():
    windows = [at(3), at(6), at(8), at(3, epoch=1, total=11)]
    assert walk(EveryNEpochs("0.5"), windows) == [at(6), at(8)]


def test_a_fraction_counts_within_its_epoch_after_a_shortened_one():
    before, half = at(3, epoch=1, total=8), at(4, epoch=1, total=9)
    assert EveryNEpochs("0.5").due(moment(half, before, batches_per_epoch=8), ())


def test_a_fraction_of_data_without_length_is_refused():
    with pytest.raises(ValueError, match=r"interval='0.25ep' needs training data with a length"):
        EveryNEpochs("0.25").due(moment(at(1), batches_per_epoch=None), ())


# Time, validations, ends


@pytest.mark.parametrize(("since_save_s", "due"), [(0.0, False), (89.9, False), (90.0, True), (500.0, True)])
def test_seconds_count_from_the_last_save(since_save_s, due):
    assert EveryNSeconds(90).due(moment(elapsed_s=10_000.0, since_save_s=since_save_s), ()) is due


@pytest.mark.parametrize(
    ("score", "before", "count", "mode", "due"),
    [
        (0.5, [], 1, "min", True),
        (0.5, [None, None], 1, "min", True),  # saved, and none of them scored
        (0.4, [0.5], 1, "min", True),
        (0.6, [0.5], 1, "min", False),
        (0.5, [0.5], 1, "min", False),  # as good is not better
        (0.6, [0.5], 1, "max", True),
        (0.4, [0.5], 1, "max", False),
        (0.5, [0.5], 1, "max", False),
        (0.6, [0.5], 2, "min", True),  # there is room for a second one
        (0.6, [0.5, 0.7], 2, "min", True),
        (0.7, [0.5, 0.7], 2, "min", False),
        (0.8, [0.5, 0.7], 2, "min", False),
        (0.4, [0.5, 0.7], 2, "max", False),
        (0.6, [0.7, None, 0.5], 2, "max", True),
        (9.9, [0.5, 0.7], -1, "min", True),
        (0.1, [0.5], 0, "min", False),
        (0.1, [], 0, "min", False),
        (None, [], 1, "min", False),  # no validation here
        (None, [], -1, "min", False),
        (math.nan, [], 1, "min", False),
        (math.nan, [], -1, "max", False),
        (-math.inf, [0.5], 1, "min", False),
        (math.inf, [0.5], 1, "max", False),
        (math.inf, [], -1, "min", False),
        (0.6, [math.nan], 1, "min", True),  # NaN takes no place
        (0.6, [-math.inf], 1, "min", True),
    ],
)
def test_best_validation(score, before, count, mode, due):
    assert BestValidation(count).due(moment(score=score, mode=mode), history(*before)) is due


@pytest.mark.parametrize(
    ("trigger", "facts", "due"),
    [
        (AtEnd(), {"ends": True}, True),
        (AtEnd(), {"stop": "SIGTERM"}, False),
        (OnStop(), {"stop": "SIGTERM"}, True),
        (OnStop(), {"stop": "max_time"}, True),
        (OnStop(), {"ends": True}, False),
    ],
)
def test_ends_and_stops(trigger, facts, due):
    assert trigger.due(moment(**facts), ()) is due


@pytest.mark.parametrize(
    ("trigger", "lasting"),
    [
        (EveryNBatches(1), True),
        (EveryNSteps(1), True),
        (EveryNSeconds(1), True),
        (EveryNEpochs(1), True),
        (Every(1), True),
        (Auto(), True),
        (Every("auto"), True),
        (BestValidation(), True),
        (AtEnd(), False),
        (OnStop(), False),
    ],
)
def test_only_triggers_of_an_undisturbed_run_are_lasting(trigger, lasting):
    assert trigger.lasting is lasting


# Auto


def costing(num_batches, num_saves=1):
    """A cost for which `auto` chooses this many batches by default."""
    return SaveCost(batch_s=1.0, stall_s=num_batches / 100, slowdown_s=0.0, write_s=0.0, num_saves=num_saves)


def test_auto_waits_until_a_cost_is_known():
    assert walk(Auto(), batches(range(1, 2000))) == []


@pytest.mark.parametrize(
    ("interval", "boundaries", "due"),
    [
        (3, range(1, 11), [3, 6, 9]),
        (3, [4, 8, 12], [4, 8, 12]),
        (5, [4, 8, 12, 16, 20, 24], [8, 16, 24]),  # at least five since the last one
        (100, [99, 100, 101, 199, 200, 201], [100, 200]),
    ],
)
def test_auto_counts_batches_since_its_last_save(interval, boundaries, due):
    assert walk(Auto(), batches(boundaries), cost=costing(interval)) == batches(due)


def test_auto_ignores_saves_of_other_triggers():
    trigger, kept, due = Auto(), [], []
    for total in range(1, 10):
        now = moment(at(total), at(total - 1), cost=costing(4), since_save_s=0.0)
        due += [total] * trigger.due(now, kept)
        kept.append(saved(total, position=at(total), reasons=("best",)))
    assert due == [4, 8]


def test_auto_asked_twice_at_one_boundary_is_due_once():
    trigger = Auto()
    assert trigger.due(moment(at(5), at(4), cost=costing(1)), ())
    assert not trigger.due(moment(at(5), at(5), cost=costing(1)), ())
    assert not trigger.due(moment(at(0, epoch=1, total=5), at(5), cost=costing(1)), ())


def test_auto_waits_during_a_write_and_as_long_again():
    trigger, due, previous = Auto(), [], at()
    for position in batches(range(1, 20)):
        busy = 5 <= position.total_batches <= 11
        due += [position] * trigger.due(moment(position, previous, cost=costing(4), busy=busy), ())
        previous = position
    assert due == batches([4, 18])


def test_auto_changes_its_choice_only_when_a_save_is_due():
    trigger, previous = Auto(), at()
    costs = {1: costing(10), 3: costing(15), 5: costing(20), 9: costing(30), 31: costing(12)}
    chosen, due, now = [], [], None
    for position in batches(range(1, 60)):
        now = costs.get(position.total_batches, now)
        due += [position.total_batches] * trigger.due(moment(position, previous, cost=now), ())
        chosen += [trigger.choice.interval_batches] * (trigger.choice.interval_batches not in chosen[-1:])
        previous = position
    assert due == [30, 42, 54]
    assert chosen == [10, 30, 12]


def test_auto_uses_an_estimate_until_the_first_save_is_measured():
    trigger, guess, measured = Auto(), costing(10, num_saves=0), costing(9)
    assert walk(trigger, batches(range(1, 11)), cost=guess) == batches([10])
    assert trigger.choice == Choice(10, "overhead", Goal(), guess)
    assert not trigger.due(moment(at(18), at(17), cost=measured), ())
    assert trigger.due(moment(at(19), at(18), cost=measured), ())
    assert trigger.choice == Choice(9, "overhead", Goal(), measured)


def test_auto_continues_with_the_interval_from_before_a_resume():
    kept = [saved(0, position=at(100), interval_batches=40), saved(1, position=at(115), lasting=False)]
    kept[1] = replace(kept[1], interval_batches=50)
    trigger = Auto()
    assert not trigger.due(moment(at(115), at(115)), kept)  # asked before training
    assert str(trigger.choice) == "Interval 'auto': every 50 batches, as before the resume."
    found = [total for total in range(116, 260) if trigger.due(moment(at(total), at(total - 1)), kept)]
    assert found == [150, 200, 250]  # as if it had not been stopped at 115


def test_auto_switched_on_at_a_resume_counts_from_the_last_lasting_save():
    trigger, kept = Auto(), [saved(0, position=at(100))]
    assert not trigger.due(moment(at(115), at(115)), kept)
    assert trigger.choice is None
    assert not trigger.due(moment(at(129), at(128), cost=costing(30)), kept)
    assert trigger.due(moment(at(130), at(129), cost=costing(30)), kept)


def test_auto_in_a_new_run_from_another_state_counts_from_its_start():
    trigger = Auto()
    assert not trigger.due(moment(at(1000), at(1000)), ())
    assert not trigger.due(moment(at(1029), at(1028), cost=costing(30)), ())
    assert trigger.due(moment(at(1030), at(1029), cost=costing(30)), ())


def test_every_exposes_the_choice_of_auto():
    auto, fixed = Every("auto", max_overhead=0.02, mtbf="8h"), Every(50, max_overhead=0.02, mtbf="8h")
    assert auto.choice is fixed.choice is None
    for trigger in (auto, fixed):
        trigger.due(moment(at(1), cost=costing(100)), ())
    assert auto.choice == Choice(240, "failures", Goal(0.02, 28800.0), costing(100))
    assert fixed.choice is None


@pytest.mark.parametrize("max_overhead", [0, 1, -0.01, 1.5, math.nan, math.inf, True, "1%", None, [0.01]])
def test_an_overhead_outside_0_to_1_is_refused(max_overhead):
    with pytest.raises(ValueError, match=r"max_overhead=.* must be a share between 0 and 1: 0\.01 is 1 %") as error:
        Every("auto", max_overhead=max_overhead)
    assert repr(max_overhead) in str(error.value)


@pytest.mark.parametrize("mtbf", ["often", "", -5, "2ep", True, [8], {"weeks": 1}])
def test_an_invalid_mtbf_is_refused(mtbf):
    with pytest.raises(ValueError, match=r"Invalid duration mtbf=.*: give seconds"):
        Every("auto", mtbf=mtbf)


@pytest.mark.parametrize("mtbf", [0, "0h", 0.0])
def test_an_mtbf_of_0_is_refused(mtbf):
    with pytest.raises(ValueError, match=r"mtbf=.* must be more than 0: give the mean time between failures"):
        Every("auto", mtbf=mtbf)


@pytest.mark.parametrize(("mtbf", "seconds"), [(None, None), ("8h", 28800.0), (3600, 3600.0), ({"hours": 1}, 3600.0)])
def test_the_goal_of_auto(mtbf, seconds):
    trigger = parse_interval("auto", 0.05, mtbf)
    assert (type(trigger), trigger.goal) == (Auto, Goal(0.05, seconds))


def test_arguments_of_auto_are_ignored_by_other_intervals():
    assert walk(Every(2, max_overhead=7, mtbf="never"), batches(range(1, 6))) == batches([2, 4])


# Reasons


def test_reasons_are_all_due_triggers_in_their_order():
    triggers = {"end": AtEnd(), "best": BestValidation(), "signal": OnStop(), "interval": Every(2)}
    now = moment(at(4), at(3), score=0.5, ends=True)
    assert when.reasons(triggers, now, ()) == ("end", "best", "interval")
    backwards = dict(reversed(triggers.items()))
    assert when.reasons(backwards, now, ()) == ("interval", "best", "end")


def test_without_triggers_there_is_no_reason():
    assert when.reasons({}, moment(ends=True, stop="SIGTERM", score=0.1), ()) == ()


# What a user gives as triggers


def test_triggers_are_accepted():
    triggers = {"interval": Every(50), "end": AtEnd()}
    assert when.check_triggers(triggers) == triggers


@pytest.mark.parametrize(
    ("triggers", "message"),
    [
        (
            {"interval": 50},
            "triggers['interval'] is 50, not a trigger: write every=50, or triggers={'interval': cairn.Every(50)}.",
        ),
        (
            {"interval": "10min"},
            "triggers['interval'] is '10min', not a trigger: write every='10min', or "
            "triggers={'interval': cairn.Every('10min')}.",
        ),
        ({"end": AtEnd}, "triggers['end'] is a class: write AtEnd(...)."),
        (
            {"end": print},
            f"triggers['end'] is {print!r}, not a trigger: it needs a method due(moment, saved) and the "
            "attributes lasting and recurs.",
        ),
        (50, "triggers=50 is not a mapping: write triggers={'a_name': cairn.Every('10min')}."),
        ([50], "triggers=[50] is not a mapping: write triggers={'a_name': cairn.Every('10min')}."),
    ],
)
def test_other_values_are_refused_with_what_to_write(triggers, message):
    with pytest.raises(ConfigError) as error:
        when.check_triggers(triggers)
    assert str(error.value) == message


@pytest.mark.parametrize("value", ["x", None, True, 1.5, -2])
def test_an_invalid_count_of_the_best_is_refused(value):
    with pytest.raises(ConfigError, match=r"count=.* must be an integer from 0, or -1 for all"):
        BestValidation(value)


@pytest.mark.parametrize("kind", [EveryNBatches, EveryNSteps, EveryNSeconds, EveryNEpochs])
@pytest.mark.parametrize("value", ["x", None, True, math.nan])
def test_a_trigger_refuses_what_is_not_a_number(kind, value):
    with pytest.raises(ConfigError, match=r"must be (a number|an integer)"):
        kind(value)


# How intervals are written


@pytest.mark.parametrize(
    ("written", "kind", "field", "value"),
    [
        (50, EveryNBatches, "num_batches", 50),
        ("50", EveryNBatches, "num_batches", 50),
        ("200ba", EveryNBatches, "num_batches", 200),
        (" 200 ba ", EveryNBatches, "num_batches", 200),
        ("100st", EveryNSteps, "num_steps", 100),
        ("90s", EveryNSeconds, "seconds", 90.0),
        ("90sec", EveryNSeconds, "seconds", 90.0),
        ("10min", EveryNSeconds, "seconds", 600.0),
        ("1.5min", EveryNSeconds, "seconds", 90.0),
        ("2h", EveryNSeconds, "seconds", 7200.0),
        ("1d", EveryNSeconds, "seconds", 86400.0),
        ("0.25ep", EveryNEpochs, "num_epochs", Fraction(1, 4)),
        ("0.1 ep", EveryNEpochs, "num_epochs", Fraction(1, 10)),
        ("3ep", EveryNEpochs, "num_epochs", Fraction(3)),
    ],
)
def test_an_interval_is_parsed(written, kind, field, value):
    trigger = parse_interval(written)
    assert type(trigger) is kind
    assert getattr(trigger, field) == value


@pytest.mark.parametrize("written", [0, "0", "0s", "0.0ep", "0st"])
def test_an_interval_of_0_is_refused(written):
    with pytest.raises(ValueError, match=r"interval=.* must be more than 0: give a number of batches"):
        parse_interval(written)


@pytest.mark.parametrize(
    "written",
    [
        -5,
        "-5ba",
        "abc",
        "automatic",
        "auto 5",
        "",
        "10 parsecs",
        "1.5ba",
        "1.5",
        1.5,
        "1.5st",
        "ba",
        "5 5",
        "5ba6",
        "1e3",
        True,
        None,
        [50],
    ],
)
def test_an_invalid_interval_is_refused_with_valid_examples(written):
    with pytest.raises(ValueError, match=r"interval=.* is not an interval: .*'0\.25ep'") as error:
        parse_interval(written)
    assert repr(written) in str(error.value)


def test_every_behaves_like_the_trigger_of_its_unit():
    assert walk(Every("2ba"), batches(range(1, 6))) == batches([2, 4])
    with pytest.raises(ValueError, match="is not an interval"):
        Every("often")


@pytest.mark.parametrize("kind", [EveryNBatches, EveryNSteps, EveryNSeconds, EveryNEpochs])
@pytest.mark.parametrize("interval", [0, -1])
def test_a_trigger_refuses_0_and_less(kind, interval):
    with pytest.raises(ValueError, match=r"must be (a number|an integer)"):
        kind(interval)
