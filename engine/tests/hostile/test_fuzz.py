"""Thousands of damaged files, a few thousand for each kind: an answer or one sentence, and never a traceback or a hang.

Everything runs in this process, so that a damage costs a fraction of a millisecond. The seed is fixed: a failure names
the kind and the number of its damage, which `damaged(kind, number)` makes again.
"""

import contextlib
import io
import json
import random
import warnings
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.support import made_searches, mutations
from tests.support.cli import stopped_run
from tests.support.made_searches import search_directory
from tests.support.values import at, moment, small_file

from cairn.account import progress
from cairn.account.progress import ProgressFile
from cairn.cli import ls, main
from cairn.errors import CairnError, CorruptCheckpointError
from cairn.hydra.compose import stored
from cairn.hydra.sweep import result_file
from cairn.jobs.rendezvous import Rank, Rendezvous
from cairn.lightning.logs.metrics_file import MetricsFile
from cairn.run import attempts
from cairn.run.directory import RunDirectory
from cairn.run.ledger import Ledger, SubmittedJob
from cairn.store import claim, file_format, hangs, journal, manifest, names
from cairn.store.catalog import Catalog
from cairn.store.claim import Owner
from cairn.store.hangs import Hang
from cairn.study import reading
from cairn.study.search import page as search_page
from cairn.study.search import plots as search_plots
from cairn.study.search import reading as search_reading
from cairn.study.search import words as search_words
from cairn.trackers.lines import read as read_history
from cairn.types import Position, Saved
from cairn.uploads.outbox import Outbox
from cairn.wandb import notes
from cairn.wandb.sync import read_run

pytestmark = pytest.mark.slow
COUNT = 2000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run with four checkpoints, in a directory that the tests of this module damage and repair."""
    run = stopped_run(tmp_path_factory.mktemp("hostile") / "run")
    attempts.note(run, run.record(), None, "12")
    file = ProgressFile(run.progress_file)
    file.at_boundary(moment(at(4), elapsed_s=1.5, batches_per_epoch=8))
    file.fit_ended()
    hangs.note(run.checkpoints(), Hang("training", at(4), 612.0, 600.0, "2026-11-29T10:00:00+00:00"))
    Ledger(run.path).add([SubmittedJob(".", "local", "99999999", "x")])
    (run.path / "csv").mkdir()
    (run.path / "csv" / "metrics.csv").write_text("epoch,step,val/loss\n0,1,0.5\n0,2,0.4\n")
    (run.path / "csv" / "checkpoints.csv").write_text(
        "step,stall_s,write_s,bytes,overhead,skipped\n1,0.1,0.2,1000,0.01,0\n"
    )
    return run


@contextlib.contextmanager
def damaged(file, content):
    """Put `content` in place of a file for the time of a block."""
    before = file.read_bytes() if file.exists() else None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    try:
        yield
    finally:
        file.unlink() if before is None else file.write_bytes(before)


def command(*argv):
    """Run a command of `cairn`, and check that a terminal can show its output."""
    output = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main.main([str(arg) for arg in argv])
    text = output.buffer.getvalue().decode()
    assert code in (0, 1)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "Traceback" not in text


def each(kind, text, mutate, check, count=COUNT):
    """Check `count` damages of a text."""
    for number in range(count):
        content = mutate(text, random.Random(f"{kind} {number}"))
        try:
            check(content)
        except Exception as error:
            raise AssertionError(f"{kind} {number}: {content[:300]!r}") from error


def unsigned(text):
    """Return the text of a manifest without its checksum, as the first ones were: nothing but the types protects it."""
    content = json.loads(text)
    del content["checksum"]
    return json.dumps(content)


@pytest.mark.parametrize("signed", [True, False])
def test_a_manifest_is_a_checkpoint_or_corrupt(place, signed):
    file = Catalog(place.checkpoints()).directory / "epoch_000_batch_000002.json"
    text = file.read_text() if signed else unsigned(file.read_text())

    def check(content):
        try:
            found = manifest.load(content)
        except CairnError:
            return
        assert isinstance(found, Saved)
        assert all(type(value) is int and value >= 0 for value in vars(found.position).values())
        assert manifest.load(manifest.dump(found, {})) == found or found.score != found.score or found.metrics

    each("manifest", text, mutations.json_text, check)


@pytest.mark.parametrize("argv", [["ls"], ["ls", "--json"], ["prune", "--json"], ["verify"], ["status"]])
def test_the_commands_answer_about_a_damaged_manifest(place, argv):
    file = place.checkpoints() / "epoch_000_batch_000002.json"
    name, *rest = argv

    def check(content):
        with damaged(file, content):
            command(name, place.path, *rest)

    each(f"ls {argv}", unsigned(file.read_text()), mutations.json_text, check, count=150)


def test_a_search_is_reported_or_refused(tmp_path):
    file = search_directory(tmp_path, made_searches.record(5, (1, 3), eta=2)) / "sweep.json"
    drawn = []

    def check(content):
        with damaged(file, content):
            command("report", tmp_path, "--json")
            with contextlib.suppress(CairnError):
                study = search_reading.read(tmp_path)
                search_page.page(study, []).encode()
                json.dumps(search_words.figures(study), allow_nan=False)
                if len(drawn) < 3:  # drawing takes seconds
                    drawn.append([item.figure.canvas.draw() for item in search_plots.pictures(study)])

    warnings.filterwarnings("ignore", "Glyph .* missing from font")
    each("search", file.read_text(), mutations.json_text, check, count=300)
    assert len(drawn) == 3


@pytest.mark.parametrize("name", ["run.json", "progress.json", "starts.jsonl", ".submitit/jobs.jsonl"])
def test_a_record_is_read_or_refused(place, name):
    file = place.path / name

    def check(content):
        with damaged(file, content):
            with contextlib.suppress(CairnError):
                place.record()
            progress.read(place.progress_file)
            attempts.read(place)
            attempts.num_starts(attempts.read(place))
            Ledger(place.path).newest()

    each(name, file.read_text(), mutations.json_text, check)
    each(name, file.read_text(), mutations.json_text, lambda content: _status(place, file, content), count=100)


def _status(place, file, content):
    commands = (["status"], ["ls"], ["report", "--json"], ["prune", "--json"], ["ls", "--json"], ["status", "--json"])
    with damaged(file, content):
        name, *rest = commands[sum(content) % len(commands)]
        command(name, place.path, *rest)


def test_a_configuration_is_read_or_refused(place):
    file = place.config_file
    text = file.read_text().replace("{", "\n  ").replace(", ", "\n  ").replace("}", "") + (
        "trainer:\n  max_epochs: 4\n  max_steps: -1\nlogger:\n  wandb:\n    _target_: cairn.wandb.WandbLogger\n"
        "    tags: [a]\n    project: p\nseed: 1\nmodel:\n  _target_: torch.nn.Linear\n  lr: 1e-3\n"
    )

    def check(content):
        with damaged(file, content):
            with contextlib.suppress(CairnError):
                place.checkpoints()
            with contextlib.suppress(CairnError):
                read_run(place.path)

    each("config.yaml", text, mutations.yaml_text, check)
    each("config.yaml", text, mutations.yaml_text, lambda content: _status(place, file, content), count=600)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", ["config", "hydra", "overrides"])
def test_the_files_of_hydra_are_optional(place, name):
    file = place.path / ".hydra" / f"{name}.yaml"
    text = "hydra:\n  job:\n    chdir: false\n    config_name: train\n  runtime:\n    choices:\n      model: cnn\n"

    def check(content):
        with damaged(file, content):
            stored.working_directory(place)
            stored.config_name(place)
            stored._choices(place, SimpleNamespace(overrides=("a=1",)))
            stored._composed_file(place)

    each(name, text, mutations.yaml_text, check, count=700)


def test_a_checkpoint_that_is_called_intact_is_the_one_that_was_saved(tmp_path):
    data = bytes(small_file(7))
    file = tmp_path / "a.ckpt"
    file.write_bytes(data)
    expected = torch.load(file, weights_only=True)

    def check(content):
        file.write_bytes(content)
        try:
            file_format.read(file)
        except (CorruptCheckpointError, OSError):
            return
        for mapped in (True, False):
            found = torch.load(file, weights_only=True, mmap=mapped)
            assert found.keys() == expected.keys()
            assert torch.equal(found["state_dict"]["weight"], expected["state_dict"]["weight"])
            assert found["number"] == expected["number"]

    each("checkpoint", data, mutations.raw, check)
    start = data.index(b"PK\1\2")  # the directory, where no checksum looks: every bit
    for bit in range(8 * start, 8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        check(bytes(changed))


def test_the_rows_of_a_table_are_read_or_left_out(place):
    for name in ("metrics.csv", "checkpoints.csv"):
        file = place.path / "csv" / name

        def check(content, file=file):
            with damaged(file, content):
                reading.read_run(place.path)
                if file.name == "metrics.csv":
                    with contextlib.suppress(OSError), warnings.catch_warnings(action="ignore"):  # of lost rows
                        MetricsFile(file).cut({"rows": 2, "columns": ["epoch", "step", "val/loss"]})

        each(name, file.read_bytes(), mutations.raw, check, count=500)


def test_the_notes_about_wandb_are_read_or_left_out(place):
    record = json.dumps({"name": "a", "facts": {"git": "x", "n": [1, 2.5]}})
    row = json.dumps({"trainer/global_step": 3, "val/loss": 0.5, "_timestamp": 1.5}) + "\n"
    for name, text in (("run.json", record), ("history.jsonl", row * 3)):
        file = place.path / "wandb" / name

        def check(content, file=file):
            with damaged(file, content):
                assert isinstance(notes.read(place.path), dict)
                list(read_history(file.parent / "history.jsonl"))

        each(f"wandb {name}", text, _any_json, check, count=1000)


def test_the_record_of_hangs_and_the_claim_are_read_or_left_out(place):
    folder = place.checkpoints()

    def check_hangs(content):
        with damaged(folder / hangs.NAME, content):
            found = hangs.read(folder)
            assert all(str(item) for item in found)
            assert not found or 1 <= hangs.num_in_place(found) <= len(found)

    def check_claim(content):
        with damaged(folder / ".claim", content):
            owner = claim.read(folder)
            assert owner is None or str(owner)

    each("hangs", (folder / hangs.NAME).read_text() * 2, _any_json, check_hangs, count=1000)
    each("claim", json.dumps(asdict(Owner("a", "b", "c"))), mutations.json_text, check_claim, count=1000)


def _any_json(text, generator):
    """Damage the first line of a journal as JSON, or any piece of it."""
    line, _, rest = text.partition("\n")
    return mutations.json_text(line, generator) + f"\n{rest}".encode()


def test_a_note_of_the_outbox_names_only_its_own_checkpoint(tmp_path):
    folder = tmp_path / ".outbox"
    name = "epoch_000_batch_000002"
    text = unsigned(manifest.dump(Saved(f"{name}.ckpt", Position(0, 2), 0, (), None), {}))

    def check(content):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.ckpt").write_bytes(b"x")
        (folder / f"{name}.json").write_bytes(content)
        assert Outbox(tmp_path, names.OUTBOX).held <= {f"{name}.ckpt"}

    each("outbox", text, mutations.json_text, check, count=1000)


def test_what_the_first_process_announces_is_read_or_waited_for(tmp_path):
    notice = Rendezvous(tmp_path, Rank(1, 2, "now"))
    text = json.dumps({"start": "now", "facts": {"config": "/a", "run": "b", "start": None}})

    def check(content):
        notice.path.write_bytes(content)
        try:
            found = notice.wait(patience_s=0.001)
        except TimeoutError:
            return
        assert found is None or all(value is None or isinstance(value, str) for value in found.values())

    notice_poll(check, text)


def notice_poll(check, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cairn.jobs.rendezvous._POLL_S", 0.0005)
        each("start.json", text, mutations.json_text, check, count=1000)


def test_a_result_of_a_job_is_read_without_running_anything(tmp_path):
    import cloudpickle
    from hydra.core.utils import JobReturn, JobStatus

    value = JobReturn(status=JobStatus.COMPLETED, _return_value=0.5, overrides=["a=1"])
    file = tmp_path / "result.pkl"

    def check(content):
        file.write_bytes(content)
        with contextlib.suppress(result_file.Unreadable, OSError):
            outcome, _ = result_file.read(file)
            assert outcome in ("success", "error")

    each("result", cloudpickle.dumps(("success", value)), mutations.raw, check)


def test_lines_of_a_journal_are_read_or_skipped(tmp_path):
    file = tmp_path / "a.jsonl"

    def check(content):
        file.write_bytes(content)
        list(journal.read(file))

    each("journal", json.dumps({"a": [1, {"b": 2}]}) + "\n", mutations.json_text, check)


def test_the_listing_reads_what_it_lists(place):
    assert len(ls.collect(str(place.path)).checkpoints) == 4, "the fuzz leaves the run as it was"
    assert isinstance(RunDirectory(place.path).record().id, str)
