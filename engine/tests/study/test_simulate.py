"""Goodput of simulated runs: against a simulation second by second, an exact formula, and the known optimum."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.policy.auto import daly_s
from cairn.study.failures import Exponential, Trace, Weibull
from cairn.study.simulate import Plan, Spent, predict, simulate

TIMES = st.integers(min_value=0, max_value=9)


def second_by_second(plan, uptimes, work):
    """The same run, in steps of one second and without arithmetic on cycles."""
    spent = dict.fromkeys(("counted", "saving", "lost", "starting", "waiting"), 0)
    durable = failures = 0
    for uptime in uptimes:
        trained, saving, saves, clock = durable, 0, [], 0
        while clock < uptime:
            if trained == work and not saving and all(clock >= at for at, _ in saves):
                return {**spent, "counted": work}, failures, True
            clock += 1
            if clock <= plan.start_s:
                spent["starting"] += 1
            elif saving:
                saving -= 1
                spent["saving"] += 1
            elif trained < work:
                trained += 1
                if trained % plan.interval_s == 0 or trained == work:
                    saving = plan.save_s
                    saves.append((clock + max(plan.save_s, plan.write_s), trained))
            else:
                spent["saving"] += 1  # the wait for the last save
        if trained == work and not saving and all(clock >= at for at, _ in saves):
            return {**spent, "counted": work}, failures, True
        kept = max([durable, *(position for at, position in saves if at <= uptime)])
        spent["lost"] += trained - kept
        spent["waiting"] += plan.wait_s
        durable, failures = kept, failures + 1
    return {**spent, "counted": durable}, failures, False


@settings(max_examples=100, derandomize=True)
@given(
    st.builds(
        lambda interval, save, write, start, wait: Plan(interval, save, min(write, interval + save), start, wait),
        *(st.integers(min_value=1, max_value=9), TIMES, TIMES, TIMES, TIMES),
    ),
    st.lists(st.integers(min_value=1, max_value=50), max_size=5),
    st.integers(min_value=1, max_value=80),
)
def test_counting_by_arithmetic_gives_what_each_second_gives(plan, uptimes, work):
    run = simulate(plan, uptimes, work)
    expected, failures, is_finished = second_by_second(plan, uptimes, work)
    found = {name: getattr(run, f"{name}_s") for name in expected}
    assert (found, run.num_failures, run.is_finished) == (expected, failures, is_finished)


@pytest.mark.parametrize(
    ("mtbf_s", "interval_s", "save_s", "start_s"),
    [(1000, 100, 5, 20), (1000, 1000, 5, 20), (500, 30, 30, 100), (1e5, 3e3, 60, 600)],
)
def test_exponential_failures_cost_what_the_exact_formula_says(mtbf_s, interval_s, save_s, start_s):
    # J. T. Daly (2006), equation 13: the mean time of one cycle is M exp(R / M) (exp((t + d) / M) - 1).
    exact = interval_s / (mtbf_s * math.exp(start_s / mtbf_s) * math.expm1((interval_s + save_s) / mtbf_s))
    spent = predict(Plan(interval_s, save_s, save_s, start_s), Exponential(mtbf_s))
    assert spent.goodput == pytest.approx(exact, rel=0.02)


def test_the_interval_of_young_and_daly_has_the_highest_goodput():
    failures, save_s = Exponential(3600.0), 20.0
    best_s = daly_s(save_s, failures.mtbf_s)
    found = {factor: predict(Plan(factor * best_s, save_s, save_s), failures).goodput for factor in (0.4, 1, 2.5)}
    assert max(found, key=found.get) == 1


def test_a_late_commit_loses_the_time_it_takes():
    early, late = (predict(Plan(300.0, 0.5, write_s, 60.0), Exponential(72000.0)) for write_s in (0.5, 200.0))
    assert (late.lost_s - early.lost_s) / late.num_failures == pytest.approx(199.5, rel=0.02)


def test_failures_that_come_in_bursts_cost_less_at_the_same_mean():
    plan = Plan(600.0, 5.0, 5.0, start_s=300.0)
    bursts, steady = (predict(plan, failures) for failures in (Weibull(3600.0, 0.7), Exponential(3600.0)))
    assert bursts.goodput > steady.goodput + 0.01


def test_a_run_that_fails_before_its_first_save_gets_nowhere():
    spent = predict(Plan(100.0, 1.0, 1.0), Trace([50.0, 100.5]))
    assert (spent.goodput, spent.counted_s, spent.is_finished) == (0.0, 0.0, False)


def test_without_failures_only_saves_and_the_start_cost():
    spent = predict(Plan(100.0, 1.0, 5.0, 30.0, 9.0), None, work_s=1000.0)
    assert spent == Spent(1000.0, 9 * 1.0 + 5.0, starting_s=30.0, is_finished=True)
    assert spent.goodput == 1000 / 1044


def test_a_run_without_saves_starts_again_from_the_beginning():
    plan = Plan(math.inf, start_s=10.0)
    assert simulate(plan, [60.0, 200.0], 100.0) == Spent(100.0, 0.0, 50.0, 20.0, 0.0, 1, True)


def test_the_same_arguments_give_the_same_numbers_and_time_is_never_lost_track_of():
    plan, failures = Plan(300.0, 1.0, 20.0, 60.0, 30.0), Trace([100.0, 4000.0, 900.0])
    first, again = (predict(plan, failures, 5000.0, num_attempts=900, seed=3) for _ in range(2))
    assert first == again != predict(plan, failures, 5000.0, num_attempts=900, seed=4)
    assert 0 < first.goodput < 1
    assert first.num_failures > 300
    assert simulate(plan, [100.0, 4000.0, 900.0]).total_s == pytest.approx(5000.0 + 3 * 30.0)


def test_no_time_at_all_has_a_goodput_of_zero():
    assert Spent().goodput == 0.0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Plan(0.0), "interval_s=0.0 must be positive"),
        (lambda: Plan(1.0, -1.0), "save_s=-1.0 must be"),
        (lambda: Plan(1.0, start_s=math.nan), "start_s=nan must be"),
        (lambda: Plan(10.0, 1.0, 12.0), "Choose a longer interval"),
        (lambda: predict(Plan(1.0), None), "finite in a run without failures"),
        (lambda: predict(Plan(1.0), Exponential(1.0), 0.0), "must be positive"),
    ],
)
def test_what_cannot_be_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
