"""The reconciliation of what should be in W&B with what is there: tables, and any state converges to what is wanted."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.values import at, saved

from cairn.store import names
from cairn.trackers.plan import (
    AddAliases,
    Delete,
    Release,
    Untag,
    Upload,
    Version,
    Wanted,
    missing,
    reconcile,
    step_alias,
    taken,
    versions_of,
    without,
)
from cairn.trackers.settings import ArtifactSettings

NUM = 5
ALL = [replace(saved(n, position=at(n + 1, step=n)), digest=f"d{n}") for n in range(NUM)]


def version(number, *aliases, has_bytes=True, id=None):
    item = ALL[number]
    return Version(id or f"v{number}", item.name, item.digest, frozenset(aliases), has_bytes)


def links(last=None, best=None):
    targets = {names.LAST: last, names.BEST: best}
    return {link: None if number is None else ALL[number].name for link, number in targets.items()}


def by_name(*numbers):
    return {ALL[number].name: ALL[number] for number in numbers}


def wanted(
    *kept, last=None, best=None, deleted=(), held=(), chosen=(), postponed=(), finished=False, when="delete", **settings
):
    """What W&B should have: checkpoints are given by their numbers; the newest of `kept` is `last.ckpt`."""
    return Wanted(
        ArtifactSettings(deleted=when, **settings),
        by_name(*kept),
        links(kept[-1] if last is None and kept else last, best),
        by_name(*chosen),
        frozenset(by_name(*held)),
        frozenset(ALL[number].digest for number in deleted),
        frozenset(by_name(*postponed)),
        finished,
    )


TABLE = {
    "nothing": (wanted(), [], []),
    "a new checkpoint is uploaded": (wanted(0), [], [Upload(ALL[0], ("step-0", "latest"))]),
    "with its aliases": (wanted(0, best=0), [], [Upload(ALL[0], ("step-0", "best", "latest"))]),
    "oldest first": (
        wanted(0, 1),
        [],
        [Upload(ALL[0], ("step-0",)), Upload(ALL[1], ("step-1", "latest"))],
    ),
    "what is there is left alone": (wanted(0), [version(0, "step-0", "latest")], []),
    "what the user has named stays named": (wanted(0), [version(0, "latest", "production")], []),
    "a deleted checkpoint is deleted": (
        wanted(1, deleted=[0]),
        [version(0), version(1, "latest")],
        [Delete(version(0))],
    ),
    "or untagged": (
        wanted(1, deleted=[0], when="untag"),
        [version(0, "step-0"), version(1, "latest")],
        [Untag(version(0, "step-0"))],
    ),
    "once": (wanted(1, deleted=[0], when="untag"), [version(0), version(1, "latest")], []),
    "or kept": (wanted(1, deleted=[0], when="keep"), [version(0, "step-0"), version(1, "latest")], []),
    "what was to be deleted and is kept stays": (wanted(0, deleted=[0]), [version(0, "latest")], []),
    "a version of nothing that is known stays": (wanted(1), [version(0, "step-0"), version(1, "latest")], []),
    "best moves": (
        wanted(0, 1, best=0),
        [version(0), version(1, "latest", "best")],
        [AddAliases(version(0), ("best",))],
    ),
    "latest moves": (
        wanted(0, 1),
        [version(0, "latest"), version(1)],
        [AddAliases(version(1), ("latest",))],
    ),
    "an alias without a version waits": (wanted(0, which="none"), [], []),
    "a finished run has a final one": (
        wanted(0, finished=True),
        [version(0, "latest")],
        [AddAliases(version(0, "latest"), ("final",))],
    ),
    "final is given after the upload": (wanted(0, finished=True), [], [Upload(ALL[0], ("step-0", "latest"))]),
    "only the final one, not before the end": (wanted(0, which="final"), [], []),
    "only the final one": (wanted(0, 1, which="final", finished=True), [], [Upload(ALL[1], ("step-1", "latest"))]),
    "only the best": (wanted(0, 1, best=0, which="best"), [], [Upload(ALL[0], ("step-0", "best"))]),
    "what was the best when it was committed": (
        wanted(0, 1, best=1, which="best", chosen=[0]),
        [version(1, "latest", "best")],
        [Upload(ALL[0], ("step-0",))],
    ),
    "every second one": (
        wanted(0, 1, 2, every=2),
        [],
        [Upload(ALL[0], ("step-0",)), Upload(ALL[2], ("step-2", "latest"))],
    ),
    "what is postponed waits": (wanted(0, postponed=[0], held=[0]), [], []),
    "what waits in the outbox is uploaded if deleted versions are kept": (
        wanted(1, chosen=[0], held=[0], when="keep"),
        [version(1, "latest")],
        [Upload(ALL[0], ("step-0",))],
    ),
    "else it is removed from the outbox": (
        wanted(1, chosen=[0], held=[0]),
        [version(1, "latest")],
        [Release(ALL[0].name)],
    ),
    "what was uploaded is removed from the outbox": (
        wanted(0, held=[0]),
        [version(0, "latest")],
        [Release(ALL[0].name)],
    ),
    "what is to be uploaded stays in the outbox": (wanted(0, held=[0]), [], [Upload(ALL[0], ("step-0", "latest"))]),
    "a reference is replaced": (
        wanted(0),
        [version(0, "latest", "production", has_bytes=False)],
        [Upload(ALL[0], ("step-0", "latest", "production"))],
    ),
    "and then deleted": (
        wanted(0),
        [version(0, has_bytes=False, id="r"), version(0, "latest")],
        [Delete(version(0, has_bytes=False, id="r"))],
    ),
    "a version that could not be examined waits": (wanted(0, held=[0]), [version(0, "latest", has_bytes=None)], []),
}


@pytest.mark.parametrize(("state", "actual", "expected"), TABLE.values(), ids=TABLE)
def test_the_operations_that_are_left(state, actual, expected):
    assert reconcile(state, actual) == expected


def test_another_checkpoint_of_the_same_name_replaces_the_one_before():
    again = replace(ALL[0], digest="other")
    state = replace(wanted(0, deleted=[0]), kept={again.name: again})
    assert reconcile(state, [version(0, "step-0", "latest")]) == [
        Upload(again, ("step-0", "latest")),
        Delete(version(0, "step-0", "latest")),
    ]


def test_what_is_not_known_counts_as_missing():
    assert missing(wanted(0, postponed=[0]), []) == [ALL[0]]
    assert missing(wanted(0), [version(0, has_bytes=None)]) == [ALL[0]]
    assert missing(wanted(0), [version(0)]) == []


def test_an_alias_belongs_to_one_version():
    assert taken([version(0, "best", "step-0"), version(1)], version(1, "best")) == [
        version(0, "step-0"),
        version(1, "best"),
    ]


def done(operation, state, actual, online):
    """The state and the versions after an operation, as W&B would have it."""
    match operation:
        case Upload(item, aliases):
            made = Version(f"n{item.name}", item.name, item.digest, frozenset({*aliases, "latest"}))
            return state, taken(actual, made)
        case Delete(old):
            return state, without(actual, old)
        case Untag(old):
            return state, taken(actual, replace(old, aliases=frozenset()))
        case AddAliases(old, aliases):
            more = {*aliases} if online else {*aliases, "latest"}  # offline, it is logged again
            return state, taken(actual, replace(old, aliases=old.aliases | more))
        case Release(name):
            return replace(state, held=state.held - {name}), actual


numbers = st.sets(st.integers(0, NUM - 1))
aliases = st.sets(st.sampled_from(["latest", "best", "final", "step-1", "production"]))


@given(
    sets=st.tuples(numbers, numbers, numbers, numbers, numbers),
    marks=st.tuples(st.none() | st.integers(0, NUM - 1), st.none() | st.integers(0, NUM - 1)),
    there=st.lists(st.tuples(st.integers(0, NUM - 1), aliases, st.sampled_from([True, True, False, None])), max_size=6),
    settings=st.builds(
        ArtifactSettings,
        st.sampled_from(["all", "best", "final", "none"]),
        st.integers(1, 2),
        st.sampled_from(["delete", "untag", "keep"]),
    ),
    finished=st.booleans(),
    online=st.booleans(),
)
def test_any_state_converges_and_nothing_is_left_to_do(sets, marks, there, settings, finished, online):
    kept, chosen, held, deleted, postponed = map(sorted, sets)
    last, best = marks
    state = wanted(*kept, last=last, best=best, deleted=deleted, held=held, postponed=postponed, finished=finished)
    state = replace(state, settings=settings, chosen=by_name(*chosen))
    actual = []
    for index, (number, given_aliases, has_bytes) in enumerate(there):
        actual = taken(actual, version(number, *given_aliases, has_bytes=has_bytes, id=f"t{index}"))
    before = list(actual)
    for _ in range(50):
        if not (operations := reconcile(state, actual)):
            break
        state, actual = done(operations[0], state, actual, online)
    assert reconcile(state, actual) == [], "no fixed point"
    kept_digests = {item.digest for item in state.kept.values()}
    for item in missing(state, actual):
        unknown = any(found.has_bytes is None for found in versions_of(item, actual))
        assert item.name in state.postponed or unknown
    for gone in state.deleted - kept_digests:
        found = [item for item in actual if item.digest == gone]
        assert settings.deleted != "delete" or not found
        assert settings.deleted != "untag" or not any(item.aliases for item in found)
    for alias, number in {"latest": last, "best": best, **({"final": last} if finished else {})}.items():
        item = None if number is None else state.kept.get(ALL[number].name)
        if item is not None and (found := versions_of(item, actual)):
            assert alias in found[0].aliases
    replaced = {item.id for item in before if item.has_bytes is False}
    foreign = {item.id for item in before if item.digest not in state.deleted - kept_digests} - replaced
    assert foreign <= {item.id for item in actual}, "only what retention has deleted is deleted"
    for item in before:
        if item.id in foreign and "production" in item.aliases:
            assert any("production" in other.aliases for other in actual), "an alias of the user stays"


def test_the_alias_of_a_step():
    assert step_alias(70) == "step-70"
