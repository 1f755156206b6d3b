"""A mirror belongs to one run, and one start of that run uploads to it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.mirrors import objects_at

from cairn.errors import ConfigError, RemoteError
from cairn.remote import layout, owner
from cairn.remote.objects import Objects
from cairn.remote.owner import Attempt, TakenOver


@pytest.fixture(params=["memory", "file"])
def objects(request, tmp_path):
    return objects_at(request.param, tmp_path)


def test_a_mirror_is_claimed_once_and_again_by_the_same_run(objects):
    assert owner.read(objects) is None
    owner.claim(objects, "a", "runs/a")
    owner.claim(objects, "a", "moved/a")
    assert (owner.read(objects).run, owner.read(objects).name) == ("a", "runs/a")
    with pytest.raises(ConfigError, match=r"belongs to another run \(a, runs/a, since .*\): give each run an address"):
        owner.claim(objects, "b")


def test_of_many_runs_that_start_at_once_one_gets_the_mirror(objects):
    def claim(number):
        try:
            owner.claim(objects, f"run{number}")
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    assert won.count(True) == 1
    assert owner.read(objects).run == f"run{won.index(True)}"


class Careless(Objects):
    """A server that ignores the condition of a conditional create, as some do."""

    def create(self, name, data):
        self.put(name, data)
        return True


def test_a_server_that_overwrites_what_exists_is_named_and_the_second_run_is_refused(tmp_path, caplog):
    objects = Careless(objects_at("memory", tmp_path).address)
    owner.claim(objects, "a")
    assert "ignores that an object is to be created only if there is none" in caplog.text
    with pytest.raises(ConfigError, match="belongs to another run"):
        owner.claim(objects, "b")
    assert owner.read(objects).run == "a"


def test_a_server_that_honours_it_is_not_named(objects, caplog):
    owner.claim(objects, "a")
    assert not caplog.records


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"name": "a"}', b'{"run": 3}', b"\xff"])
def test_an_owner_that_cannot_be_read_is_not_taken_for_none(objects, data):
    objects.put(layout.OWNER, data)
    with pytest.raises(ConfigError, match=r"owner.json of .* does not name a run"):
        owner.claim(objects, "a")


def test_keys_of_a_later_version_are_left_out(objects):
    objects.put(layout.OWNER, b'{"run": "a", "name": "", "since": "", "region": "x"}')
    owner.claim(objects, "a")


def test_a_later_attempt_ends_the_earlier_one(objects):
    first, second = Attempt(), Attempt()
    first.begin(objects)
    first.check(objects)
    second.begin(objects)
    with pytest.raises(TakenOver, match="another process has continued this run since"):
        first.check(objects)
    second.check(objects)


def test_a_mirror_without_an_attempt_is_gone(objects):
    with pytest.raises(RemoteError, match="is gone: the mirror was deleted, or its disk is not mounted") as caught:
        Attempt().check(objects)
    assert caught.value.kind == "missing"


def test_an_attempt_is_open_until_it_has_ended(objects):
    assert owner.open_since(objects) == ""
    first = Attempt()
    first.begin(objects)
    assert owner.open_since(objects) == first.since
    first.end(objects)
    assert owner.open_since(objects) == ""
    first.check(objects)  # it may go on
    second = Attempt()
    second.begin(objects)
    with pytest.raises(TakenOver):
        first.end(objects)
    assert owner.open_since(objects) == second.since


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b"\xff"])
def test_an_attempt_that_cannot_be_read_counts_as_open(objects, data):
    objects.put(layout.ATTEMPT, data)
    assert owner.open_since(objects) == "an unknown time"


def test_the_right_to_write_is_tried_and_leaves_nothing(objects, monkeypatch):
    owner.check_writable(objects)
    assert objects.list() == []

    def refuse(*_):
        raise RemoteError("no", kind="refused")

    monkeypatch.setattr(objects, "delete", refuse)  # such as a bucket that keeps everything
    owner.check_writable(objects)
    ((name, _),) = objects.list()
    assert layout.is_part(name)
    monkeypatch.setattr(objects, "put", refuse)
    with pytest.raises(RemoteError, match="no"):
        owner.check_writable(objects)


def test_a_server_that_ignores_the_condition_does_not_give_a_mirror_to_a_second_run(objects, monkeypatch):
    def create(name, data):  # as `rclone serve s3` does
        objects.put(name, data)
        return True

    monkeypatch.setattr(objects, "create", create)
    assert owner.claim(objects, "a")
    assert not owner.claim(objects, "a")
    with pytest.raises(ConfigError, match="belongs to another run"):
        owner.claim(objects, "b")
    assert owner.read(objects).run == "a"
