"""FIFOs, devices, sockets, directories, links and huge files in place of the files of a run: no hang, no harm."""

import contextlib
import io
import os
import signal
import socket

import pytest
from tests.support.cli import stopped_run
from tests.support.values import at, commit, moment, saved, small_file

from cairn import opening
from cairn.account.progress import ProgressFile
from cairn.cli import main
from cairn.errors import CairnError, ConfigError
from cairn.hydra.command_line import CheckRunDirectory
from cairn.jobs.rendezvous import Rank, Rendezvous
from cairn.lightning.logs.csv_logger import CSVLogger
from cairn.run import terminal
from cairn.run.directory import RunDirectory
from cairn.store import claim, disk, hangs, journal, links, names
from cairn.store.catalog import Catalog
from cairn.store.hangs import Hang
from cairn.study import reading
from cairn.trackers.deleted import Deleted
from cairn.trackers.lines import Lines
from cairn.uploads.outbox import Outbox
from cairn.writing.load import load, load_weights

MANIFEST = "checkpoints/epoch_000_batch_000002.json"
CHECKPOINT = "checkpoints/epoch_000_batch_000002.ckpt"
READ = [
    *(MANIFEST, CHECKPOINT, "checkpoints/last.ckpt", "checkpoints/best.ckpt", "run.json", "config.yaml"),
    *("progress.json", "starts.jsonl", ".submitit/jobs.jsonl", "csv/metrics.csv", "csv/checkpoints.csv"),
    *(f"checkpoints/{hangs.NAME}", f"checkpoints/{names.CLAIM}"),
]
COMMANDS = [
    *(["ls"], ["ls", "--json"], ["verify"], ["prune", "--json"], ["status"], ["status", "--json"]),
    ["report", "--json"],
]


def fifo(path, outside):
    os.mkfifo(path)


def link_to_a_device(path, outside):
    path.symlink_to("/dev/zero")


def endless_file(path, outside):
    """A file of a terabyte that takes no room on the disk."""
    with open(path, "wb") as file:
        file.truncate(2**40)


def unix_socket(path, outside):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def directory(path, outside):
    path.mkdir()


def link_to_itself(path, outside):
    path.symlink_to(path.name)


def link_to_nothing(path, outside):
    path.symlink_to("nothing")


def link_elsewhere(path, outside):
    path.symlink_to(outside)


KINDS = [
    *(fifo, link_to_a_device, endless_file, unix_socket, directory, link_to_itself, link_to_nothing, link_elsewhere),
]


@pytest.fixture(autouse=True)
def never_for_ever():
    """Fail instead of waiting for ever. No result depends on the time."""

    def late(*_):
        raise AssertionError("this waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def outside(tmp_path):
    """A file of someone else, which is the same at the end."""
    path = tmp_path / "precious.txt"
    path.write_text("precious\n")
    yield path
    assert path.read_text() == "precious\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return stopped_run(tmp_path / "run")


def cairn(*argv):
    """Run a command; return its exit code and what it has printed."""
    output = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main.main([str(arg) for arg in argv])
    return code, output.buffer.getvalue().decode()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", READ)
def test_every_command_answers_whatever_a_file_is(run, outside, name, kind):
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    kind(path, outside)
    for command, *rest in COMMANDS:
        code, text = cairn(command, run.path, *rest)
        assert code in (0, 1)
        assert "Traceback" not in text
    assert path.is_symlink() or path.exists(), "nothing was deleted without being asked"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_one_file_that_is_something_else_is_one_sentence(run, outside, kind):
    path = run.checkpoints() / "model.ckpt"
    kind(path, outside)
    for command in ("verify", "show"):
        code, text = cairn(command, path)
        assert code == 1
        assert "Traceback" not in text
    for read in (load, load_weights):
        with pytest.raises(CairnError):
            read(path)


@pytest.mark.parametrize("kind", [fifo, unix_socket, link_to_itself], ids=lambda kind: kind.__name__)
def test_the_message_says_what_it_is(tmp_path, outside, kind):
    path = tmp_path / "file"
    kind(path, outside)
    what = {"fifo": "a FIFO", "unix_socket": "a socket", "link_to_itself": "a symbolic link"}[kind.__name__]
    with pytest.raises(OSError, match=f"it is {what}, not a regular file"):
        opening.read_bytes(path)


def test_a_manifest_that_is_something_else_is_not_a_missing_one(run, outside):
    path = run.path / MANIFEST
    path.unlink()
    fifo(path, outside)
    (rejected,) = Catalog(run.checkpoints()).rejected()
    assert rejected.why == "it cannot be read (it is a FIFO, not a regular file)"
    assert rejected.committed, "so that no start takes it for an interrupted save, and deletes it"


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    endless_file(tmp_path / "run.json", None)
    with pytest.raises(OSError, match="1099511627776 bytes, and at most 67108864 are read"):
        opening.read_bytes(tmp_path / "run.json")


def _write_progress(run):
    file = ProgressFile(run.progress_file)
    file.at_boundary(moment(at(1)))
    file.fit_ended()


# Writing

WRITERS = {
    ".lock": lambda run: run.lock(),
    "starts.jsonl": lambda run: journal.append(run.starts_file, {"a": 1}),
    "wandb/pruned.txt": lambda run: Deleted(run.path / "wandb").note("sha256:1"),
    "wandb/history.jsonl": lambda run: Lines(run.path / "wandb" / "history.jsonl").add({"a": 1}),
    "csv/metrics.csv": lambda run: log_a_row(run),
    "csv/checkpoints.csv": lambda run: CSVLogger(run.path / "csv").log_metrics({"checkpoint/a": 1.0}, 1),
    "progress.json": _write_progress,
    ".start.tmp": lambda run: Rendezvous(run.path, Rank(0, 2, "x")).announce({"a": "b"}),
    f"checkpoints/{names.temp_name(saved(9).name)}": lambda run: commit(run.checkpoints(), 9),
    f"checkpoints/{names.temp_name('run.json')}": lambda run: disk.put(run.checkpoints() / "run.json", b"{}"),
    f"checkpoints/{names.PROBE}": lambda run: disk.why_unwritable(run.checkpoints()),
    f"checkpoints/.outbox/{saved(0).name.replace('ckpt', 'json')}": lambda run: Outbox(
        run.checkpoints(), names.OUTBOX
    ).add(saved(0)),
    f"checkpoints/.outbox/{names.temp_name(saved(0).name)}": lambda run: Outbox(run.checkpoints(), names.OUTBOX).add(
        saved(0)
    ),
    f"csv/{names.temp_name('metrics.csv')}": lambda run: log_a_row(run),
    f"checkpoints/{names.LOCK}": lambda run: claim.take(run.checkpoints(), "r1"),
    f"checkpoints/{names.CLAIM}": lambda run: claim.take(run.checkpoints(), "r1"),
    f"checkpoints/{hangs.NAME}": lambda run: hangs.note(run.checkpoints(), Hang("save", at(4), 9.0, 8.0, "")),
    f"checkpoints/{names.temp_name(names.LAST)}": lambda run: links.move(run.checkpoints() / names.LAST, "a.ckpt"),
}


def hold(run):
    Outbox(run.checkpoints(), names.OUTBOX).add(saved(0))


def log_a_row(run):
    logger = CSVLogger(run.path / "csv")
    logger._rows._fresh, logger._rows.file.columns = False, ["a", "step"]
    logger.log_metrics({"a": 1.0}, 1)
    logger.save()
    logger.log_metrics({"b": 1.0}, 2)
    logger.save()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", [link_elsewhere, fifo], ids=lambda kind: kind.__name__)
def test_nothing_is_written_through_a_link_or_into_a_fifo(run, outside, name, kind):
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    kind(path, outside)
    with contextlib.suppress(CairnError, OSError):
        WRITERS[name](run)


def test_a_hard_link_under_a_temporary_name_is_not_emptied(run, outside):
    os.link(outside, run.checkpoints() / names.temp_name(saved(9).name))
    item = commit(run.checkpoints(), 9)
    assert item.name in {found.name for found in Catalog(run.checkpoints()).committed()}


def test_the_lock_of_a_run_is_not_another_file(run, outside):
    (run.path / ".lock").symlink_to(outside)
    with pytest.raises(ConfigError, match="cannot be written: it is a symbolic link"):
        RunDirectory(run.path).lock()


@pytest.mark.parametrize("name", ["train.log", ".hydra/config.yaml", ".hydra"])
def test_a_run_does_not_start_where_hydra_would_write_through_a_link(run, outside, name, capsys):
    from omegaconf import OmegaConf

    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside)
    with pytest.raises(SystemExit):
        CheckRunDirectory().on_run_start(OmegaConf.create({"hydra": {"run": {"dir": str(run.path)}}}))
    assert f"{path} is a link or not a regular file" in capsys.readouterr().err


# Deleting


@pytest.mark.parametrize("name", ["../../precious.ckpt", "/etc/passwd", "epoch_000_batch_000001.ckpt", "..", ""])
def test_a_manifest_that_names_another_file_never_lets_prune_delete_it(run, outside, name):
    precious = outside.with_name("precious.ckpt")
    precious.write_bytes(bytes(small_file(0)))
    path = run.path / MANIFEST
    from tests.store.test_manifest import edited

    path.write_text(edited(name=name))
    there = set(run.checkpoints().iterdir())
    code, _ = cairn("prune", run.path, "--yes", "--keep-last", "9", "--keep-best", "9")
    assert code == 0
    assert precious.exists()
    assert set(run.checkpoints().iterdir()) == there


def test_prune_deletes_nothing_of_another_run_that_a_configuration_names(run, tmp_path):
    other = tmp_path / "other"
    for number in range(3):
        commit(other, number)
    run.config_file.write_text(run.config_file.read_text().replace(str(run.path / "checkpoints"), str(other)))
    code, text = cairn("prune", run.path, "--yes")
    assert code == 1
    assert "holds checkpoints of another run ('toy'): nothing was deleted" in text
    assert len(Catalog(other).committed()) == 3


# Printing


def test_names_cannot_control_the_terminal(run):
    commit(run.checkpoints(), 8, 0.1, metrics={"val/loss": 0.1, "a\x1b[2J\x07\u202eb": 1.0}, reasons=("\x1b]0;t\x07",))
    run.started = True
    run.end("failed", "why\x1b[31m\x9bm")
    for command in (["ls", run.path], ["status", run.path], ["show", run.checkpoints() / "last.ckpt"]):
        _, text = cairn(*command)
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(text)
    _, text = cairn("ls", run.path)
    assert r"why\x1b[31m\x9bm" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *(("val/loss", "val/loss"), ("Größe 数\n\tx", "Größe 数\n\tx"), ("👩‍💻", "👩‍💻"), ("a\x1b[2J", r"a\x1b[2J")),
        *(("\x9b", r"\x9b"), ("\u202e", r"\u202e"), ("\ud800", r"\ud800"), ("\r", r"\r"), ("\x00", r"\x00")),
    ],
)
def test_a_text_is_printed_as_it_is_except_what_controls(text, shown):
    assert terminal.printable(text) == shown


def test_a_run_with_odd_files_has_a_report(run, outside):
    for name in ("progress.json", "starts.jsonl"):
        fifo(run.path / name, outside)
    assert len(reading.read_run(run.path).kept) == 4
