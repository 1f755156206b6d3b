"""File names are built and parsed consistently."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.values import at

from cairn.store import names

EPOCHS = st.integers(min_value=0, max_value=10**5)
BATCHES = st.integers(min_value=0, max_value=10**8)


def name(epoch, batch):
    return names.checkpoint_name(at(batch, epoch=epoch))


def test_the_name_has_epoch_and_batch():
    assert name(0, 150) == "epoch_000_batch_000150.ckpt"
    assert names.manifest_name(name(0, 150)) == "epoch_000_batch_000150.json"


@given(EPOCHS, BATCHES)
def test_a_built_name_parses_back(epoch, batch):
    assert names.parse_name(name(epoch, batch)) == (epoch, batch)


@given(st.from_regex(r"epoch_\d{1,5}_batch_\d{1,8}\.ckpt", fullmatch=True))
@example("epoch_0001_batch_000001.ckpt")
@example("epoch_001_batch_0000001.ckpt")
def test_a_parsed_name_builds_the_same_name(text):
    place = names.parse_name(text)
    assert place is None or name(*place) == text


@given(st.integers(min_value=0, max_value=999), st.integers(min_value=0, max_value=999_999), st.data())
def test_names_of_usual_length_sort_like_positions(epoch, batch, data):
    other = data.draw(st.tuples(st.integers(min_value=0, max_value=999), st.integers(min_value=0, max_value=999_999)))
    assert (name(epoch, batch) < name(*other)) is ((epoch, batch) < other)


@pytest.mark.parametrize(
    "foreign",
    [
        names.LAST,
        names.BEST,
        "",
        "epoch_0_batch_150.ckpt",  # what people write by hand
        "epoch=0-step=150.ckpt",  # what Lightning writes
        "epoch_000_batch_000150.json",
        "epoch_000_batch_000150.ckpt.bak",
        "my_epoch_000_batch_000150.ckpt",
        ".epoch_000_batch_000150.ckpt.tmp",
        "epoch_-01_batch_000150.ckpt",
        "epoch_000_batch_000150.ckpt\n",
    ],
)
def test_other_names_are_not_checkpoints(foreign):
    assert names.parse_name(foreign) is None


@given(EPOCHS, BATCHES)
def test_a_temporary_name_is_hidden_and_recognized(epoch, batch):
    own = name(epoch, batch)
    for final in (own, names.manifest_name(own), names.LAST, names.BEST):
        temp = names.temp_name(final)
        assert names.is_temp(temp)
        assert not names.is_temp(final)
        assert temp.startswith(".")
        assert "/" not in temp
        assert names.parse_name(temp) is None


@pytest.mark.parametrize("foreign", [".gitignore", ".tmp", "notes.tmp", ".notes.txt.tmp", ".rsync.abc.tmp", ".nfs0001"])
def test_temporary_files_of_other_programs_are_not_recognized(foreign):
    assert not names.is_temp(foreign)


def test_the_name_of_a_shard_has_its_rank():
    assert names.shard_name(1) == "rank_00001.ckpt"
    assert [names.shard_rank(names.shard_name(rank)) for rank in (0, 7, 123456)] == [0, 7, 123456]
    assert [names.shard_rank(name) for name in ("rank_1.ckpt", "rank_000001.ckpt", "rank_00001.json")] == [None] * 3


def test_the_directory_of_an_attempt_is_a_leftover_and_not_a_checkpoint():
    found = names.attempt_name("epoch_000_batch_000150.ckpt", "0a1b2c3d")
    assert found == ".epoch_000_batch_000150.ckpt.0a1b2c3d.tmp"
    assert names.is_temp(found)
    assert names.parse_name(found) is None
