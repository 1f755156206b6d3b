"""Reports of a stored benchmark (RESULTS.md, the plot, the terminal), and the whole command on a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import results
from benchmarks.__main__ import main, repeat_command
from tests.benchmarks.test_figures import run
from tests.support.paths import ENGINE, PYTHONPATH, ROOT

MACHINE = {
    "date": "2001-02-03",
    "cpu": "A Processor",
    "cores": 2,
    "memory_gb": 8,
    "virtual": True,
    "kernel": "6.1",
    "file_system": "ext4",
    "python": "3.11",
    "device": "cpu",
    "torch": "2",
    "lightning": "2",
    "numpy": "2",
    "hydra-core": "1",
}
FLOORS = {"size": "0.5", "round": 0, "state_bytes": 70, "num_tensors": 9, "copy_s": [0.1], "write_s": [0.5]}


@pytest.fixture
def raw():
    """A benchmark of one round with a contender that does not run."""
    runs = [run("none", finished=()), run("model-checkpoint", 2.0), run("async-save", error="no group")]
    return {
        "machine": MACHINE,
        "settings": {"rounds": 1},
        "command": "make bench ARGS='--sizes 0.5'",
        "floors": [FLOORS | {"write_direct_s": None}],
        "runs": [*runs, run("cairn-process", 0.12)],
        "startup": [
            {"what": "first batch", "size": "0.5", "who": "plain", "seconds": [3.0, 4.0, 8.0]},
            {"what": "first batch", "size": "0.5", "who": "cairn", "seconds": []},
        ],
    }


def test_the_page_says_where_it_was_measured_how_to_repeat_it_and_which_bars_are_met(raw):
    page = results.text(raw, "results.png")
    for words in (
        "A Processor",
        "ext4",
        "make bench ARGS='--sizes 0.5'",
        "2001-02-03",
        "![",
        "No fsync at all: ModelCheckpoint",
    ):
        assert words in page
    assert "| median stall | 1.5 x the copy into warm buffers = 150 ms | 120 ms | met |" in page
    assert "does not run: no group" in page
    assert "| first batch | 0.5 GB | 4.00 (3.00 to 8.00) | failed |" in page


@pytest.mark.parametrize(("remarks", "sources"), [("", "the last run"), ("It is so.", "the last run and `remarks.md`")])
def test_the_page_names_the_remarks_where_there_are_some(raw, remarks, sources):
    page = results.text(raw, remarks=remarks)
    assert f"from the figures of {sources}: do not edit." in page
    assert remarks in page


def test_the_page_says_which_cost_is_unavoidable(raw):
    assert "The floor of what a save takes" not in results.text(raw)
    raw["runs"].append(run("bare-write", 0.05))
    assert "The floor of what a save takes: the copy, 100 ms, and 50 ms (50 to 50)" in results.text(raw)
    assert "Together 150 ms, 0.30 W." in results.text(raw)


def test_the_page_says_what_reporting_to_wandb_costs(raw):
    assert "## W&B" not in results.text(raw)
    raw["tracking"] = [{"mode": "server hangs", "seconds": [0.0002, 0.0004, 0.009]}]
    assert "server hangs: 0.40 ms, at worst 9.00." in results.text(raw)


def test_the_page_has_no_name_and_no_path_of_the_machine(raw):
    page = results.text(raw)
    assert not [word for word in (str(ROOT), str(Path.home()), os.uname().nodename) if len(word) > 4 and word in page]


def test_a_stored_benchmark_is_reported_and_written_again(raw, tmp_path, capsys):
    stored, page = tmp_path / "stored.json", tmp_path / "RESULTS.md"
    stored.write_text(json.dumps(raw))
    assert main(["--report", str(stored), "--write-results", "--results", str(page)]) == 0
    assert "ModelCheckpoint" in capsys.readouterr().out
    remarks = results.REMARKS.read_text().strip() if results.REMARKS.exists() else ""
    assert page.read_text() == results.text(raw, "results.png", remarks)
    assert (tmp_path / "results.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "make bench"),
        (["--sizes", "0.5", "--out", "/x", "--dir=/y", "--rounds", "2"], "make bench ARGS='--sizes 0.5 --rounds 2'"),
    ],
)
def test_the_command_to_repeat_it_has_no_folder_of_this_machine(argv, expected):
    assert repeat_command(argv) == expected


@pytest.mark.slow
def test_the_whole_command_on_a_tiny_model(tmp_path):
    options = ["--sizes", "tiny", "--rounds", "1", "--saves", "1", "--pairs", "1", "--factors", "5", "--no-memory"]
    contenders = ["--contenders", "cairn-sync"]  # `none` always takes part: both kinds of command
    command = [sys.executable, "-m", "benchmarks", *options, *contenders, "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    subprocess.run(command, cwd=ENGINE, env=environment, check=True, capture_output=True)
    raw = json.loads((tmp_path / "latest.json").read_text())
    assert {run["job"]["contender"]: run["error"] for run in raw["runs"]} == {"none": "", "cairn-sync": ""}
    assert "Cairn, sync" in results.text(raw)
