"""The notebooks show what is on disk. They are stored executed, small, and without paths of a machine."""

from __future__ import annotations

import base64
import csv
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tests.support.command import QUICK, train
from tests.support.made_runs import end, run_directory
from tests.support.paths import ENGINE, PYTHONPATH, ROOT

from cairn.policy.keep import best_of
from cairn.store.catalog import Catalog
from cairn.study import choice, reading, words

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
INSPECT = ROOT / "notebooks" / "inspect_run.ipynb"
SWEEP = ROOT / "notebooks" / "sweep_save_interval.ipynb"
ASK = "import cairn\nprint(sys.executable, cairn.__file__, *([num_wrong, len(labels)] if on_digits else []))"
ABSOLUTE = re.compile(r"(?<![\w./\])}])(/[A-Za-z][\w.-]*/|/(home|root|tmp|Users)\b|[A-Z]:\\)|file://")
TEXT = [
    "experiment=gpt",
    "model.net.num_layers=1",
    "model.net.embed_dim=32",
    "data.seq_len=32",
    "data.files=configs/**/*.yaml",
    "trainer.max_steps=10",
]


def execute(notebook: Any, start_in: Path, files: Path) -> None:
    """Run all cells in a kernel of this Python and this clone; the kernel's own files go to `files`."""
    native = KernelSpecManager(
        kernel_dirs=[]
    )  # a registered kernel `python3` may be another Python than sys.executable
    kernel = AsyncKernelManager(kernel_spec_manager=native, connection_file=str(files / "kernel.json"))
    client = NotebookClient(notebook, km=kernel, timeout=60, resources={"metadata": {"path": str(start_in)}})
    mine = {"PYTHONPATH": PYTHONPATH, "IPYTHONDIR": str(files / "ipython"), "OMP_NUM_THREADS": "1"}
    client.execute(env={**os.environ, **mine}, cleanup_kc=True)


def inspect(run: Path, start_in: Path, files: Path) -> dict[str, Any]:
    """Return the cells of inspect_run by their ids, executed for a run; `ask` prints the Python that did it."""
    return executed(INSPECT, f"RUN = {str(run)!r}", start_in, files, nbformat.v4.new_code_cell(ASK, id="ask"))


def executed(path: Path, parameters: str, start_in: Path, files: Path, *more: Any) -> dict[str, Any]:
    """Return the cells of a notebook by their ids, executed with these parameters."""
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = parameters
    notebook.cells.extend(more)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    execute(notebook, start_in, files)
    assert all(cell.execution_count for cell in code_cells(notebook))
    return {cell.id: cell for cell in notebook.cells}


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell: Any) -> list[bytes]:
    return [base64.b64decode(out.data["image/png"]) for out in cell.outputs if "image/png" in out.get("data", {})]


def printed(cell: Any) -> str:
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def table(cell: Any) -> list[list[str]]:
    """Return the rows of the Markdown table that a cell shows, without its header."""
    (shown,) = (out.data["text/markdown"] for out in cell.outputs)
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    return [[word.strip(" `") for word in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.slow
def test_a_run_on_digits_is_shown_as_it_is_on_disk(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *QUICK, "trainer.max_epochs=4", "checkpoint.save_interval=15", "checkpoint.keep_last=4")
    cells = inspect(run, ROOT / "notebooks", tmp_path)

    saved = Catalog(run / "checkpoints").committed()
    best = best_of(saved, "min")
    assert best is not None
    assert best is not saved[0], "the best checkpoint must not be the first one"
    shown = table(cells["kept"])
    assert [row[:4] for row in shown] == [
        [
            item.name,
            str(item.position.step),
            ", ".join(item.reasons),
            "" if item.score is None else f"{item.score:.4g}",
        ]
        for item in saved
    ]
    assert [row[0] for row in shown if "best" in row[-1]] == [best.name]
    assert [row[0] for row in shown if "last" in row[-1]] == [saved[-1].name]

    assert [len(pictures(cells[name])) for name in ("curves", "digits", "hardest")] == [1, 1, 1]
    assert "| run | status |" in cells["runs"].outputs[0].data["text/markdown"]
    python, package, num_wrong, num_images = printed(cells["ask"]).split()
    assert (Path(python), Path(package).parents[1]) == (Path(sys.executable), ENGINE / "src")
    with open(run / "csv" / "metrics.csv", newline="") as file:
        accuracy = float(list(csv.DictReader(file))[-1]["test/acc"])
    assert 1 - int(num_wrong) / int(num_images) == pytest.approx(accuracy)


@pytest.mark.slow
def test_a_run_on_other_data_has_a_sentence_instead_of_pictures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *QUICK, *TEXT, f"checkpoint.dirpath={tmp_path}/elsewhere")
    cells = inspect(run, ROOT, tmp_path)
    assert [row[0] for row in table(cells["kept"])] == [
        item.name for item in Catalog(tmp_path / "elsewhere").committed()
    ]
    assert len(pictures(cells["curves"])) == 1
    assert "This run is on Text, not on digits" in printed(cells["digits"])
    assert cells["hardest"].outputs == []


@pytest.mark.slow
def test_without_a_run_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    """A fresh clone has no latest run."""
    (tmp_path / "notebooks").mkdir()
    shutil.copy(INSPECT, tmp_path / "notebooks")
    notebook = nbformat.read(INSPECT, as_version=4)
    with pytest.raises(CellExecutionError, match=r"no such run\. Train one first: python train\.py"):
        execute(notebook, tmp_path / "notebooks", tmp_path)


@pytest.mark.slow
def test_a_sweep_is_shown_as_in_the_report(tmp_path: Path) -> None:
    run_directory(tmp_path / "sweep", 100, ends=[end(370, 300, 100)])
    run_directory(tmp_path / "sweep", 400)
    cells = executed(SWEEP, f"SWEEP, MTBF = {str(tmp_path / 'sweep')!r}, None", ROOT / "notebooks", tmp_path)
    study = choice.study(reading.read(tmp_path / "sweep"))
    assert table(cells["runs"]) == words.rows(study)
    assert table(cells["choice"]) == words.advice_rows(study)
    assert study.cost is not None
    assert printed(cells["cost"]).startswith(f"10 saves: d = {1000 * study.cost.save_s:.3g} ms")
    assert "M = " in printed(cells["failures"])
    assert [len(pictures(cells[name])) for name in ("bars", "failures", "curve")] == [1, 1, 1]
    (shown,) = (out.data["text/markdown"] for out in cells["words"].outputs)
    assert shown.splitlines() == [f"- {text}" for text in [*words.conclusion(study), *words.notes(study)]]


@pytest.mark.slow
def test_a_single_real_run_is_a_sweep_of_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, *QUICK, "checkpoint=interval", "checkpoint.save_interval=5", "trainer.max_epochs=2", "test=false")
    cells = executed(SWEEP, f"SWEEP, MTBF = {str(run)!r}, 8", ROOT, tmp_path)
    ((interval, num_saves, *_),) = table(cells["runs"])
    assert (interval, num_saves) == ("5", "8")
    assert printed(cells["failures"]).splitlines()[-1] == "M = 8 h, given"
    assert [len(pictures(cells[name])) for name in ("bars", "failures", "curve")] == [1, 0, 1]


@pytest.mark.slow
def test_without_a_sweep_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    shutil.copy(SWEEP, tmp_path / "notebooks")
    notebook = nbformat.read(SWEEP, as_version=4)
    with pytest.raises(CellExecutionError, match=r"A sweep: python train\.py experiment=save_interval_sweep"):
        execute(notebook, tmp_path / "notebooks", tmp_path)


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a notebook except the encoded pictures."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if not name.startswith("image/"):
                yield from texts(item)


def test_there_are_notebooks() -> None:
    assert {INSPECT, SWEEP} == set(NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_is_stored_with_the_outputs_of_one_complete_execution(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"] == []
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_has_no_paths_of_the_machine_that_executed_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert [text for text in texts(notebook) if ABSOLUTE.search(text)] == []
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("run /home/ada/logs", True),
        ("'/tmp'", True),
        ("in:/srv/x", True),
        ("(/data/x.csv", True),
        ("/Users/ada", True),
        (r"C:\Users", True),
        ("file://x", True),
        ("logs/train/runs/x, train/loss and ../src", False),
        ("https://lightning.ai/docs/x", False),
        (r"^(train|val)[/_]a/", False),
    ],
)
def test_the_guard_sees_absolute_paths(text: str, found: bool) -> None:
    assert bool(ABSOLUTE.search(text)) is found
