"""What a save of several ranks costs: the blocks of a training, and the figures from its clocks."""

import pytest
from benchmarks.ranks import figures, page
from benchmarks.ranks.training import Blocks
from benchmarks.ranks.ways import WAYS

BLOCKS = Blocks(length=3, pairs=2)


def times(stalls, slower_s=0.0):
    """Clocks of a rank whose batches take a second and a tenth between two, and longer after a save.

    Args:
        stalls: Pause after each save, in seconds.
        slower_s: How much longer each batch of a block with a save takes.
    """
    now, starts, ends = 0.0, [], []
    pauses = dict(zip([batch for batch in range(100) if BLOCKS.due(batch)], stalls, strict=False))
    saving = {save + number for save in BLOCKS.saves for number in range(1, BLOCKS.length + 1)}
    for batch in range(1, BLOCKS.num_batches + 1):
        starts.append(now)
        ends.append(now := now + 1 + (slower_s if batch in saving else 0.0))
        now += 0.1 + pauses.get(batch, 0.0)
    return {"starts": starts, "ends": ends}


def test_a_training_has_a_first_save_and_then_pairs_of_blocks():
    assert (BLOCKS.first, BLOCKS.saves, BLOCKS.num_batches) == (5, [5, 11], 18)
    assert [batch for batch in range(20) if BLOCKS.due(batch)] == [2, 5, 11]


def test_a_stall_is_what_a_gap_has_in_addition_and_the_rest_is_lost_as_well():
    found = figures.of_run("cairn-file", 1, BLOCKS, [times([9, 2, 3], slower_s=0.5), times([9, 4, 1])])
    assert found.stalls_s == (pytest.approx((2, 4)), pytest.approx((3, 1)))
    assert (found.stall_s, found.worst_s) == pytest.approx((3.5, 4))
    assert found.lost_s == pytest.approx((2 + 3 * 0.5, 3 + 3 * 0.5))
    assert found.batch_s == pytest.approx(1.1)


def test_the_page_and_the_plot_show_each_way_and_the_floors(tmp_path):
    runs = [
        {"way": way, "state_bytes": 10**9, "blocks": vars(BLOCKS), "times": [times([9, 0.002, 0.004])] * 2}
        for way in (*WAYS, *WAYS)
    ]
    about = dict.fromkeys(("date", "cpu", "cores", "file_system", "python", "torch", "lightning"), "x")
    floor = {"copy_s": [0.05, 0.06, 0.07], "write_s": [0.4, 0.5, 0.6]}
    floors = {str(10**9): {"parts": floor, "whole": floor}}
    settings = {"ranks": 2, "rounds": 2}
    raw = {"machine": about, "settings": settings, "command": "c", "floors": floors, "runs": runs}
    text = page.text(raw)
    assert "| Cairn, a shard per rank | 3.0 | 4.0 | 3.0, 3.0 | 3.0 (2.0 to 4.0) | 1100 | 4 | yes |" in text
    assert "| no checkpoints | - | - | - |" in text
    assert "1/2 of it by each rank at once: copy 50 (60) ms, write and fsync 400 (500) ms" in text
    page.draw(raw, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
