"""The figures of a run are those of its files, and no file can make reading fail."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import made_runs
from tests.support.cli import cairn
from tests.support.command import QUICK, num_checkpoints, start, train, wait_for
from tests.support.made_runs import BATCH_S, SAVE_BYTES, SAVE_S, STALL_S, WRITE_S, end, run_directory

from cairn.errors import MissingFileError
from cairn.store.catalog import Catalog
from cairn.study import reading

FILES = ["run.json", "config.yaml", "progress.json", "starts.jsonl", "csv/checkpoints.csv", "csv/metrics.csv"]


@pytest.fixture
def run(tmp_path):
    return run_directory(tmp_path / "sweep", 100)


def read(path):
    (run,) = reading.read(path).runs
    return run


# One run


def test_the_figures_are_those_of_its_files(run):
    found, kept = read(run), Catalog(run / "checkpoints").committed()
    assert (found.interval, found.status, found.source) == ("100", "finished", "checkpoints.csv")
    assert found.num_saves == 10
    assert list(found.kept) == kept
    assert found.held_bytes == sum(path.stat().st_size for path in (run / "checkpoints").glob("epoch*.ckpt"))
    assert found.written_bytes == 10 * SAVE_BYTES
    assert (found.stall_s, found.write_s) == (STALL_S, WRITE_S)
    assert found.stalled_s == pytest.approx(10 * STALL_S)
    assert found.elapsed_s == kept[-1].elapsed_s == made_runs.elapsed_s(1000, 100)
    assert found.overhead == pytest.approx(made_runs.row(9, 1000, 100)["overhead"])
    assert found.cost_s == pytest.approx(10 * SAVE_S)
    assert found.save_s == pytest.approx(SAVE_S)
    assert found.total_batches == 1000
    assert found.spacing_batches == 100
    assert found.batch_s == pytest.approx(BATCH_S, rel=0.01)
    assert (found.best, found.monitor) == (0.25, "val/loss")


def test_work_at_risk_is_the_mean_of_what_each_moment_would_lose(run):
    found = read(run)
    whole = [(save.whole_s, save.at_s) for save in found.once]
    moments = [found.elapsed_s * (k + 0.5) / 20_000 for k in range(20_000)]
    lost = [t - max([at for done, at in whole if done <= t], default=0.0) for t in moments]
    assert found.at_risk_s == pytest.approx(sum(lost) / len(lost), rel=0.02)
    assert found.at_risk_s == pytest.approx(found.spacing_s / 2 + WRITE_S, rel=0.05)


def test_training_time_is_interpolated_by_steps(run):
    middle = [save.at_s for save in read(run).once]
    assert middle == sorted(middle)
    assert middle[4] == pytest.approx(made_runs.elapsed_s(500, 100), rel=0.01)


def test_interruptions_have_their_kinds_and_losses(tmp_path):
    ends = [end(370, 300, 100), end(800, 800, 100, "stopped", "SIGTERM"), end(950, 900, 100, "failed", "OSError")]
    found = read(run_directory(tmp_path, 100, ends=ends))
    assert [item.kind for item in found.ends] == ["killed", "announced", "failed"]
    assert [item.lost_batches for item in found.ends] == [70, 0, 50]
    assert found.ends[0].lost_s == pytest.approx(70 * BATCH_S + SAVE_S)
    assert found.lost_s == pytest.approx(120 * BATCH_S + 2 * SAVE_S)
    assert found.trained_s == pytest.approx(found.elapsed_s + found.lost_s)
    assert [item.is_failure for item in found.ends] == [True, False, True]


@pytest.mark.parametrize(
    ("status", "why", "kind"),
    [
        ("running", "", "killed"),
        ("failed", "OSError: no", "failed"),
        ("stopped", "SIGTERM", "announced"),
        ("stopped", "SIGUSR1", "announced"),
        ("stopped", "SIGINT", "planned"),
        ("stopped", "max_time", "planned"),
        ("finished", "", "planned"),
        ("", "", "killed"),
    ],
)
def test_status_and_reason_give_the_kind_of_an_interruption(tmp_path, status, why, kind):
    (found,) = read(run_directory(tmp_path, 100, ends=[end(250, 200, 100, status, why)])).ends
    assert (found.kind, found.why) == (kind, why)


def test_a_stop_on_a_signal_that_lost_work_is_a_failure(tmp_path):
    ends = [end(370, 300, 100, "stopped", "SIGTERM"), end(370, 300, 100, "stopped", "SIGINT")]
    assert [item.is_failure for item in read(run_directory(tmp_path, 100, ends=ends)).ends] == [True, False]


def test_a_repeated_save_was_written_twice_and_counts_once(run):
    path = run / "csv" / "checkpoints.csv"
    again = path.read_text().splitlines()[5]
    path.write_text(path.read_text() + again.replace(str(STALL_S), "9.0") + "\n")
    found = read(run)
    assert (found.num_saves, found.written_bytes) == (10, 11 * SAVE_BYTES)
    assert found.stalled_s == pytest.approx(9 * STALL_S + 9.0)


def test_without_the_csv_file_the_manifests_are_used(run):
    (run / "csv" / "checkpoints.csv").unlink()
    found, kept = read(run), Catalog(run / "checkpoints").committed()
    assert found.source == "manifests"
    assert found.num_saves == kept[-1].number + 1 == 10
    assert found.overhead == kept[-1].overhead
    assert (found.cost_s, found.save_s) == (pytest.approx(9 * SAVE_S), pytest.approx(SAVE_S))
    assert (found.written_bytes, found.at_risk_s) == (None, None)


def test_an_old_run_without_progress_and_attempts_can_be_read(run):
    (run / "progress.json").unlink()
    (run / "starts.jsonl").unlink()
    found = read(run)
    assert (found.ends, found.lost_s) == (None, None)
    assert found.elapsed_s == found.kept[-1].elapsed_s


def test_a_killed_run_has_unsaved_work(run):
    progress = {"total_batches": 1030, "step": 1030, "elapsed_s": made_runs.elapsed_s(1030, 100)}
    (run / "progress.json").write_text(json.dumps(progress))
    found = read(run)
    assert found.unsaved_s == pytest.approx(30 * BATCH_S + SAVE_S)
    assert found.total_batches == 1030


def test_a_run_without_saves_has_no_figures_of_saves(run):
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "csv")
    found = read(run)
    assert (found.source, found.num_saves, found.held_bytes, found.skipped) == ("", 0, 0, 0)
    assert (found.stall_s, found.cost_s, found.spacing_s, found.best) == (None, None, None, None)
    assert found.at_risk_s == pytest.approx(found.elapsed_s / 2)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_value_follows_the_mode_of_the_run(run, mode):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("mode: min", f"mode: {mode}"))
    assert read(run).best == {"min": 0.25, "max": 0.5}[mode]


@pytest.mark.parametrize(
    ("group", "shown"),
    [
        ("save_interval: 2h", "2h"),
        ("save_interval: auto", "auto"),
        ("triggers: {best: {}, end: {}, signal: {}}", "best"),
        ("triggers: {}", "none"),
    ],
)
def test_the_interval_is_that_of_the_configuration(run, group, shown):
    (run / "config.yaml").write_text(f"checkpoint: {{{group}, dirpath: x}}\npaths: {{output_dir: {run.parent}}}\n")
    assert read(run).interval == shown


# Damage


@pytest.mark.parametrize("name", FILES[1:])
def test_each_file_may_be_missing(run, name):
    (run / name).unlink()
    assert read(run).path == run


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just("1e999"),
)
KEYS = ["before", "begins", "elapsed_s", "total_batches", "status", "step", "overrides", "checkpoint", "mode", "why"]
LINES = st.lists(st.dictionaries(st.sampled_from(KEYS), ODD | st.dictionaries(st.sampled_from(KEYS), ODD)), max_size=3)
BYTES = st.one_of(
    st.binary(max_size=60),
    LINES.map(lambda lines: "\n".join(map(json.dumps, lines)).encode()),
    st.just(b"step,stall_s,write_s,bytes,overhead\n1,nan,1,1,1\n2,0,0,0,-1\n3,1,1,1\n4,1,1,1,inf,9,9\n\x00,,"),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return run_directory(tmp_path_factory.mktemp("fuzz"), 100, ends=[end(370, 300, 100)])


@given(st.dictionaries(st.sampled_from(FILES), BYTES | st.integers(0, 300)))
def test_reading_never_fails_whatever_the_files_hold(shared, damages):
    """`damages` maps files to new contents, or to the length that they are cut to."""
    before = {name: (shared / name).read_bytes() for name in damages}
    try:
        for name, damage in damages.items():
            (shared / name).write_bytes(before[name][:damage] if isinstance(damage, int) else damage)
        found = read(shared)
        facts = ("cost_s", "batch_s", "spacing_s", "at_risk_s", "lost_s", "unsaved_s", "stall_s", "written_bytes")
        assert all(value is None or value >= 0 for value in (getattr(found, name) for name in facts))
    finally:
        for name, data in before.items():
            (shared / name).write_bytes(data)


@pytest.mark.parametrize("name", ["run.json", "progress.json", "starts.jsonl"])
def test_a_file_may_be_nested_too_deeply_for_json(run, name):
    (run / name).write_text("[" * 100_000)
    assert read(run).num_saves == 10


@pytest.mark.parametrize("odd", ["x", None, [], {}])
@pytest.mark.parametrize("name", ["elapsed_s", "stall_s", "overhead", "metrics", "number"])
def test_a_manifest_without_a_checksum_may_hold_any_value(run, name, odd):
    for path in (run / "checkpoints").glob("*.json"):
        fields = {**json.loads(path.read_text()), name: odd}
        del fields["checksum"]
        path.write_text(json.dumps(fields))
    found = read(run)
    assert found.num_saves == 10


# Several runs


def test_the_shortest_interval_comes_first(tmp_path):
    for interval in (200, 50, 1000):
        run_directory(tmp_path, interval)
    found = reading.read(tmp_path)
    assert found.labels == ("50", "200", "1000")
    assert found.varied == ("checkpoint.save_interval",)


def test_a_label_names_what_else_was_varied(tmp_path):
    overrides = ["checkpoint.save_interval=50", "model.lr=0.1"]
    run_directory(tmp_path, 50, overrides=overrides)
    run_directory(tmp_path, 200, overrides=["checkpoint.save_interval=200", "model.lr=0.2"])
    assert reading.read(tmp_path).labels == ("50, lr=0.1", "200, lr=0.2")


def test_runs_with_the_same_overrides_have_different_labels(tmp_path):
    run_directory(tmp_path / "a", 50)
    (tmp_path / "a" / "checkpoint.save_interval=50,checkpoint=interval").rename(tmp_path / "a" / "first")
    run_directory(tmp_path / "a", 50)
    assert sorted(reading.read(tmp_path).labels) == [
        "50 (checkpoint.save_interval=50,checkpoint=interval)",
        "50 (first)",
    ]


def test_a_run_is_a_sweep_of_one(run):
    assert reading.read(run).labels == ("100",)


@pytest.mark.parametrize(
    ("name", "message"), [("gone", "does not exist"), ("file", "is a file"), (".", "There is no run")]
)
def test_a_name_that_is_not_a_sweep_is_one_sentence(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(MissingFileError, match=message):
        reading.read(tmp_path / name)


def test_latest_is_the_sweep_of_the_newest_run(tmp_path):
    run = run_directory(tmp_path / "logs" / "t" / "multiruns" / "now", 50)
    assert reading.find("latest", tmp_path / "logs") == run
    (run.parent / "multirun.yaml").touch()
    assert reading.find("latest", tmp_path / "logs") == run.parent
    with pytest.raises(MissingFileError, match="no run below"):
        reading.find("latest", tmp_path / "none")


# Real ones


def measured(run):
    """Rows, manifests and losses of a run, read in the simplest way."""
    with open(run / "csv" / "checkpoints.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    manifests = [json.loads(path.read_text()) for path in (run / "checkpoints").glob("*.json")]
    with open(run / "csv" / "metrics.csv", newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    return rows, sorted(manifests, key=lambda item: item["number"]), losses


@pytest.mark.slow
def test_the_report_of_a_real_sweep_has_the_figures_of_its_files(tmp_path, capsys):
    group = ["checkpoint=interval", "checkpoint.save_interval=5,10,20", "trainer.max_epochs=2"]
    train(None, "-m", *QUICK, *group, f"hydra.sweep.dir={tmp_path}/sweep")
    cairn("report", tmp_path / "sweep", "--json")
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [item["label"] for item in found] == ["5", "10", "20"]
    for item, num_saves in zip(found, (8, 4, 2), strict=True):
        rows, manifests, losses = measured(Path(item["run"]))
        assert item["num_saves"] == num_saves == len(rows) == manifests[-1]["number"] + 1
        assert item["written_bytes"] == sum(int(row["bytes"]) for row in rows)
        assert item["held_bytes"] == sum(manifest["num_bytes"] for manifest in manifests)
        assert item["stalled_s"] == pytest.approx(sum(float(row["stall_s"]) for row in rows))
        assert item["overhead"] == float(rows[-1]["overhead"])
        assert item["total_batches"] == manifests[-1]["position"]["total_batches"] == 40
        assert item["elapsed_s"] >= manifests[-1]["elapsed_s"]
        assert item["best"] == min(losses)
        assert 0 < item["at_risk_s"] < item["elapsed_s"]
    assert len({item["best"] for item in found}) == 1, "saving changes nothing that is learned"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_the_cost_of_a_real_kill_is_reported(tmp_path, capsys):
    run, settings = tmp_path / "run", [*QUICK, "checkpoint=interval", "checkpoint.save_interval=7"]
    process = start(run, *settings, "trainer.max_epochs=200")
    assert wait_for(lambda: num_checkpoints(run) == 2, process)
    process.kill()
    reached = json.loads((run / "progress.json").read_text())
    saved = Catalog(run / "checkpoints").committed()[-1]
    train(run, *settings, f"trainer.max_epochs={saved.position.epoch + 2}")
    cairn("report", run, "--json")
    found = json.loads(capsys.readouterr().out)
    (killed,) = found["runs"][0]["ends"]
    assert (killed["kind"], found["failures"]["killed"]) == ("killed", 1)
    assert (killed["reached_batches"], killed["reached_s"]) == (reached["total_batches"], reached["elapsed_s"])
    assert (killed["resumed_batches"], killed["resumed_s"]) == (saved.position.total_batches, saved.elapsed_s)
    assert killed["lost_s"] == max(0.0, reached["elapsed_s"] - saved.elapsed_s)
    assert found["mtbf_s"] == pytest.approx(found["runs"][0]["elapsed_s"] + killed["lost_s"])
