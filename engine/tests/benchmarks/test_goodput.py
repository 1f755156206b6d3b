"""The study of goodput on paper: the page in the documentation holds what the script computes."""

import pytest
from benchmarks import goodput
from benchmarks.goodput import BACKGROUND, POLICIES, Policy

PAGE = (goodput.DOCS / "goodput.md").read_text()


@pytest.mark.parametrize("num_nodes", [1, 2048])
def test_the_page_has_the_computed_rows(num_nodes):
    assert goodput.row(num_nodes) in PAGE


def test_every_rate_is_on_the_page():
    assert [name for name, rate in goodput.RATES.items() if f"{name} ({rate:.2f})" not in PAGE] == []


def test_tables_are_renewed_between_their_marks_and_nothing_else_is():
    page = "before\n<!-- a -->\nold\n<!-- end of a -->\nbetween\n<!-- b -->\n<!-- end of b -->\nafter\n"
    once = goodput.filled(page, a="new", b="first")
    assert once == "before\n<!-- a -->\nnew\n<!-- end of a -->\nbetween\n<!-- b -->\nfirst\n<!-- end of b -->\nafter\n"
    assert goodput.filled(once, a="new", b="first") == once


def test_storage_is_shared_by_many_nodes_and_no_node_has_all_of_it():
    assert goodput.write_time_s(1) == goodput.write_time_s(2048) == pytest.approx(32.8, abs=0.1)
    assert goodput.write_time_s(16384) == 8 * goodput.write_time_s(2048)


def test_a_background_save_costs_little_and_its_interval_has_room_for_two_writes():
    waits, background = (policy.plan(16384, 1400.0) for policy in (POLICIES[1], BACKGROUND))
    assert background.save_s < 0.03 * waits.save_s
    assert background.interval_s == 2 * background.write_s
    assert Policy("fixed", True, 700.0).plan(1, 1e9).interval_s == 700.0
