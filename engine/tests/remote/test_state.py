"""What the thread that commits and the thread that uploads leave to each other."""

import pytest
from tests.support.values import draft, small_file

from cairn.remote.settings import MirrorSettings
from cairn.remote.state import State
from cairn.store import names
from cairn.store.commit import CommitPlan, write
from cairn.uploads.once import ErrorsOnce
from cairn.uploads.outbox import Outbox


def commit(state, folder, contents):
    """Commit a checkpoint at one and the same position."""
    saved = write(CommitPlan(folder, draft(0), {}), small_file(contents)).saved
    state.committed(saved, {names.LAST: saved.name, names.BEST: None})
    return saved


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_checkpoint_that_replaces_one_under_way_is_not_dropped_with_it(tmp_path, is_lost):
    state = State(MirrorSettings(), Outbox(tmp_path, names.MIRROR_OUTBOX), ErrorsOnce("Mirror"))
    first = commit(state, tmp_path, 1)
    assert state.begin_upload(first) is not None
    assert not state.is_replaced(first)
    second = commit(state, tmp_path, 2)
    assert state.is_replaced(first)
    state.end_upload(first, is_there=not is_lost, is_lost=is_lost)
    assert list(state.wanted().to_upload().values()) == [second]
    source = state.begin_upload(second)
    assert source is not None
    assert source.path.parent.name == names.MIRROR_OUTBOX, "retention may delete the other name"
