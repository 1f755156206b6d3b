"""Each rank uploads its own shard; rank 0 uploads what no other rank does."""

import os

import pytest
from tests.support.mirrors import objects_at

from cairn.remote import ranks
from cairn.remote.ranks import Assistant, Shard, ShardUploads
from cairn.store import names


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def uploads(tmp_path, clock):
    found = ShardUploads(tmp_path, clock)
    found.open()
    return found


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "a.ckpt").mkdir()
    found = [Shard(f"checkpoints/a/{names.shard_name(rank)}", f"a.ckpt/{names.shard_name(rank)}") for rank in range(3)]
    for shard in found:
        (tmp_path / shard.file).write_bytes(shard.name.encode())
    return found


@pytest.fixture
def assistants(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "POLL_S", 3600.0)  # they look when the test says so
    objects = objects_at("memory", tmp_path)
    found = [Assistant(tmp_path, rank, lambda: objects) for rank in (1, 2)]
    for item in found:
        item.objects = objects
    yield found
    for item in found:
        item._ended.set()


def test_each_rank_uploads_its_own_shard(tmp_path, uploads, shards, assistants, clock):
    own, paused = [], []

    def pause(limit_s):
        paused.append(limit_s)
        for assistant in assistants:
            assistant.help()

    uploads.upload("a", shards, own.append, pause)
    assert own == shards[:1]
    assert len(paused) == 1
    for shard in shards[1:]:
        assert assistants[0].objects.get(shard.object) == shard.name.encode()
    assert list((tmp_path / names.MIRROR_RANKS).iterdir()) == [], "nothing is left of the request"


def test_what_no_rank_takes_is_uploaded_by_rank_0(uploads, shards, clock):
    own, asked_at = [], []

    def pause(limit_s):
        clock.now_s += limit_s
        asked_at.append(clock.now_s)

    uploads.upload("a", shards, own.append, pause)
    assert own == shards
    assert ranks.TAKE_S <= asked_at[-1] < ranks.TAKE_S + 1


def test_a_rank_that_does_not_go_on_is_replaced(tmp_path, uploads, shards, clock):
    own, taken = [], tmp_path / names.MIRROR_RANKS / "a.rank_00001.taken"

    def pause(limit_s):
        taken.touch()
        os.utime(taken, (1, 1 + min(clock.now_s, 50) // 10))  # a sign of life each 10 s, until 50 s have passed
        clock.now_s += 1.0

    uploads.upload("a", shards[:2], own.append, pause)
    assert own == shards[:2]
    assert 50 + ranks.STALE_S <= clock.now_s < 60 + ranks.STALE_S


def test_a_rank_that_fails_leaves_its_shard_to_rank_0(tmp_path, uploads, shards, assistants, clock):
    own = []
    (tmp_path / shards[1].file).unlink()

    def pause(limit_s):
        clock.now_s += limit_s
        for assistant in assistants:
            assistant.help()

    uploads.upload("a", shards, own.append, pause)
    assert own == shards[:2]


def test_an_assistant_ends_its_upload_when_rank_0_has_ended(tmp_path, uploads, shards, assistants, monkeypatch):
    monkeypatch.setattr(ranks, "_TOUCH_S", 0.0)
    objects = assistants[0].objects
    ended = []

    def put_file(name, path, beat):
        beat(1)
        uploads.close()
        try:
            beat(2)
        except OSError as error:
            ended.append(error)
            raise

    monkeypatch.setattr(objects, "put_file", put_file)
    uploads._ask(tmp_path / names.MIRROR_RANKS / "a.json", shards)
    assistants[0].help()
    assert len(ended) == 1


def test_an_assistant_helps_until_rank_0_has_ended(uploads, assistants):
    uploads.close()
    assistants[0].close(limit_s=600.0)


def test_an_assistant_does_not_wait_for_a_rank_0_that_asks_for_nothing(uploads, assistants, monkeypatch):
    """It may have been killed: its folder stays."""
    slept = []
    monkeypatch.setattr(ranks.time, "monotonic", lambda: float(len(slept)))

    def sleep(seconds):
        slept.append(seconds)
        assistants[0]._num_signs += len(slept) < 4  # it uploads for three seconds

    monkeypatch.setattr(ranks.time, "sleep", sleep)
    monkeypatch.setattr(ranks, "IDLE_S", 2.0)
    assistants[0].close(limit_s=600.0)
    assert 4 < len(slept) < 8
    assert assistants[0]._ended.is_set()


def test_without_a_folder_that_can_be_written_rank_0_uploads_everything(tmp_path, shards, clock):
    uploads, own = ShardUploads(tmp_path / "missing", clock), []
    uploads.upload("a", shards, own.append, lambda limit_s: pytest.fail("nothing to wait for"))
    assert own == shards
    uploads.close()
