"""Which versions W&B has, with which aliases, and which are deleted there; on a stand-in for W&B's client."""

import hashlib
import logging
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from tests.support.shards import commit_shards
from tests.support.values import commit, saved, small_file
from tests.support.wandb_worker import wait_until_idle

from cairn.errors import ResumeError
from cairn.store import catalog, file_format, names
from cairn.store.commit import delete_checkpoint
from cairn.trackers.deleted import Deleted
from cairn.trackers.remote import NOTE, Location, metadata
from cairn.units import format_bytes
from cairn.uploads import thread
from cairn.uploads.outbox import Outbox
from cairn.wandb import client
from cairn.wandb.artifacts import Artifacts


class Entry:
    def __init__(self, entry):
        self.ref, self.size = entry.ref, entry.size


class Version:
    """Handle of a version. Like the client's, it has the aliases of the moment when it was made."""

    def __init__(self, server, number, metadata, entries):
        self.server, self.metadata, self.number = server, metadata, number
        self.id = self.qualified_name = f"v{number}"
        self.manifest = SimpleNamespace(entries=entries)
        self.aliases = sorted(server.aliases.get(number, ()))
        self.saved = set(self.aliases)

    def save(self):
        for alias in set(self.aliases) - self.saved:
            self.server.give(self.number, alias)
        self.server.aliases[self.number] -= self.saved - set(self.aliases)

    def wait(self):
        self.server.gate.wait(60)
        if self.server.errors:
            raise self.server.errors.pop(0)
        self.server.versions[self.number] = (self.metadata, self.manifest.entries)
        for alias in self.logged_as:
            self.server.give(self.number, alias)
        return self.server.handle(self.number)

    def delete(self, delete_aliases):
        assert delete_aliases
        del self.server.versions[self.number], self.server.aliases[self.number]


class Server:
    """A W&B run, and the versions that the server has of its checkpoints."""

    offline, id, entity, project = False, "r", "e", "p"

    def __init__(self):
        self.versions, self.aliases, self.errors, self.used, self.gate = {}, {}, [], [], Event()
        self.num_made = self.num_listed = 0
        self.gate.set()

    def log_artifact(self, artifact, aliases):
        self.num_made += 1
        entries = {name: Entry(entry) for name, entry in artifact.manifest.entries.items()}
        made = Version(self, self.num_made, dict(artifact.metadata), entries)
        made.logged_as = [*aliases, "latest"]  # added by the client
        return made

    def use_artifact(self, name):
        self.used.append(name)

    def give(self, number, alias):
        for others in self.aliases.values():
            others.discard(alias)
        self.aliases.setdefault(number, set()).add(alias)

    def handle(self, number):
        return Version(self, number, *self.versions[number])

    def named(self):
        return {metadata["name"]: self.aliases[number] for number, (metadata, _) in self.versions.items()}


@pytest.fixture
def server(monkeypatch):
    made = Server()

    def versions(named):
        made.num_listed += 1
        return [made.handle(number) for number in sorted(made.versions)] if named == "e/p/model-r" else []

    monkeypatch.setattr(client, "versions", versions)
    monkeypatch.setattr(client, "again", lambda version: made.handle(version.number))
    return made


@pytest.fixture
def folder(tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    return directory


class Run:
    """Commits and deletes checkpoints as a run does, with the file."""

    def __init__(self, server, folder, kept=(), links=None, **settings):
        self.folder = folder
        self.listener = Artifacts(server, run_directory=folder.parent, **settings)
        self.listener.opened(folder, kept, links or {names.LAST: None, names.BEST: None}, [])

    def save(self, number, best=None, digest=None, **facts):
        item = replace(commit(self.folder, number, position=place(number), **facts), number=number)
        item = replace(item, digest=digest or item.digest)
        links = {names.LAST: item.name, names.BEST: saved(number if best is None else best).name}
        self.listener.committed(item, links)
        return item

    def delete(self, *numbers):
        self.listener.deleting([name(number) for number in numbers])
        for number in numbers:
            delete_checkpoint(self.folder, saved(number).name)
        self.listener.deleted([saved(number).name for number in numbers])

    def settle(self):
        """Wait until the thread has done everything so far."""
        wait_until_idle(self.worker)

    def end(self, finished=True, limit_s=60.0):
        self.listener.close(finished, limit_s)

    @property
    def state(self):
        return self.listener._parts.state

    @property
    def worker(self):
        return self.listener._parts.worker


def place(number):
    return replace(saved(number).position, step=10 * number)


def step(number):
    return f"step-{10 * number}"


def name(number):
    return saved(number).name


def test_latest_and_best_are_where_the_links_are(server, folder):
    run = Run(server, folder)
    run.save(0)
    run.save(1, best=0)
    run.save(2, best=2)
    run.save(3, best=2)
    run.end(finished=False)
    assert server.named() == {
        name(0): {step(0)},
        name(1): {step(1)},
        name(2): {step(2), "best"},
        name(3): {step(3), "latest"},
    }
    assert list(folder.glob(".*")) == []


def test_best_may_move_back_to_an_older_checkpoint(server, folder):
    run = Run(server, folder)
    run.save(0, best=0)
    run.save(1, best=1)
    run.save(2, best=0)
    run.end(finished=False)
    assert {key for key, aliases in server.named().items() if "best" in aliases} == {name(0)}


@pytest.mark.parametrize(("deleted", "left"), [("delete", {1, 2}), ("untag", {0, 1, 2}), ("keep", {0, 1, 2})])
def test_a_deleted_checkpoint_is_deleted_untagged_or_kept(server, folder, deleted, left):
    run = Run(server, folder, deleted=deleted)
    run.save(0)
    run.save(1)
    run.delete(0)
    run.save(2)
    run.end()
    assert set(server.named()) == {name(number) for number in left}
    if deleted != "delete":
        assert server.named()[name(0)] == (set() if deleted == "untag" else {step(0)})
    assert {"latest", "final"} <= server.named()[name(2)]


@pytest.mark.parametrize("deleted", ["delete", "keep"])
def test_a_checkpoint_that_is_deleted_before_its_upload_is_uploaded_if_it_is_to_be_kept(server, folder, deleted):
    server.gate.clear()
    run = Run(server, folder, deleted=deleted)
    run.save(0)
    run.save(1)
    run.delete(0, 1)
    run.save(2)
    server.gate.set()
    run.end()
    assert set(server.named()) == ({name(2)} if deleted == "delete" else {name(0), name(1), name(2)})
    assert list(folder.glob(".*")) == []


@pytest.mark.parametrize("deleted", ["delete", "keep"])
def test_offline_a_checkpoint_that_is_gone_already_is_not_an_error(server, folder, monkeypatch, caplog, deleted):
    monkeypatch.setattr(server, "offline", True, raising=False)
    run = Run(server, folder, deleted=deleted)
    item = commit(folder, 0)
    delete_checkpoint(folder, item.name)
    run.listener.committed(item, {names.LAST: item.name, names.BEST: None})
    run.listener.deleted([item.name])
    run.end(finished=False)
    assert caplog.text == ""
    assert server.num_made == 0


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"which": "all"}, {0, 1, 2, 3, 4}),
        ({"which": "all", "every": 2}, {0, 1, 2, 4}),  # 1 is the best one
        ({"which": "best"}, {0, 1}),
        ({"which": "final"}, {4}),
        ({"which": "none"}, set()),
    ],
)
def test_only_what_the_settings_ask_for_is_uploaded(server, folder, wishes, expected):
    run = Run(server, folder, **wishes)
    run.save(0)
    for number in range(1, 5):
        run.save(number, best=1)
    run.end()
    assert set(server.named()) == {name(number) for number in expected}
    assert list(folder.glob(".*")) == []
    if 4 in expected:
        assert "final" in server.named()[name(4)]


def test_final_moves_when_a_run_is_extended(server, folder):
    run = Run(server, folder)
    run.save(0)
    run.end()
    longer = Run(server, folder, [saved_on(folder, 0)], {names.LAST: name(0), names.BEST: name(0)})
    longer.save(1, best=0)
    longer.end()
    assert server.named() == {name(0): {step(0), "best"}, name(1): {step(1), "latest", "final"}}


def saved_on(folder, number):
    from cairn.store.catalog import Catalog

    return next(item for item in Catalog(folder).committed() if item.name == name(number))


@pytest.mark.parametrize(("deleted", "num_left"), [("delete", 1), ("untag", 2), ("keep", 2)])
def test_a_checkpoint_saved_again_replaces_the_one_of_that_name(server, folder, deleted, num_left):
    run = Run(server, folder, deleted=deleted)
    run.save(0)
    run.settle()
    again = run.save(0, digest="another")
    run.end(finished=False)
    *others, (number, (facts, _)) = server.versions.items()
    assert facts["digest"] == again.digest
    assert server.aliases[number] == {step(0), "latest", "best"}
    assert len(others) == num_left - 1
    assert not any(server.aliases[number] for number, _ in others), "aliases belong to the newer one"


def test_a_checkpoint_saved_again_before_its_upload_is_uploaded_once(server, folder):
    server.gate.clear()
    run = Run(server, folder)
    run.save(0)
    again = [run.save(1, digest=digest) for digest in ("one", "another")][-1]
    server.gate.set()
    run.end(finished=False)
    assert {facts["digest"] for facts, _ in server.versions.values() if facts["name"] == name(1)} == {again.digest}
    assert server.named()[name(1)] == {step(1), "latest", "best"}


def test_a_start_uploads_what_is_missing_and_deletes_what_retention_deleted(server, folder):
    first = Run(server, folder)
    for number in range(3):
        first.save(number)
    first.end(finished=False)
    first.listener.deleting([name(0), name(2)])  # killed before W&B was informed, and before 2 was deleted
    delete_checkpoint(folder, name(0))
    unknown = commit(folder, 3, position=place(3))  # right before the kill
    kept = [saved_on(folder, 1), saved_on(folder, 2), unknown]
    second = Run(server, folder, kept, {names.LAST: unknown.name, names.BEST: name(2)})
    second.end(finished=False)
    assert server.named() == {
        name(1): {step(1)},
        name(2): {step(2), "best"},
        name(3): {step(3), "latest"},
    }


def test_a_checkpoint_that_its_owner_moved_away_stays_in_wandb(server, folder):
    first = Run(server, folder)
    first.save(0)
    first.save(1)
    first.end()
    for number in range(2):
        delete_checkpoint(folder, name(number))
    second = Run(server, folder, [], {names.LAST: None, names.BEST: None})
    second.end()
    assert set(server.named()) == {name(0), name(1)}


def test_a_reference_is_replaced_by_the_bytes(server, folder):
    """`wandb sync` of an offline run leaves such versions."""
    first = Run(server, folder)
    first.save(0)
    first.end(finished=False)
    ((_, entries),) = server.versions.values()
    entries[name(0)].ref = "file:///somewhere"
    second = Run(server, folder, [saved_on(folder, 0)], {names.LAST: name(0), names.BEST: None})
    second.end(finished=False)
    ((_, entries),) = server.versions.values()
    assert entries[name(0)].ref is None
    assert server.named() == {name(0): {step(0), "latest"}}


@pytest.mark.parametrize("deleted", ["delete", "keep"])
def test_what_waited_when_the_run_was_killed_is_uploaded_if_it_is_wanted(server, folder, deleted):
    server.gate.clear()
    first = Run(server, folder, deleted=deleted)
    first.save(0)
    first.save(1)
    first.delete(0)
    first.end(limit_s=0.1)  # as a kill would leave it
    server.gate.set()
    first.worker.thread.join(60)
    second = Run(server, folder, [saved_on(folder, 1)], {names.LAST: name(1), names.BEST: None}, deleted=deleted)
    second.save(2)
    second.end(finished=False)
    wanted = {1, 2} if deleted == "delete" else {0, 1, 2}
    assert set(server.named()) == {name(number) for number in wanted}
    assert server.named()[name(2)] == {step(2), "latest", "best"}
    assert list(folder.glob(".*")) == []


def test_the_bytes_of_a_checkpoint_saved_again_are_never_those_of_the_one_before(server, folder):
    """A kill between the commit and the outbox leaves the bytes of the earlier checkpoint of that name there."""
    Outbox(folder, names.OUTBOX).add(commit(folder, 0, score=2.0))
    again = replace(commit(folder, 0, score=1.0), digest="another")
    run = Run(server, folder, [again], {names.LAST: again.name, names.BEST: None})
    assert run.state.outbox.held == set()
    run.end(finished=False)
    ((facts, _),) = server.versions.values()
    assert facts["digest"] == again.digest


def test_offline_what_waits_for_a_server_stays_in_the_outbox(server, folder, monkeypatch):
    waiting = commit(folder, 0)
    Outbox(folder, names.OUTBOX).add(waiting)
    delete_checkpoint(folder, waiting.name)
    monkeypatch.setattr(server, "offline", True, raising=False)
    run = Run(server, folder, deleted="keep")
    run.save(1)
    run.end(finished=False)
    assert Outbox(folder, names.OUTBOX).waiting() == [waiting]


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("deleted", ["delete", "untag", "keep"])
def test_memory_does_not_grow_with_the_run(server, folder, monkeypatch, deleted, offline):
    monkeypatch.setattr(server, "offline", offline, raising=False)
    run = Run(server, folder, deleted=deleted)
    for number in range(6):
        run.save(number)
        run.settle()
        run.delete(number - 1)
        run.settle()
    assert [version.name for version in run.listener._parts.executor._actual] == [name(5)]
    assert (run.state._deleted, set(run.state._kept), set(run.state._chosen)) == (set(), {name(5)}, {name(5)})
    run.end(finished=False)


def test_a_failed_upload_is_tried_again_at_the_end_and_logged_once(server, folder, caplog):
    server.errors = [OSError("the server is busy."), OSError("the server is busy.")]
    run = Run(server, folder)
    run.save(0)
    run.save(1)
    run.save(2)
    run.end()
    assert caplog.text.count("the server is busy") == 1
    assert set(server.named()) == {name(0), name(1), name(2)}
    assert {"latest", "final", "best"} <= server.named()[name(2)]
    assert "does not have all" not in caplog.text


def test_the_end_lists_what_there_is_once(server, folder):
    server.errors = [OSError("the server is busy.")]
    run = Run(server, folder)
    run.save(0)
    run.save(1, best=0)
    run.settle()
    before = server.num_listed
    run.end()
    assert server.num_listed == before + 1
    assert server.named() == {name(0): {step(0), "best"}, name(1): {step(1), "latest", "final"}}


@pytest.mark.parametrize("times", [1, 2])
def test_what_could_not_be_listed_at_the_start_is_uploaded_at_the_end(server, folder, monkeypatch, caplog, times):
    """W&B did not answer for a moment: earlier checkpoints must not be missing for the whole run."""
    kept = [replace(commit(folder, number, position=place(number)), number=number) for number in range(2)]
    listed, calls = client.versions, []

    def versions(named):
        calls.append(named)
        if len(calls) <= times:
            raise OSError("no answer for a moment.")
        return listed(named)

    monkeypatch.setattr(client, "versions", versions)
    run = Run(server, folder, kept, {names.LAST: name(1), names.BEST: name(0)})
    run.save(2, best=2)
    run.delete(1)
    run.end()
    if times == 1:
        assert server.named() == {name(0): {step(0)}, name(2): {step(2), "best", "latest", "final"}}
        assert "does not have all" not in caplog.text
    else:
        assert "does not have all checkpoints" in caplog.text
    assert caplog.text.count("no answer for a moment") == 1


def test_a_version_whose_manifest_cannot_be_read_does_not_affect_the_others(server, folder, monkeypatch, caplog):
    first = Run(server, folder)
    for number in range(2):
        first.save(number)
    first.end(finished=False)
    unknown, looked = commit(folder, 2, position=place(2)), []
    holds = client.holds

    def look(version, saved):
        looked.append(saved.name)
        if looked.count(name(0)) == 1 and saved.name == name(0):
            raise OSError("no manifest for now.")
        return holds(version, saved)

    monkeypatch.setattr(client, "holds", look)
    kept = [saved_on(folder, number) for number in range(2)] + [unknown]
    second = Run(server, folder, kept, {names.LAST: unknown.name, names.BEST: name(1)})
    second.end(finished=False)
    assert server.named() == {name(0): {step(0)}, name(1): {step(1), "best"}, name(2): {step(2), "latest"}}
    assert server.num_made == 3
    assert caplog.text.count("no manifest for now") == 1
    assert "does not have all" not in caplog.text


def test_deleted_checkpoints_leave_the_disk_while_a_server_hangs(server, folder):
    server.gate.clear()
    run, waiting = Run(server, folder), folder / names.OUTBOX
    run.save(0)
    until = time.monotonic() + 60
    while run.state.sending != name(0):
        assert time.monotonic() < until, "its upload never began"
        time.sleep(0.001)
    for number in range(1, 4):
        run.save(number)
        run.delete(number - 1)
        in_flight, newest = name(0), name(number)
        assert {path.name for path in waiting.glob("*.ckpt")} == {in_flight, newest}
    assert run.state.outbox.num_bytes == sum(path.stat().st_size for path in waiting.glob("*.ckpt"))
    server.gate.set()
    run.end(finished=False)
    assert set(server.named()) == {name(3)}
    assert list(folder.glob(".*")) == []


def test_a_run_that_uploads_nothing_reports_nothing_missing(server, folder, monkeypatch, caplog):
    def fail(named):
        raise OSError("no answer")

    monkeypatch.setattr(client, "versions", fail)
    run = Run(server, folder, [], {}, which="none", deleted="untag")
    run.save(0)
    run.end()
    assert "could not find out what it has of this run (no answer)" in caplog.text
    assert "does not have all" not in caplog.text


def test_versions_stay_when_a_resumed_run_uploads_nothing_more(server, folder):
    first = Run(server, folder, deleted="keep")
    for number in range(2):
        first.save(number)
    first.delete(0)
    first.end(finished=False)
    second = Run(
        server, folder, [saved_on(folder, 1)], {names.LAST: name(1), names.BEST: name(1)}, which="none", deleted="keep"
    )
    second.save(2)
    second.delete(1)
    second.end()
    assert set(server.named()) == {name(0), name(1)}


def test_each_kind_of_error_is_logged(server, folder, monkeypatch, caplog):
    """Two operations that raise the same error are two kinds."""

    def fail(*args, **kwargs):
        raise OSError("no.")

    monkeypatch.setattr(Version, "delete", fail)
    server.errors = [OSError("no."), OSError("no.")]
    run = Run(server, folder)
    for number in range(4):
        run.save(number)
    run.settle()  # what is deleted before its upload leaves no version to delete
    run.delete(2)
    run.end(finished=False)
    assert caplog.text.count("W&B: could not upload a checkpoint (no)") == 1
    assert caplog.text.count("W&B: could not delete the version of a deleted checkpoint (no)") == 1


def test_an_alias_that_cannot_be_set_does_not_affect_deletions(server, folder, monkeypatch):
    first = Run(server, folder)
    old = first.save(0)
    first.end(finished=False)
    run = Run(server, folder)
    Deleted(folder.parent / "wandb").note(old.digest)
    run.save(1)
    monkeypatch.setattr(client, "again", lambda version: 1 / 0)
    run.end()
    assert set(server.named()) == {name(1)}


def test_what_was_not_uploaded_is_reported_with_the_command_that_uploads_it(server, folder, caplog):
    server.errors = [OSError("no")] * 9
    run = Run(server, folder)
    run.save(0)
    run.end()
    assert f"W&B does not have all checkpoints of this run ({name(0)})" in caplog.text
    assert f"python -m cairn sync {folder.parent}" in caplog.text


def test_the_end_waits_no_longer_than_its_limit(server, folder, caplog):
    server.gate.clear()
    run = Run(server, folder)
    run.save(0)
    run.end(limit_s=0.1)
    assert "does not have all checkpoints" in caplog.text
    assert list((folder / names.OUTBOX).iterdir()), "the next start, or a sync, uploads the rest"
    server.gate.set()
    run.end()


class AtEach(logging.Handler):
    """Does something whenever a certain message is logged."""

    def __init__(self, words, task):
        super().__init__()
        self.words, self.task, self.seen = words, task, []

    def emit(self, record):
        if self.words in record.getMessage():
            self.seen.append(record.getMessage())
            self.task()


def test_the_end_waits_for_uploads_and_logs_how_much_is_left(server, folder, monkeypatch, caplog):
    """The server takes nothing until it was logged three times how much is left."""
    monkeypatch.setattr(thread, "_SHOW_AFTER_S", 0.01)
    monkeypatch.setattr(thread, "_SHOW_EVERY_S", 0.01)
    server.gate.clear()
    run = Run(server, folder)
    num_bytes = sum(run.save(number).num_bytes for number in range(2))
    line = AtEach("left to upload", lambda: server.gate.set() if len(line.seen) == 3 else None)
    thread.log.addHandler(line)
    caplog.set_level("INFO")
    try:
        run.end(limit_s=600.0)
    finally:
        thread.log.removeHandler(line)
    assert len(line.seen) >= 3
    assert line.seen[0].endswith(f" s more: {format_bytes(num_bytes)} left to upload.")
    assert set(server.named()) == {name(0), name(1)}
    assert {"latest", "final"} <= server.named()[name(1)]
    assert "does not have all" not in caplog.text


def test_what_exceeds_the_queue_is_uploaded_at_the_end(server, folder, caplog):
    server.gate.clear()
    size = commit(folder, 9).num_bytes
    run = Run(server, folder, queue_bytes=2 * size + size // 2)
    for number in range(4):
        run.save(number)
    assert len(list((folder / names.OUTBOX).glob("*.ckpt"))) == 2
    server.gate.set()
    run.end(finished=False)
    assert set(server.named()) == {name(number) for number in range(4)}
    assert server.named()[name(3)] == {step(3), "latest", "best"}
    assert caplog.text.count("wait to be uploaded: ") == 1


def test_no_temporary_file_is_left(server, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(Server, "log_artifact", lambda self, artifact, aliases: made.append(artifact) or 1 / 0)
    made = []
    run = Run(server, folder)
    run.save(0)
    run.end(finished=False)
    assert NOTE in made[0].manifest.entries
    assert list((tmp_path / "temporary").iterdir()) == list((folder.parent / "wandb").glob("tmp*")) == []


def test_an_unexpected_error_does_not_end_the_thread(server, folder, caplog, monkeypatch):
    run = Run(server, folder)
    monkeypatch.setattr(server, "log_artifact", lambda *args, **kwargs: 1 / 0)
    run.save(0)
    run.listener.deleted([name(5)])
    run.end(finished=False, limit_s=60)
    assert caplog.text.count("division by zero") == 1


READS = {"read", "readall", "readinto", "read1", "pread", "sendfile", "copy_file_range", "connect", "send", "recv"}


class Watch:
    """Records on which threads W&B's code ran, and on which a file was read or its bytes were hashed."""

    def __init__(self, monkeypatch):
        self.wandb, self.bytes = set[str](), set[str]()
        package = str(Path(client.wandb.__file__).parent)

        def see(frame, event, what):
            if event == "call" and frame.f_code.co_filename.startswith(package):
                self.wandb.add(threading.current_thread().name)
            elif event == "c_call" and (what.__name__ in READS or _hashes(what)):
                self.bytes.add(threading.current_thread().name)

        for method in ("log_artifact", "handle"):  # what stands for calls of the client
            monkeypatch.setattr(Server, method, self._as_wandb(getattr(Server, method)))
        for method in ("wait", "save", "delete"):
            monkeypatch.setattr(Version, method, self._as_wandb(getattr(Version, method)))
        self.see = see
        threading.setprofile(see)  # for threads that start from now on

    def _as_wandb(self, function):
        def call(*args, **kwargs):
            self.wandb.add(threading.current_thread().name)
            return function(*args, **kwargs)

        return call


def _hashes(what):
    return what.__name__ == "update" and type(what.__self__).__module__ == "_hashlib"


@pytest.fixture
def watching():
    yield
    threading.setprofile(None)
    sys.setprofile(None)


@pytest.mark.parametrize("offline", [False, True])
def test_the_committing_thread_neither_calls_wandb_nor_reads_bytes(server, folder, monkeypatch, watching, offline):
    monkeypatch.setattr(server, "offline", offline, raising=False)
    first, *others = [replace(commit(folder, number, position=place(number)), number=number) for number in range(4)]
    watch = Watch(monkeypatch)
    run = Run(server, folder, [first], {names.LAST: name(0), names.BEST: name(0)})
    sys.setprofile(watch.see)
    for item in others:
        run.listener.committed(item, {names.LAST: item.name, names.BEST: name(0)})
    run.delete(1)
    sys.setprofile(None)
    run.end()
    here, there = threading.current_thread().name, "tracker-artifacts"
    assert here not in watch.wandb | watch.bytes
    assert there in watch.wandb & watch.bytes, "calls on the other thread are seen"


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """A version in W&B whose bytes can be fetched."""
    content = b"".join(file_format.sealed(small_file(0), 100))
    version = SimpleNamespace(entity="e", project="p", name="model-r:best", version="v3", fetched=[])
    version.metadata = {"name": name(0), "digest": file_format.digest(memoryview(content))}
    version.manifest = SimpleNamespace()
    version.manifest.entries = {name(0): SimpleNamespace(ref=None)}

    def get_entry(named):
        def fetch(root, skip_cache):
            version.fetched.append(named)
            (Path(root) / named).write_bytes(content)

        return SimpleNamespace(download=fetch)

    version.get_entry, version.content = get_entry, content
    monkeypatch.setattr(client.wandb, "Api", lambda: SimpleNamespace(artifact=lambda named: version))
    return version


@pytest.mark.parametrize("error", [ConnectionError("no route"), PermissionError(13, "Permission denied")])
@pytest.mark.parametrize("step", ["list", "delete"])
def test_errors_of_the_system_in_a_download_are_one_sentence(stored, tmp_path, monkeypatch, error, step):
    def fail(*_):
        raise error

    if step == "list":
        monkeypatch.setattr(client.wandb, "Api", lambda: SimpleNamespace(artifact=fail))
    else:
        (tmp_path / name(0)).write_bytes(b"damaged")
        monkeypatch.setattr(client.disk, "remove", fail)
    with pytest.raises(ResumeError, match="Could not fetch .* from W&B" if step == "list" else "Delete it yourself"):
        client.download("e/p/model-r:best", tmp_path)


@pytest.mark.parametrize(("num_bytes", "num_fetched"), [(None, 1), (0, 1), (100, 1), (-1, 1), (10**6, 0)])
def test_an_incomplete_download_is_fetched_again(stored, tmp_path, num_bytes, num_fetched):
    if num_bytes is not None:
        (tmp_path / name(0)).write_bytes(stored.content[:num_bytes])
    path, resolved = client.download("e/p/model-r:best", tmp_path)
    assert (path, path.read_bytes(), resolved) == (tmp_path / name(0), stored.content, "e/p/model-r:v3")
    assert len(stored.fetched) == num_fetched


@pytest.fixture
def stored_shards(stored, tmp_path):
    """A version in W&B that holds a directory of shards."""
    saved = commit_shards(tmp_path / "run")
    content = {
        f"{saved.name}/{item.name}": (tmp_path / "run" / saved.name / item.name).read_bytes() for item in saved.shards
    }

    def get_entry(named):
        def fetch(root, skip_cache):
            stored.fetched.append(named)
            (Path(root) / named).parent.mkdir(parents=True, exist_ok=True)
            (Path(root) / named).write_bytes(content[named])

        return SimpleNamespace(download=fetch)

    stored.get_entry, stored.saved = get_entry, saved
    stored.metadata = {"name": saved.name, "digest": saved.digest}
    stored.manifest.entries = {named: SimpleNamespace(ref=None, size=len(data)) for named, data in content.items()}
    stored.manifest.entries["checkpoint.json"] = SimpleNamespace(ref=None, size=3)
    return stored


def test_a_directory_of_shards_is_fetched_and_verified(stored_shards, tmp_path):
    path, _ = client.download("e/p/model-r:best", tmp_path / "into")
    assert path == tmp_path / "into" / stored_shards.saved.name
    assert catalog.digest(path, stored_shards.saved.digest) == stored_shards.saved.digest
    assert len(stored_shards.fetched) == 3
    (path / stored_shards.saved.shards[1].name).unlink()  # a download that was killed
    client.download("e/p/model-r:best", tmp_path / "into")
    assert len(stored_shards.fetched) == 6
    client.download("e/p/model-r:best", tmp_path / "into")
    assert len(stored_shards.fetched) == 6, "an intact one is not fetched again"


def test_a_version_without_one_of_the_shards_is_not_what_was_saved(stored_shards, tmp_path):
    saved = stored_shards.saved
    assert client.holds(stored_shards, saved)
    del stored_shards.manifest.entries[f"{saved.name}/{saved.shards[2].name}"]
    assert not client.holds(stored_shards, saved)
    with pytest.raises(ResumeError, match="is not what was saved"):
        client.download("e/p/model-r:best", tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("named", ["../rank_00000.ckpt", "rank_00000.ckpt/../../x", "other.ckpt"])
def test_only_shards_of_a_directory_are_fetched(stored_shards, tmp_path, named):
    stored_shards.manifest.entries[f"{stored_shards.saved.name}/{named}"] = SimpleNamespace(ref=None, size=1)
    client.download("e/p/model-r:best", tmp_path / "into")
    assert len(stored_shards.fetched) == 3


@pytest.mark.parametrize("offline", [False, True])
def test_a_directory_of_shards_becomes_one_version_of_several_files(server, folder, monkeypatch, offline):
    logged, log_artifact = [], server.log_artifact
    monkeypatch.setattr(server, "offline", offline, raising=False)
    monkeypatch.setattr(
        server, "log_artifact", lambda made, aliases: logged.append(made) or log_artifact(made, aliases)
    )
    run, item = Run(server, folder), commit_shards(folder, 0)
    run.listener.committed(item, {names.LAST: item.name, names.BEST: None})
    run.settle()
    entries = logged[0].manifest.entries
    assert {name: entry.size for name, entry in entries.items() if name != NOTE} == {
        f"{item.name}/{shard.name}": shard.num_bytes for shard in item.shards
    }
    assert all((entry.ref is not None) == offline for name, entry in entries.items() if name != NOTE)
    assert len(logged) == 1
    run.end()
    if not offline:
        assert server.named()[item.name] >= {"latest", "final"}
        assert Outbox(folder, names.OUTBOX).waiting() == [], "it was sent"


def test_a_version_of_manifest_format_1_is_verified_by_its_sha256(stored, tmp_path):
    del stored.metadata["digest"]
    stored.metadata["sha256"] = hashlib.sha256(stored.content).hexdigest()
    path, _ = client.download("e/p/model-r:best", tmp_path)
    assert path.read_bytes() == stored.content
    stored.metadata["sha256"] = "0" * 64
    with pytest.raises(ResumeError, match="is not what was saved"):
        client.download("e/p/model-r:best", tmp_path)


@pytest.mark.parametrize(
    ("metadata", "digest"),
    [
        ({"digest": "crc32-sha256:ab"}, "crc32-sha256:ab"),
        ({"sha256": "ab"}, "sha256:ab"),
        ({"name": "something else"}, ""),
    ],
)
def test_the_digest_of_a_version(metadata, digest):
    assert client.digest_of(SimpleNamespace(metadata=metadata)) == digest


def test_digests_of_manifest_format_1_are_read(folder):
    deleted = Deleted(folder / "wandb")
    (folder / "wandb").mkdir()
    deleted.path.write_text("ab\n")
    deleted.note("crc32-sha256:cd")
    assert deleted.digests() == {"sha256:ab", "crc32-sha256:cd"}


@pytest.mark.parametrize("named", ["../../evil.ckpt", "/tmp/evil.ckpt", "weights.ckpt", "", None])
def test_a_name_that_is_not_a_checkpoint_name_is_refused(stored, tmp_path, named):
    stored.metadata["name"] = named
    stored.manifest.entries = {named: SimpleNamespace(ref=None)}
    with pytest.raises(ResumeError, match="is not a checkpoint of Cairn"):
        client.download("e/p/model-r:best", tmp_path / "into")
    assert stored.fetched == []


def test_what_a_run_starts_from_is_recorded(server, folder):
    run = Run(server, folder, uses=["e/p/model-other:step-7"])
    run.end(finished=False)
    assert server.used == ["e/p/model-other:step-7"]


def test_metadata(folder):
    item = replace(commit(folder, 4, score=0.5), metrics={"val/loss": 0.5})
    facts = metadata(item, Location(folder, folder.parent, {"git_commit": "abc"}))
    assert facts == {
        "name": item.name,
        "epoch": item.position.epoch,
        "batch": item.position.batch,
        "global_step": item.position.step,
        "samples": item.position.samples,
        "metrics": {"val/loss": 0.5},
        "reasons": ["interval"],
        "bytes": item.num_bytes,
        "digest": item.digest,
        "path": f"checkpoints/{item.name}",
        "run_directory": str(folder.parent),
        "git_commit": "abc",
    }
    elsewhere = metadata(item, Location(folder, folder.parent / "run"))
    assert elsewhere["path"] == str(folder / item.name)
