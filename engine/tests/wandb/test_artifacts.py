"""What becomes of W&B's versions, on a made-up W&B: which there are, what they are called, and what is taken back."""

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
from tests.support.values import commit, saved, small_file

from cairn.store import file_format, names
from cairn.store.commit import remove
from cairn.units import size
from cairn.wandb import artifacts
from cairn.wandb.artifacts import Place, WandbTracker, Wishes
from cairn.wandb.deleted import Pruned


class Entry:
    def __init__(self, entry):
        self.ref, self.size = entry.ref, entry.size


class Version:
    """A handle of a version; like the client's, it knows the aliases of when it was made."""

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
    """A run, and the versions that W&B has of its checkpoints."""

    offline, id, entity, project = False, "r", "e", "p"

    def __init__(self):
        self.versions, self.aliases, self.errors, self.used, self.gate = {}, {}, [], [], Event()
        self.num_made = self.num_listed = 0
        self.gate.set()

    def log_artifact(self, artifact, aliases):
        self.num_made += 1
        entries = {name: Entry(entry) for name, entry in artifact.manifest.entries.items()}
        made = Version(self, self.num_made, dict(artifact.metadata), entries)
        made.logged_as = [*aliases, "latest"]  # which the client adds by itself
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

    monkeypatch.setattr(artifacts, "versions", versions)
    monkeypatch.setattr(artifacts, "again", lambda version: made.handle(version.number))
    return made


@pytest.fixture
def folder(tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    return directory


class Run:
    """Commits and prunes as a run does, with the file."""

    def __init__(self, server, folder, **wishes):
        self.folder = folder
        self.tracker = WandbTracker(server, Place(folder.parent, folder), Wishes(**wishes))

    def save(self, number, best=None, **facts):
        item = replace(commit(self.folder, number, position=place(number), **facts), number=number)
        links = {names.LAST: item.name, names.BEST: saved(number if best is None else best).name}
        self.tracker.committed(item, links)
        return item

    def prune(self, *numbers):
        self.tracker.pruning([name(number) for number in numbers])
        for number in numbers:
            remove(self.folder, saved(number).name)
        self.tracker.pruned([saved(number).name for number in numbers])

    def settle(self):
        """Wait until the thread has done what it was told so far."""
        done = Event()
        self.tracker._tasks.put(("", done.set))
        assert done.wait(60)

    def end(self, finished=True, limit_s=60.0):
        self.tracker.close(finished, limit_s)


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


def test_best_may_go_back(server, folder):
    run = Run(server, folder)
    run.save(0, best=0)
    run.save(1, best=1)
    run.save(2, best=0)
    run.end(finished=False)
    assert {key for key, aliases in server.named().items() if "best" in aliases} == {name(0)}


@pytest.mark.parametrize(("pruned", "left"), [("delete", {1, 2}), ("untag", {0, 1, 2}), ("keep", {0, 1, 2})])
def test_what_is_deleted_is_taken_back(server, folder, pruned, left):
    run = Run(server, folder, pruned=pruned)
    run.save(0)
    run.save(1)
    run.prune(0)
    run.save(2)
    run.end()
    assert set(server.named()) == {name(number) for number in left}
    if pruned != "delete":
        assert server.named()[name(0)] == (set() if pruned == "untag" else {step(0)})
    assert {"latest", "final"} <= server.named()[name(2)]


@pytest.mark.parametrize("pruned", ["delete", "keep"])
def test_a_deletion_before_the_upload_loses_nothing_that_is_wanted(server, folder, pruned):
    server.gate.clear()
    run = Run(server, folder, pruned=pruned)
    run.save(0)
    run.save(1)
    run.prune(0, 1)
    run.save(2)
    server.gate.set()
    run.end()
    assert set(server.named()) == ({name(2)} if pruned == "delete" else {name(0), name(1), name(2)})
    assert list(folder.glob(".*")) == []


@pytest.mark.parametrize("pruned", ["delete", "keep"])
def test_offline_a_deletion_before_the_thread_comes_to_it_is_no_trouble(server, folder, monkeypatch, caplog, pruned):
    monkeypatch.setattr(server, "offline", True, raising=False)
    run = Run(server, folder, pruned=pruned)
    item = commit(folder, 0)
    remove(folder, item.name)
    run.tracker.committed(item, {names.LAST: item.name, names.BEST: None})
    run.tracker.pruned([item.name])
    run.end(finished=False)
    assert caplog.text == ""
    assert server.num_made == 0


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"which": "all"}, {0, 1, 2, 3, 4}),
        ({"which": "all", "every": 2}, {0, 1, 2, 4}),  # 1 is the best of its time
        ({"which": "best"}, {0, 1}),
        ({"which": "final"}, {4}),
        ({"which": "none"}, set()),
    ],
)
def test_no_more_than_is_wished_for(server, folder, wishes, expected):
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
    longer = Run(server, folder)
    longer.tracker.opened([saved_on(folder, 0)], {names.LAST: name(0), names.BEST: name(0)})
    longer.save(1, best=0)
    longer.end()
    assert server.named() == {name(0): {step(0), "best"}, name(1): {step(1), "latest", "final"}}


def saved_on(folder, number):
    from cairn.store.catalog import Catalog

    return next(item for item in Catalog(folder).committed() if item.name == name(number))


def test_one_that_is_saved_again_takes_the_place_of_the_one_before(server, folder):
    run = Run(server, folder)
    run.save(0, score=2.0)
    again = run.save(0, score=1.0)
    run.end(finished=False)
    ((facts, _),) = server.versions.values()
    assert facts["digest"] == again.digest
    assert server.named() == {name(0): {step(0), "latest", "best"}}


def test_a_start_sends_what_is_lacking_and_takes_back_what_was_pruned(server, folder):
    first = Run(server, folder)
    for number in range(3):
        first.save(number)
    first.end(finished=False)
    first.tracker.pruning([name(0), name(2)])  # and it was killed before W&B heard of it, or before the second was gone
    remove(folder, name(0))
    unknown = commit(folder, 3, position=place(3))  # right before the kill
    second = Run(server, folder)
    kept = [saved_on(folder, 1), saved_on(folder, 2), unknown]
    second.tracker.opened(kept, {names.LAST: unknown.name, names.BEST: name(2)})
    second.end(finished=False)
    assert server.named() == {
        name(1): {step(1)},
        name(2): {step(2), "best"},
        name(3): {step(3), "latest"},
    }


def test_what_somebody_has_moved_away_stays_in_wandb(server, folder):
    first = Run(server, folder)
    first.save(0)
    first.save(1)
    first.end()
    for number in range(2):
        remove(folder, name(number))
    second = Run(server, folder)
    second.tracker.opened([], {names.LAST: None, names.BEST: None})
    second.end()
    assert set(server.named()) == {name(0), name(1)}


def test_a_reference_is_no_upload(server, folder):
    """W&B's own sync of an offline run leaves such versions."""
    first = Run(server, folder)
    first.save(0)
    first.end(finished=False)
    ((_, entries),) = server.versions.values()
    entries[name(0)].ref = "file:///somewhere"
    second = Run(server, folder)
    second.tracker.opened([saved_on(folder, 0)], {names.LAST: name(0), names.BEST: None})
    second.end(finished=False)
    ((_, entries),) = server.versions.values()
    assert entries[name(0)].ref is None
    assert server.named() == {name(0): {step(0), "latest"}}


@pytest.mark.parametrize("pruned", ["delete", "keep"])
def test_what_waited_when_the_run_died_is_sent_if_it_is_wanted(server, folder, pruned):
    server.gate.clear()
    first = Run(server, folder, pruned=pruned)
    first.save(0)
    first.save(1)
    first.prune(0)
    first.end(limit_s=0.1)  # as if it was killed
    server.gate.set()
    first.tracker._thread.join()
    second = Run(server, folder, pruned=pruned)
    second.tracker.opened([saved_on(folder, 1)], {names.LAST: name(1), names.BEST: None})
    second.save(2)
    second.end(finished=False)
    wanted = {1, 2} if pruned == "delete" else {0, 1, 2}
    assert set(server.named()) == {name(number) for number in wanted}
    assert server.named()[name(2)] == {step(2), "latest", "best"}
    assert list(folder.glob(".*")) == []


def test_what_failed_is_tried_again_at_the_end_and_told_once(server, folder, caplog):
    server.errors = [OSError("the server is tired."), OSError("the server is tired.")]
    run = Run(server, folder)
    run.save(0)
    run.save(1)
    run.save(2)
    run.end()
    assert caplog.text.count("the server is tired") == 1
    assert set(server.named()) == {name(0), name(1), name(2)}
    assert {"latest", "final", "best"} <= server.named()[name(2)]
    assert "does not have all" not in caplog.text


def test_an_end_that_mends_something_asks_once_what_there_is(server, folder):
    server.errors = [OSError("the server is tired.")]
    run = Run(server, folder)
    run.save(0)
    run.save(1, best=0)
    run.end()
    assert server.num_listed == 1
    assert server.named() == {name(0): {step(0), "best"}, name(1): {step(1), "latest", "final"}}


@pytest.mark.parametrize("times", [1, 2])
def test_a_start_without_an_answer_is_made_up_for_at_the_end(server, folder, monkeypatch, caplog, times):
    """W&B was away for a moment: what was there before must not be missing for the whole run."""
    kept = [replace(commit(folder, number, position=place(number)), number=number) for number in range(2)]
    listed, calls = artifacts.versions, []

    def versions(named):
        calls.append(named)
        if len(calls) <= times:
            raise OSError("it is away for a moment.")
        return listed(named)

    monkeypatch.setattr(artifacts, "versions", versions)
    run = Run(server, folder)
    run.tracker.opened(kept, {names.LAST: name(1), names.BEST: name(0)})
    run.save(2, best=2)
    run.prune(1)
    run.end()
    if times == 1:
        assert server.named() == {name(0): {step(0)}, name(2): {step(2), "best", "latest", "final"}}
        assert "does not have all" not in caplog.text
    else:
        assert "does not have all checkpoints" in caplog.text
    assert caplog.text.count("it is away for a moment") == 1


def test_a_version_that_cannot_be_looked_into_does_not_hide_the_others(server, folder, monkeypatch, caplog):
    first = Run(server, folder)
    for number in range(2):
        first.save(number)
    first.end(finished=False)
    unknown, looked = commit(folder, 2, position=place(2)), []
    holds = artifacts.holds

    def look(version, saved):
        looked.append(saved.name)
        if looked.count(name(0)) == 1 and saved.name == name(0):
            raise OSError("no manifest for now.")
        return holds(version, saved)

    monkeypatch.setattr(artifacts, "holds", look)
    second = Run(server, folder)
    kept = [saved_on(folder, number) for number in range(2)] + [unknown]
    second.tracker.opened(kept, {names.LAST: unknown.name, names.BEST: name(1)})
    second.end(finished=False)
    assert server.named() == {name(0): {step(0)}, name(1): {step(1), "best"}, name(2): {step(2), "latest"}}
    assert server.num_made == 3
    assert caplog.text.count("no manifest for now") == 1
    assert "does not have all" not in caplog.text


def test_a_server_that_hangs_does_not_keep_what_is_deleted_on_the_disk(server, folder):
    server.gate.clear()
    run, waiting = Run(server, folder), folder / names.OUTBOX
    run.save(0)
    until = time.monotonic() + 60
    while run.tracker._sending != name(0):
        assert time.monotonic() < until, "it was never sent"
        time.sleep(0.001)
    for number in range(1, 4):
        run.save(number)
        run.prune(number - 1)
        in_flight, newest = name(0), name(number)
        assert {path.name for path in waiting.glob("*.ckpt")} == {in_flight, newest}
    assert run.tracker._outbox.num_bytes == sum(path.stat().st_size for path in waiting.glob("*.ckpt"))
    server.gate.set()
    run.end(finished=False)
    assert set(server.named()) == {name(3)}
    assert list(folder.glob(".*")) == []


def test_who_wants_nothing_in_wandb_misses_nothing_there(server, folder, monkeypatch, caplog):
    def fail(named):
        raise OSError("no answer")

    monkeypatch.setattr(artifacts, "versions", fail)
    run = Run(server, folder, which="none", pruned="untag")
    run.tracker.opened([], {})
    run.save(0)
    run.end()
    assert "could not be looked up (no answer)" in caplog.text
    assert "does not have all" not in caplog.text


def test_what_was_kept_in_wandb_stays_there_when_a_resume_wants_nothing_more(server, folder):
    first = Run(server, folder, pruned="keep")
    for number in range(2):
        first.save(number)
    first.prune(0)
    first.end(finished=False)
    second = Run(server, folder, which="none", pruned="keep")
    second.tracker.opened([saved_on(folder, 1)], {names.LAST: name(1), names.BEST: name(1)})
    second.save(2)
    second.prune(1)
    second.end()
    assert set(server.named()) == {name(0), name(1)}


def test_each_kind_of_trouble_is_told(server, folder, monkeypatch, caplog):
    """Two that raise the same are still two."""

    def fail(*args, **kwargs):
        raise OSError("no.")

    monkeypatch.setattr(Version, "delete", fail)
    server.errors = [OSError("no."), OSError("no.")]
    run = Run(server, folder)
    for number in range(4):
        run.save(number)
    run.settle()  # one that is deleted before it is uploaded need not be taken back
    run.prune(2)
    run.end(finished=False)
    assert caplog.text.count("W&B: a checkpoint could not be uploaded (no)") == 1
    assert caplog.text.count("W&B: a version of a deleted checkpoint could not be taken back (no)") == 1


def test_a_final_that_cannot_be_given_leaves_the_rest_to_be_done(server, folder, monkeypatch):
    first = Run(server, folder)
    gone = first.save(0)
    first.end(finished=False)
    run = Run(server, folder)
    run.tracker._pruned.note(gone.digest)
    run.save(1)
    monkeypatch.setattr(artifacts, "again", lambda version: 1 / 0)
    run.end()
    assert set(server.named()) == {name(1)}


def test_what_never_arrives_is_told_with_the_way_out(server, folder, caplog):
    server.errors = [OSError("no")] * 9
    run = Run(server, folder)
    run.save(0)
    run.end()
    assert f"W&B does not have all checkpoints of this run ({name(0)})" in caplog.text
    assert f"python -m cairn sync {folder.parent}" in caplog.text


def test_the_end_does_not_wait_for_ever(server, folder, caplog):
    server.gate.clear()
    run = Run(server, folder)
    run.save(0)
    run.end(limit_s=0.1)
    assert "does not have all checkpoints" in caplog.text
    assert list((folder / names.OUTBOX).iterdir()), "the next start, or a sync, finds what is left"
    server.gate.set()
    run.end()


class AtEach(logging.Handler):
    """Do something whenever a certain sentence is told."""

    def __init__(self, words, task):
        super().__init__()
        self.words, self.task, self.told = words, task, []

    def emit(self, record):
        if self.words in record.getMessage():
            self.told.append(record.getMessage())
            self.task()


def test_the_end_waits_for_uploads_and_says_for_what(server, folder, monkeypatch, caplog):
    """The server takes nothing until it has been told three times what is waited for."""
    monkeypatch.setattr(artifacts, "_SHOW_AFTER_S", 0.01)
    monkeypatch.setattr(artifacts, "_SHOW_EVERY_S", 0.01)
    server.gate.clear()
    run = Run(server, folder)
    num_bytes = sum(run.save(number).num_bytes for number in range(2))
    line = AtEach("are still to be uploaded", lambda: server.gate.set() if len(line.told) == 3 else None)
    artifacts.log.addHandler(line)
    caplog.set_level("INFO")
    try:
        run.end(limit_s=600.0)
    finally:
        artifacts.log.removeHandler(line)
    assert len(line.told) >= 3
    assert line.told[0].startswith(f"W&B: {size(num_bytes)} are still to be uploaded; ")
    assert set(server.named()) == {name(0), name(1)}
    assert {"latest", "final"} <= server.named()[name(1)]
    assert "does not have all" not in caplog.text


def test_no_more_waits_than_the_queue_may_hold(server, folder, caplog):
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


def test_nothing_is_left_where_temporary_files_are(server, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(Server, "log_artifact", lambda self, artifact, aliases: made.append(artifact) or 1 / 0)
    made = []
    run = Run(server, folder)
    run.save(0)
    run.end(finished=False)
    assert artifacts.NOTE in made[0].manifest.entries
    assert list((tmp_path / "temporary").iterdir()) == list((folder.parent / "wandb").glob("tmp*")) == []


def test_an_unexpected_error_does_not_end_the_tracker(server, folder, caplog, monkeypatch):
    run = Run(server, folder)
    monkeypatch.setattr(server, "log_artifact", lambda *args, **kwargs: 1 / 0)
    run.save(0)
    run.tracker.pruned([name(5)])
    run.end(finished=False, limit_s=60)
    assert caplog.text.count("division by zero") == 1


READS = {"read", "readall", "readinto", "read1", "pread", "sendfile", "copy_file_range", "connect", "send", "recv"}


class Watch:
    """On which threads W&B's code ran, and on which a file was read or its bytes were hashed."""

    def __init__(self, monkeypatch):
        self.wandb, self.bytes = set[str](), set[str]()
        package = str(Path(artifacts.wandb.__file__).parent)

        def see(frame, event, what):
            if event == "call" and frame.f_code.co_filename.startswith(package):
                self.wandb.add(threading.current_thread().name)
            elif event == "c_call" and (what.__name__ in READS or _hashes(what)):
                self.bytes.add(threading.current_thread().name)

        for method in ("log_artifact", "handle"):  # of the made-up W&B: what stands for the client's calls
            monkeypatch.setattr(Server, method, self._as_wandb(getattr(Server, method)))
        for method in ("wait", "save", "delete"):
            monkeypatch.setattr(Version, method, self._as_wandb(getattr(Version, method)))
        self.see = see
        threading.setprofile(see)  # of threads that begin from now on

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
def test_who_commits_calls_nothing_of_wandb_and_reads_no_bytes(server, folder, monkeypatch, watching, offline):
    monkeypatch.setattr(server, "offline", offline, raising=False)
    first, *others = [replace(commit(folder, number, position=place(number)), number=number) for number in range(4)]
    watch = Watch(monkeypatch)
    run = Run(server, folder)
    run.tracker.opened([first], {names.LAST: name(0), names.BEST: name(0)})
    sys.setprofile(watch.see)
    for item in others:
        run.tracker.committed(item, {names.LAST: item.name, names.BEST: name(0)})
    run.prune(1)
    sys.setprofile(None)
    run.end()
    here, there = threading.current_thread().name, "wandb-tracker"
    assert here not in watch.wandb | watch.bytes
    assert there in watch.wandb & watch.bytes, "it is seen where it is done"


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """A version that W&B has, whose bytes can be fetched."""
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
    monkeypatch.setattr(artifacts.wandb, "Api", lambda: SimpleNamespace(artifact=lambda named: version))
    return version


@pytest.mark.parametrize(("num_bytes", "num_fetched"), [(None, 1), (0, 1), (100, 1), (-1, 1), (10**6, 0)])
def test_what_a_killed_download_has_left_is_fetched_again(stored, tmp_path, num_bytes, num_fetched):
    if num_bytes is not None:
        (tmp_path / name(0)).write_bytes(stored.content[:num_bytes])
    path, resolved = artifacts.download("e/p/model-r:best", tmp_path)
    assert (path, path.read_bytes(), resolved) == (tmp_path / name(0), stored.content, "e/p/model-r:v3")
    assert len(stored.fetched) == num_fetched


def test_a_version_of_times_when_a_digest_was_of_all_bytes_is_compared_so(stored, tmp_path):
    del stored.metadata["digest"]
    stored.metadata["sha256"] = hashlib.sha256(stored.content).hexdigest()
    path, _ = artifacts.download("e/p/model-r:best", tmp_path)
    assert path.read_bytes() == stored.content
    stored.metadata["sha256"] = "0" * 64
    with pytest.raises(artifacts.ResumeError, match="is not what was saved"):
        artifacts.download("e/p/model-r:best", tmp_path)


@pytest.mark.parametrize(
    ("metadata", "digest"),
    [
        ({"digest": "crc32-sha256:ab"}, "crc32-sha256:ab"),
        ({"sha256": "ab"}, "sha256:ab"),
        ({"name": "no checkpoint"}, ""),
    ],
)
def test_what_a_version_says_of_its_bytes(metadata, digest):
    assert artifacts.digest_of(SimpleNamespace(metadata=metadata)) == digest


def test_what_was_noted_as_pruned_in_those_times_is_known(folder):
    pruned = Pruned(folder)
    (folder / "wandb").mkdir()
    pruned.path.write_text("ab\n")
    pruned.note("crc32-sha256:cd")
    assert pruned.digests() == {"sha256:ab", "crc32-sha256:cd"}


@pytest.mark.parametrize("named", ["../../evil.ckpt", "/tmp/evil.ckpt", "weights.ckpt", "", None])
def test_a_name_that_is_no_checkpoints_is_refused(stored, tmp_path, named):
    stored.metadata["name"] = named
    stored.manifest.entries = {named: SimpleNamespace(ref=None)}
    with pytest.raises(artifacts.ResumeError, match="is no checkpoint of this project"):
        artifacts.download("e/p/model-r:best", tmp_path / "into")
    assert stored.fetched == []


def test_what_a_run_starts_from_is_used(server, folder):
    tracker = WandbTracker(server, Place(folder.parent, folder), Wishes(), uses=["e/p/model-other:step-7"])
    tracker.close(False, 60)
    assert server.used == ["e/p/model-other:step-7"]


def test_metadata(folder):
    item = replace(commit(folder, 4, score=0.5), metrics={"val/loss": 0.5})
    facts = artifacts.metadata(item, Place(folder.parent, folder, {"git_commit": "abc"}))
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
    elsewhere = artifacts.metadata(item, Place(folder.parent / "run", folder))
    assert elsewhere["path"] == str(folder / item.name)
