"""Verdicts on made-up figures."""

import pytest
from benchmarks.bars import Bar, bars
from benchmarks.figures import Auto, Comparison, Figures, Floors

FLOOR = Floors(
    "0.5", 500, 10, copy_s=0.04, copy_range_s=(0.03, 0.05), write_s=0.3, write_range_s=(0.2, 0.4), write_direct_s=None
)


def verdicts(*rows, size="0.5", threads=1, factor=5.0, autos=()):
    comparison = Comparison(size, threads, factor, interval=6, batch_s=0.3, noise_s=None, rows=rows)
    return {(bar.what, bar.floor): bar for bar in bars([comparison], {"0.5": FLOOR}, autos)}


@pytest.mark.parametrize(
    ("limit", "measured", "verdict"),
    [
        (1.0, 0.9, "met"),
        (1.0, 1.0, "met"),
        (1.0, 1.1, "missed"),
        (None, 1.0, "not measured"),
        (1.0, None, "not measured"),
    ],
)
def test_the_verdict_on_a_figure(limit, measured, verdict):
    assert Bar("x", "ms", limit, measured, "").verdict == verdict


@pytest.mark.parametrize(
    ("sure", "verdict"),
    [((0.5, 0.9), "met"), ((0.5, 1.0), "met"), ((0.5, 1.1), "not resolved"), ((1.01, 1.5), "missed")],
)
def test_a_noisy_figure_meets_a_bar_only_with_its_whole_interval(sure, verdict):
    assert Bar("x", "ms", 1.0, sum(sure) / 2, "", sure).verdict == verdict


def test_limits_come_from_the_floors_and_the_peers():
    found = verdicts(
        Figures("model-checkpoint", stall_median_s=1.5, lost_s=1.6),
        Figures("async-io", stall_median_s=0.2, lost_s=1.2),
        Figures("cairn-process", stall_median_s=0.055, stall_worst_apart_s=0.09, lost_s=0.05, throughput_lost=0.03),
    )
    assert found["median stall", "1.5 x the copy into warm buffers"].limit == pytest.approx(60)
    assert found["median stall", "1/25 of ModelCheckpoint"].limit == pytest.approx(60)
    assert found["median stall", "1/4 of AsyncCheckpointIO"].verdict == "missed"
    assert found["worst stall, back-pressure apart", "2 x the copy into warm buffers"].verdict == "missed"
    assert found["wall time lost per save, one per five W", "1/10 of the best peer"].limit == pytest.approx(120)
    assert found["throughput lost, one save per five W", "4 %"].verdict == "met"
    assert found["throughput lost, one save per twenty W", "1 %"].verdict == "not measured"


def test_both_cores_are_compared_with_the_best_peer():
    rows = [Figures("async-io", throughput_lost=0.4), Figures("model-checkpoint", throughput_lost=0.3)]
    found = verdicts(*rows, Figures("cairn-process", throughput_lost=0.1), threads=2)
    bar = found["throughput lost, training on both cores", "1/2 of the best peer"]
    assert (bar.limit, bar.measured, bar.verdict) == (pytest.approx(15), pytest.approx(10), "met")


def test_a_failed_contender_or_another_writer_than_requested_passes_no_bar():
    for row in (
        Figures("cairn-process", stall_median_s=0.0, writer="InlineWriter"),
        Figures("cairn-process", error="x"),
    ):
        assert {bar.verdict for bar in verdicts(row).values()} == {"not measured"}


def test_the_overhead_of_auto_has_a_bar():
    auto = Auto("0.5", 1, overhead=0.012, range=(0.01, 0.02), against_none=0.02, noise=0.001, num_saves=3)
    assert verdicts(autos=[auto])["overhead under auto (bound of 1 %)", "1.5 %"].verdict == "met"


def test_auto_without_a_save_is_not_measured():
    auto = Auto("0.5", 1, overhead=-0.07, range=(-0.09, -0.05), against_none=0.0, noise=0.01, num_saves=0)
    assert bars([], {}, [auto])[-1].verdict == "not measured"
