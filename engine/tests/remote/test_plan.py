"""What is uploaded to a mirror and deleted there, as a table."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.values import saved

from cairn.remote import layout
from cairn.remote.plan import Delete, Point, Upload, Wanted, reconcile
from cairn.remote.settings import MirrorSettings
from cairn.store import names

ALL = [saved(number, digest=f"sha256:{number:x}{'0' * 63}") for number in range(8)]
STEMS = [layout.stem_of(item) for item in ALL]


def wanted(*kept, waiting=(), best=None, abandoned=(), resumed_from=None, ends=False, **settings):
    links = {names.LAST: ALL[kept[-1]].name if kept else None, names.BEST: None if best is None else ALL[best].name}
    return Wanted(
        MirrorSettings(**settings),
        {ALL[number].name: ALL[number] for number in kept},
        {ALL[number].name: ALL[number] for number in waiting},
        links,
        {STEMS[number] for number in abandoned},
        None if resumed_from is None else STEMS[resumed_from],
        ends,
    )


CASES = {
    "the newest is uploaded first": (wanted(0, 1), [], "up 1, up 0"),
    "what is there is left alone": (wanted(0, 1), [0, 1], ""),
    "what the disk does not keep is deleted": (wanted(1, 2), [0, 1, 2], "del 0"),
    "but only after a newer one is there": (wanted(1, 2), [0], "up 2, up 1"),
    "a deletion waits for the newest only": (wanted(1, 2), [0, 2], "up 1, del 0"),
    "every third is uploaded": (wanted(*range(8), every=3), [], "up 6, up 3, up 0"),
    "with the best, first": (wanted(*range(8), every=3, best=4), [], "up 4, up 6, up 3, up 0"),
    "but not first at the end": (wanted(*range(8), every=3, best=4, ends=True), [], "up 7, up 6, up 4, up 3, up 0"),
    "and the newest at the end": (wanted(*range(8), every=3, ends=True), [], "up 7, up 6, up 3, up 0"),
    "the last of every third stays until the next": (wanted(4, 5, every=3), [3], ""),
    "what waits is uploaded if it is kept": (wanted(2, waiting=(0, 1), keep=-1), [], "up 2, up 1, up 0"),
    "what waits is not uploaded if the disk deletes it": (wanted(2, waiting=(0, 1)), [], "up 2"),
    "the newest three": (wanted(3, waiting=(0, 1, 2), keep=3), [], "up 3, up 2, up 1"),
    "the newest three, and the best": (wanted(3, 0, best=0, keep=1), [], "up 0, up 3"),
    "more than the newest three are deleted": (wanted(4, keep=3), [0, 1, 2, 3, 4], "del 0, del 1"),
    "but not the best": (wanted(0, 4, best=0, keep=3), [0, 1, 2, 3, 4], "del 1"),
    "all stay": (wanted(4, keep=-1), [0, 1, 2, 3, 4], ""),
    "never what the start was resumed from": (wanted(3, 4, resumed_from=0), [0, 1, 3, 4], "del 1"),
    "an abandoned past stays until the new one has one": (
        wanted(2, abandoned=[5], resumed_from=2),
        [2, 5],
        "",
    ),
    "there": (wanted(2, 3, abandoned=[5], resumed_from=2), [2, 5], "up 3"),
    "and is deleted then": (wanted(2, 3, abandoned=[5], resumed_from=2), [2, 3, 5], "del 5"),
    "also if all are kept": (wanted(2, 3, abandoned=[5], resumed_from=2, keep=-1), [2, 3, 5], "del 5"),
    "the newest stays until its successor is there, not only the best": (wanted(0, 4, best=0), [0, 3], "up 4"),
    "also if the mirror keeps one": (wanted(0, 4, best=0, keep=1), [0, 3], "up 4"),
    "also if every third is mirrored": (wanted(1, 4, 5, best=1, every=3), [1, 3], ""),
    "and is deleted when it is": (wanted(0, 4, best=0), [0, 3, 4], "del 3"),
    "the best stays until its successor is there": (wanted(4, 5, best=4), [2, 5], "up 4"),
    "what the mirror would delete again is not uploaded": (wanted(0, 3, 6, best=3, keep=3), [3, 4, 5, 6], ""),
    "nothing is deleted by a run that keeps nothing": (wanted(), [0, 1], ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_steps_that_are_left(case):
    facts, there, expected = CASES[case]
    found = reconcile(facts, {STEMS[number]: ALL[number] for number in there})
    assert ", ".join(filter(None, map(_short, found))) == expected


NUMBERS = st.sets(st.integers(0, 7), max_size=5)


@given(
    kept=st.sets(st.integers(0, 7), min_size=1, max_size=5),
    waiting=NUMBERS,
    there=NUMBERS,
    past=NUMBERS,
    keep=st.sampled_from([None, 1, 3, -1]),
    every=st.integers(1, 3),
    ends=st.booleans(),
    random=st.randoms(use_true_random=False),
)
def test_the_steps_end_and_a_newer_checkpoint_is_there_at_each_deletion(
    kept, waiting, there, past, keep, every, ends, random
):
    """In any order: an upload that fails lets deletions come first."""
    kept, actual = sorted(kept), {STEMS[number]: ALL[number] for number in there}
    best, begin = random.choice([None, *kept]), random.choice([None, *kept])
    abandoned = {STEMS[number] for number in past if number not in kept and begin is not None and number > begin}
    facts = wanted(*kept, waiting=waiting, best=best, resumed_from=begin, keep=keep, every=every, ends=ends)
    facts = replace(facts, abandoned=abandoned)
    for _ in range(2 * len(ALL)):
        steps = [item for item in reconcile(facts, actual) if not isinstance(item, Point)]
        if not steps:
            return
        match random.choice(steps):
            case Upload(item):
                actual[layout.stem_of(item)] = item
            case Delete(stem):
                del actual[stem]
                assert stem in abandoned or max(actual) > stem
    pytest.fail("uploads and deletions follow each other for ever")


def _short(operation):
    match operation:
        case Upload(item):
            return f"up {item.number}"
        case Delete(stem):
            return f"del {STEMS.index(stem)}"


def test_a_damaged_record_is_deleted_once_a_newer_checkpoint_is_there():
    assert reconcile(wanted(1), {}, [STEMS[0]]) == [Upload(ALL[1])]
    assert Delete(STEMS[0]) in reconcile(wanted(1), {STEMS[1]: ALL[1]}, [STEMS[0]])


@pytest.mark.parametrize(("keep", "expected"), [(None, [1, 3, 5]), (2, [1, 3]), (3, [1]), (4, []), (-1, [])])
def test_a_damaged_record_goes_when_an_intact_one_would_go(keep, expected):
    """Its data may be intact."""
    there = {STEMS[number]: ALL[number] for number in (2, 4, 6)}
    found = reconcile(wanted(6, keep=keep), there, [STEMS[number] for number in (1, 3, 5)])
    deleted = [STEMS.index(item.stem) for item in found if isinstance(item, Delete)]
    assert [number for number in deleted if number % 2] == expected


def test_pointers_follow_what_is_there():
    given, there = wanted(0, 1, 2, best=0), {STEMS[number]: ALL[number] for number in (0, 1)}
    found = reconcile(given, there)
    assert [item for item in found if isinstance(item, Point)] == [
        Point(names.LAST, STEMS[1]),
        Point(names.BEST, STEMS[0]),
    ]
    pointed = {names.LAST: STEMS[1], names.BEST: STEMS[0]}
    assert reconcile(given, there, pointed=pointed) == [Upload(ALL[2])]
