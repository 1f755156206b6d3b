"""The files of a run travel with its checkpoints; of one that only grows, its beginning is uploaded once."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from cairn.errors import RemoteError
from cairn.remote import run_files
from cairn.remote.run_files import RunFiles
from cairn.uploads.once import ErrorsOnce


class Store(dict):
    """Objects, with the number of bytes that were uploaded."""

    num_bytes = 0

    def put(self, name, data):
        if name not in self:
            self[name] = data
            self.num_bytes += len(data)

    def content(self, file):
        data = b"".join(self[part.object] for part in file.parts)
        assert [len(self[part.object]) for part in file.parts] == [part.num_bytes for part in file.parts]
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.num_bytes, file.digest)
        return data


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path, tmp_path / "checkpoints", ErrorsOnce("Mirror"))


def contents(store, files):
    return {item.path: store.content(item) for item in files.upload(store.put)}


def test_what_a_resume_needs_travels_and_nothing_else(tmp_path, store, files):
    here = ["config.yaml", "run.json", "starts.jsonl", ".hydra/config.yaml", "csv/metrics.csv", "wandb/history.jsonl"]
    elsewhere = ["checkpoints/a.ckpt", "start/x/a.ckpt", ".lock", "csv/.metrics.csv.tmp", "wandb/run-1/a.wandb"]
    for path in (*here, *elsewhere):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    os.symlink("/etc/passwd", tmp_path / "link.txt")
    (tmp_path / "empty.txt").touch()
    assert contents(store, files) == {"empty.txt": b"", **{path: path.encode() for path in here}}


def test_without_a_run_directory_nothing_travels(tmp_path, store):
    assert RunFiles(None, tmp_path, ErrorsOnce("Mirror")).upload(store.put) == []


def test_what_has_not_changed_is_not_read_again(tmp_path, store, files, monkeypatch):
    (tmp_path / "config.yaml").write_text("a: 1")
    first = files.upload(store.put)
    monkeypatch.setattr(run_files, "_append", None)
    assert files.upload(store.put) == first


@pytest.mark.parametrize("name", ["metrics.csv", "starts.jsonl", "train.log", "tb/events.out.tfevents.1.host"])
def test_a_file_that_grows_costs_n_log_n_and_has_few_parts(tmp_path, store, files, name):
    generator, data, path = random.Random(5), b"", tmp_path / name
    path.parent.mkdir(exist_ok=True)
    for _ in range(400):
        data += generator.randbytes(generator.randrange(1, 200))
        path.write_bytes(data) if not path.exists() else _extend(path, data)
        (file,) = files.upload(store.put)
        assert store.content(file) == data
        assert len(file.parts) <= 16
    assert store.num_bytes < 10 * len(data), "about log2(400) times its size; whole each time: 200 times"


def _extend(path, data):
    with path.open("ab") as file:
        file.write(data[path.stat().st_size :])


def test_a_new_start_uploads_only_what_is_new(tmp_path, store, files):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"a" * 5000)
    before = files.upload(store.put)
    again = RunFiles(tmp_path, tmp_path / "checkpoints", ErrorsOnce("Mirror"))
    again.begin(before)
    _extend(path, b"a" * 5000 + b"b" * 10)
    num_bytes = store.num_bytes
    (file,) = again.upload(store.put)
    assert store.content(file) == path.read_bytes()
    assert store.num_bytes == num_bytes + 10


@pytest.mark.parametrize("data", [b"x" * 3000, b"a" * 100, b"a" * 4999 + b"xyz", b""])
def test_a_file_that_was_changed_is_uploaded_again(tmp_path, store, files, data):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"a" * 5000)
    files.upload(store.put)
    path.write_bytes(data)
    assert contents(store, files) == {"metrics.csv": data}
    again = RunFiles(tmp_path, tmp_path / "checkpoints", ErrorsOnce("Mirror"))
    again.begin(files.upload(store.put))
    path.write_bytes(data[:50] + b"other")
    assert contents(store, again) == {"metrics.csv": data[:50] + b"other"}


def test_large_files_are_uploaded_in_pieces(tmp_path, store, files, monkeypatch):
    monkeypatch.setattr(run_files, "PIECE_BYTES", 100)
    (tmp_path / "train.log").write_bytes(b"0123456789" * 33)
    (file,) = files.upload(store.put)
    assert [part.num_bytes for part in file.parts] == [100, 100, 100, 30]
    _extend(tmp_path / "train.log", b"0123456789" * 40)
    (file,) = files.upload(store.put)
    assert [part.num_bytes for part in file.parts] == [100, 100, 100, 100]
    assert store.content(file) == b"0123456789" * 40


def test_an_upload_that_fails_is_repeated_as_a_whole(tmp_path, store, files):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"a" * 100)
    files.upload(store.put)
    _extend(path, b"a" * 100 + b"b" * 7)

    def fail(name, data):
        raise RemoteError("down")

    with pytest.raises(RemoteError):
        files.upload(fail)
    _extend(path, b"a" * 100 + b"b" * 7 + b"c")
    assert contents(store, files) == {"metrics.csv": path.read_bytes()}


def test_a_piece_that_was_deleted_in_the_mirror_is_uploaded_again(tmp_path, store, files):
    """As when the record that named it was deleted before the next one was created."""

    def has(name, num_bytes):
        return len(store.get(name, b"-" * (num_bytes + 1))) == num_bytes

    path = tmp_path / "metrics.csv"
    path.write_bytes(b"a" * 100)
    files.upload(store.put, has)
    _extend(path, b"a" * 100 + b"b" * 60)
    (file,) = files.upload(store.put, has)
    assert len(file.parts) == 2
    del store[file.parts[1].object]
    (file,) = files.upload(store.put, has)
    assert store.content(file) == path.read_bytes()
    del store[file.parts[0].object]
    _extend(path, path.read_bytes() + b"c")
    (file,) = files.upload(store.put, has)
    assert store.content(file) == path.read_bytes()
    again = RunFiles(tmp_path, tmp_path / "checkpoints", ErrorsOnce("Mirror"))
    again.begin([file])
    del store[file.parts[-1].object]
    (file,) = again.upload(store.put, has)
    assert store.content(file) == path.read_bytes()


def test_files_that_are_too_large_or_too_many_are_named(tmp_path, store, files, monkeypatch, caplog):
    monkeypatch.setattr(run_files, "LARGEST_BYTES", 10)
    monkeypatch.setattr(run_files, "MOST_FILES", 3)
    for name in ("a.bin", "b.csv", "c.txt", "d.txt"):
        (tmp_path / name).write_bytes(b"x" * (11 if name < "c" else 1))
    for _ in range(2):
        assert [item.path for item in files.upload(store.put)] == ["b.csv", "c.txt"]
    assert caplog.text.count("a.bin is not mirrored: it is too large for a run file (11 B)") == 1
    assert caplog.text.count("holds 4 files: only 3 of them are mirrored") == 1


def test_a_file_that_disappears_is_left_out(tmp_path, store, files):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)

    def put(name, data):
        (tmp_path / "b.txt").unlink(missing_ok=True)
        store.put(name, data)

    assert [item.path for item in files.upload(put)] == ["a.txt"]


@pytest.mark.parametrize("how", ["relative", "link"])
def test_checkpoints_are_not_run_files_however_they_are_named(tmp_path, store, monkeypatch, how):
    run, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "a.ckpt").write_text("large")
    (run / "config.yaml").write_text("a: 1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(run)
    named = {"relative": "run/checkpoints", "link": "link/checkpoints"}[how]
    files = RunFiles(run, Path(named), ErrorsOnce("Mirror"))
    assert contents(store, files) == {"config.yaml": b"a: 1"}
